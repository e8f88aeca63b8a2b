"""The report of a run: one HTML file that needs nothing else, no network and no scripts."""

import base64
import html
import os
from collections.abc import Sequence

from rmonet_d2.utils.errors import MissingFileError
from rmonet_d2.utils.hardware import accelerator
from rmonet_d2.utils.run_log import RunLog, find_results, read_run
from rmonet_d2.visualization.figures import ari_curve, loss_curves

# Tables 1 and 2, R-MONet(UNet) on M-dSprites; AP as a fraction there, in percent here.
PAPER = {
    "decomposition/ARI": 0.951,
    "bbox/AP": 43.5,
    "bbox/AP50": 83.9,
    "bbox/AP75": 40.7,
}
# Key in the results, name, what it says, decimals.
ROWS = (
    ("decomposition/ARI", "ARI", "foreground pixels in the right objects, at most 1", 3),
    ("decomposition/ARI_all", "ARI, all pixels", "the same with the background", 3),
    ("decomposition/mBO", "mBO", "mean best overlap (IoU) of the true objects", 3),
    ("decomposition/MSE", "MSE", "squared error of the reconstruction, lower is better", 5),
    ("decomposition/consistency", "consistency", "mean IoU of an object's two boxes", 3),
    ("bbox/AP", "box AP", "COCO AP50:95 of the exported boxes, in percent", 1),
    ("bbox/AP50", "box AP50", "boxes with IoU 0.5", 1),
    ("bbox/AP75", "box AP75", "boxes with IoU 0.75", 1),
    ("bbox_proposal/AP", "box AP, RPN", "COCO AP50:95 of the RPN's boxes", 1),
    ("bbox_mask/AP", "box AP, masks", "COCO AP50:95 of the masks' tight boxes", 1),
    ("segm/AP", "mask AP", "COCO AP50:95 of the masks, in percent", 1),
    ("segm/AP50", "mask AP50", "masks with IoU 0.5", 1),
    ("segm/AP75", "mask AP75", "masks with IoU 0.75", 1),
)
MAX_TRAINING_PICTURES = 4
_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f4f5f7; color: #24292f;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 30px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 0 0 12px; }
.lead { color: #57606a; margin: 0 0 24px; max-width: 60em; }
section { background: #fff; border: 1px solid #dfe3e8; border-radius: 10px;
  padding: 20px 24px; margin: 18px 0; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 7px 12px; text-align: left; border-bottom: 1px solid #eaedf0; }
th { font-weight: 600; color: #57606a; font-size: 14px; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.ours { font-weight: 700; color: #1a7f45; } td.note { color: #6e7781; font-size: 14px; }
.cards { display: flex; flex-wrap: wrap; gap: 14px; margin: 18px 0; }
.card { flex: 1 1 150px; background: #fff; border: 1px solid #dfe3e8; border-radius: 10px;
  padding: 14px 18px; }
.card b { display: block; font-size: 27px; color: #1a7f45; line-height: 1.25; }
.card span { color: #57606a; font-size: 14px; }
figure { margin: 0 0 18px; } figcaption { color: #57606a; font-size: 14px; margin-top: 6px; }
img { max-width: 100%; height: auto; display: block; }
pre { background: #f6f8fa; border-radius: 8px; padding: 12px 16px; overflow-x: auto; }
.missing { color: #8a6d1a; background: #fff8e1; border-radius: 6px; padding: 8px 12px; }
"""


def build_report(
    output_dir: str,
    title: str = "R-MONet: what the run found",
    untrained: str | None = None,
    sheets: Sequence[str] = (),
) -> str:
    """The report of a run as HTML text.

    Args:
        output_dir: a training's OUTPUT_DIR. Parts that it lacks are said to be missing.
        title: heading.
        untrained: results of the untrained model, a JSON file or a folder with one; by default
            the folder "untrained" in ``output_dir``. The results of weights that were trained for
            longer are shown too where the folder "shipped" has them.
        sheets: picture sheets (PNG) to show; by default the PNG files in ``output_dir``.

    Raises:
        MissingFileError: no such output folder, or a named sheet that is not there.
    """
    if not os.path.isdir(output_dir):
        raise MissingFileError(f"output folder {output_dir} does not exist.")
    run = read_run(output_dir)
    before = find_results(untrained or os.path.join(output_dir, "untrained"))
    shipped = find_results(os.path.join(output_dir, "shipped"))
    sections = [
        ("Results", _results(run.results, before, shipped)),
        ("What it sees", _sheets(list(sheets) or run.sheets)),
        ("How it learned", _curves(run, before)),
        ("Pictures from training", _training_pictures(run.pictures)),
        ("The run", _facts(run)),
        ("How to go on", _commands(run)),
    ]
    body = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections)
    heading = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{heading}</title><style>{_STYLE}</style></head><body><main><h1>{heading}</h1>"
        '<p class="lead">Objects found without any labels: a network proposes boxes, masks grow '
        "inside them, and the masks in turn teach the boxes. True masks were used for the figures "
        f"below only.</p>{_cards(run)}{body}</main></body></html>\n"
    )


def write_report(output_dir: str, file_name: str = "report.html", **options) -> str:
    """Write :func:`build_report` into the output folder; returns the file's path."""
    path = os.path.join(output_dir, file_name)
    text = build_report(output_dir, **options)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def _missing(text: str) -> str:
    return f'<p class="missing">Not there: {html.escape(text)}</p>'


def _picture(content: bytes, caption: str) -> str:
    caption = html.escape(caption)
    data = base64.b64encode(content).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _cards(run: RunLog) -> str:
    cards = [
        (f"{run.results[key]:.{decimals}f}", name)
        for key, name, _, decimals in ROWS
        if key in ("decomposition/ARI", "bbox/AP50", "segm/AP50") and key in run.results
    ]
    if run.images_seen:
        cards.append((f"{run.images_seen:,}", "images seen"))
    if run.seconds:
        cards.append((_duration(run.seconds), "training"))
    text = "".join(f'<div class="card"><b>{v}</b><span>{name}</span></div>' for v, name in cards)
    return f'<div class="cards">{text}</div>' if cards else ""


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _results(results: dict, before: dict, shipped: dict) -> str:
    if not results:
        return _missing("an evaluation (metrics.json or eval_results.json without results).")
    columns = {"this run": results, "untrained": before, "shipped weights": shipped, "paper": PAPER}
    columns = {name: column for name, column in columns.items() if column or name == "untrained"}
    head = "".join(f'<th class="number">{name}</th>' for name in columns)
    lines = [f"<tr><th></th>{head}<th>what it says</th></tr>"]
    for key, name, note, decimals in ROWS:
        cells = "".join(
            f'<td class="number{" ours" if column is results else ""}">'
            + (f"{column[key]:.{decimals}f}" if key in column else "&ndash;")
            + "</td>"
            for column in columns.values()
        )
        lines.append(f'<tr><td>{name}</td>{cells}<td class="note">{note}</td></tr>')
    scenes = results.get("decomposition/num_images")
    note = f"{scenes:.0f} test scenes. " if scenes else ""
    note += "Paper: R-MONet(UNet) on Multi-dSprites, Tables 1 and 2, long training on a GPU."
    table = f'<table>{"".join(lines)}</table><p class="lead">{note}</p>'
    if not before:
        table += _missing("figures of the untrained model to compare with.")
    return table


def _sheets(files: Sequence[str]) -> str:
    if not files:
        return _missing("a picture sheet; tools/visualize_results.py draws one.")
    caption = (
        "{name}. A row is a scene: the image, the boxes with their scores, the component that wins "
        "each pixel, and the reconstruction; then each mask m_k, the component x_k, and below them "
        "what both add to the picture."
    )
    return "".join(
        _picture(_read(path), caption.format(name=os.path.basename(path))) for path in files
    )


def _curves(run: RunLog, before: dict) -> str:
    key = "decomposition/ARI"
    ari = ari_curve(run, paper=PAPER[key], untrained=before.get(key))
    losses = loss_curves(run)
    parts = [
        _picture(ari, "Foreground ARI on the test scenes.") if ari else "",
        _picture(losses, "Training losses, each with its weight (Eq. 3).") if losses else "",
    ]
    if not ari:
        parts.append(_missing("evaluations in metrics.json (TEST.EVAL_PERIOD sets how often)."))
    if not losses:
        parts.append(_missing("training losses in metrics.json."))
    return "".join(parts)


def _training_pictures(files: Sequence[str]) -> str:
    """First to last, at most MAX_TRAINING_PICTURES, evenly chosen."""
    if not files:
        return _missing("pictures from training (VIS_PERIOD sets how often they are drawn).")
    count = min(MAX_TRAINING_PICTURES, len(files))
    chosen = [files[round(i * (len(files) - 1) / max(count - 1, 1))] for i in range(count)]
    return "".join(_picture(_read(path), _iteration(path)) for path in chosen)


def _iteration(path: str) -> str:
    number = os.path.splitext(os.path.basename(path))[0].rsplit("_", 1)[-1]
    return f"Iteration {int(number):,}" if number.isdigit() else os.path.basename(path)


def _facts(run: RunLog) -> str:
    config = run.config
    model = config.get("MODEL", {})
    components = model.get("SCENE", model.get("RMONET", {})).get("NUM_COMPONENTS")
    facts = {
        "model": model.get("META_ARCHITECTURE"),
        "components K": components,
        "image size": " x ".join(str(s) for s in config.get("INPUT", {}).get("IMAGE_SIZE", ())),
        "trained on": ", ".join(config.get("DATASETS", {}).get("TRAIN", ())),
        "tested on": ", ".join(config.get("DATASETS", {}).get("TEST", ())),
        "iterations": f"{run.iterations:,}" if run.iterations else None,
        "batch size": run.batch_size,
        "images seen": f"{run.images_seen:,}" if run.images_seen else None,
        "time of the training steps": _duration(run.seconds) if run.seconds else None,
        "learning rate": _learning_rate(config.get("SOLVER", {})),
        "seed": config.get("SEED"),
        "this report made on": accelerator(),
    }
    lines = "".join(
        f"<tr><td>{name}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in facts.items()
        if value not in (None, "")
    )
    note = "" if config else _missing("the run's config.yaml.")
    return f"<table>{lines}</table>{note}"


def _learning_rate(solver: dict) -> str | float | None:
    if solver.get("OPTIMIZER") != "RMSpropAdam":
        return solver.get("BASE_LR")
    return f"{solver.get('FG_LR')} foreground, {solver.get('BG_LR')} background"


def _commands(run: RunLog) -> str:
    folder = run.folder.rstrip("/")
    config, weights = f"{folder}/config.yaml", f"{folder}/model_final.pth"
    max_iter = run.config.get("SOLVER", {}).get("MAX_ITER")
    longer = f" SOLVER.MAX_ITER {2 * max_iter}" if max_iter else ""
    commands = [
        (
            "Find objects in your own images:",
            f"python tools/discover.py --weights {weights} --input FOLDER --output found/",
        ),
        (
            "Look at the scenes that went worst:",
            f"python tools/visualize_results.py --config-file {config} --worst \\\n"
            f"    --output {folder}/worst.png MODEL.WEIGHTS {weights}",
        ),
        (
            "Train longer, from the last checkpoint:",
            f"python tools/train_net.py --config-file {config} --resume{longer}",
        ),
        (
            "Evaluate again:",
            f"python tools/train_net.py --config-file {config} --eval-only MODEL.WEIGHTS {weights}",
        ),
        ("Losses and pictures in TensorBoard:", f"tensorboard --logdir {folder}"),
    ]
    return "".join(f"<p>{name}</p><pre>{html.escape(line)}</pre>" for name, line in commands)
