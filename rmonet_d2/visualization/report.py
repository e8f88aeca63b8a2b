"""The report of a training run: one HTML file that needs nothing else, no network and no scripts.

This module collects what a run has to show; the template ``report.html`` lays it out.
"""

import os
import shlex
from collections.abc import Sequence
from typing import Any

from rmonet_d2.utils.errors import MissingFileError
from rmonet_d2.utils.hardware import accelerator
from rmonet_d2.utils.run_log import RunLog, find_results, read_run
from rmonet_d2.visualization.figures import ari_curve, loss_curves
from rmonet_d2.visualization.html_page import data_uri, file_uri, render, write_page
from rmonet_d2.visualization.results_table import headline, paper_results, results_table

MAX_TRAINING_PICTURES = 4
_SHEET_CAPTION = (
    "{name}. Each row is a scene: the image, the boxes with their scores, the component that wins "
    "each pixel, and the reconstruction; then each mask m_k, the component x_k, and below them "
    "what both contribute to the reconstruction."
)


def build_report(
    output_dir: str,
    title: str = "R-MONet: what the run found",
    untrained: str | None = None,
    sheets: Sequence[str] = (),
) -> str:
    """Return the report of a run as HTML text.

    Args:
        output_dir: a training's OUTPUT_DIR. The report names the parts that it lacks.
        title: heading.
        untrained: results of the untrained model, a JSON file or a folder with one; by default
            the folder "untrained" in ``output_dir``. The results of weights that were trained for
            longer are shown too where the folder "shipped" has them.
        sheets: picture sheets (PNG) to show; by default the PNG files in ``output_dir``.

    Raises:
        MissingFileError: the output folder or a named sheet does not exist.
    """
    if not os.path.isdir(output_dir):
        raise MissingFileError(f"output folder {output_dir} does not exist.")
    if lost := [path for path in sheets if not os.path.isfile(path)]:
        raise MissingFileError(f"picture sheet {lost[0]} does not exist.")
    run = read_run(output_dir)
    before = find_results(untrained or os.path.join(output_dir, "untrained"))
    shipped = find_results(os.path.join(output_dir, "shipped"))
    return render(
        "report.html",
        title=title,
        headline=_headline(run),
        results=results_table(run, before, shipped),
        pictures=[
            _sheets(list(sheets) or run.sheets),
            _curves(run, before),
            _training_pictures(run.pictures),
        ],
        run_facts=_facts(run),
        has_config=bool(run.config),
        commands=_commands(run),
    )


def write_report(output_dir: str, file_name: str = "report.html", **options: Any) -> str:
    """Write :func:`build_report` into the output folder and return the file's path."""
    path = os.path.join(output_dir, file_name)
    write_page(path, build_report(output_dir, **options))
    return path


def _section(title: str, pictures: list[dict], missing: str = "") -> dict:
    """A section of pictures, and one line for what it lacks."""
    return {"title": title, "pictures": pictures, "missing": missing}


def _picture(uri: str, caption: str, wide: bool = False) -> dict:
    return {"uri": uri, "caption": caption, "wide": wide}


def _headline(run: RunLog) -> list[tuple[str, str]]:
    cards = headline(run)
    if run.images_seen:
        cards.append((f"{run.images_seen:,}", "images seen"))
    if run.seconds:
        cards.append((_duration(run.seconds), "training"))
    return cards


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _sheets(files: Sequence[str]) -> dict:
    missing = "" if files else "a picture sheet; `rmonet visualize` draws one."
    pictures = [
        _picture(file_uri(path), _SHEET_CAPTION.format(name=os.path.basename(path)), wide=True)
        for path in files
    ]
    return _section("What it finds", pictures, missing)


def _curves(run: RunLog, before: dict) -> dict:
    key = "decomposition/ARI"
    _, paper = paper_results(run)
    ari = ari_curve(run, paper=paper.get(key), untrained=before.get(key))
    losses = loss_curves(run)
    pictures, missing = [], []
    if ari:
        pictures.append(_picture(data_uri(ari), "Foreground ARI on the test scenes."))
    elif not run.config or run.has_test_data:
        missing.append("evaluations during training (TEST.EVAL_PERIOD sets how often)")
    if losses:
        caption = "Training losses, each multiplied by its weight (Eq. 3)."
        pictures.append(_picture(data_uri(losses), caption))
    else:
        missing.append("training losses")
    note = f"{' and '.join(missing)} in metrics.json." if missing else ""
    return _section("How it learned", pictures, note)


def _training_pictures(files: Sequence[str]) -> dict:
    """First to last, at most MAX_TRAINING_PICTURES, evenly chosen."""
    title = "Pictures from training"
    if not files:
        missing = "pictures from training (VIS_PERIOD sets how often they are drawn)."
        return _section(title, [], missing)
    count = min(MAX_TRAINING_PICTURES, len(files))
    chosen = [files[round(i * (len(files) - 1) / max(count - 1, 1))] for i in range(count)]
    return _section(title, [_picture(file_uri(p), _iteration(p), wide=True) for p in chosen])


def _iteration(path: str) -> str:
    number = os.path.splitext(os.path.basename(path))[0].rsplit("_", 1)[-1]
    return f"Iteration {int(number):,}" if number.isdigit() else os.path.basename(path)


def _facts(run: RunLog) -> list[tuple[str, str]]:
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
        "report made on": accelerator(),
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _learning_rate(solver: dict) -> str | float | None:
    if solver.get("OPTIMIZER") != "RMSpropAdam":
        return solver.get("BASE_LR")
    return f"{solver.get('FG_LR')} foreground, {solver.get('BG_LR')} background"


def _commands(run: RunLog) -> list[tuple[str, str]]:
    """(purpose, command line) of what one may want to do next."""
    folder = run.folder.rstrip("/")
    config = shlex.quote(f"{folder}/config.yaml")
    weights = shlex.quote(f"{folder}/model_final.pth")
    worst = shlex.quote(f"{folder}/worst.png")
    max_iter = run.config.get("SOLVER", {}).get("MAX_ITER")
    longer = f" SOLVER.MAX_ITER {2 * max_iter}" if max_iter else ""
    commands = [
        (
            "Find objects in your own images:",
            f"rmonet discover --weights {weights} --input PHOTOS/ --output found/",
        ),
        (
            "Train longer, from the last checkpoint:",
            f"rmonet train --config-file {config} --resume{longer}",
        ),
        (
            "Look at losses and pictures in TensorBoard:",
            f"tensorboard --logdir {shlex.quote(folder)}",
        ),
    ]
    if run.config and not run.has_test_data:
        return commands
    return [
        *commands,
        (
            "Draw the scenes with the lowest ARI:",
            f"rmonet visualize --config-file {config} --worst \\\n"
            f"    --output {worst} MODEL.WEIGHTS {weights}",
        ),
        (
            "Evaluate again:",
            f"rmonet train --config-file {config} --eval-only MODEL.WEIGHTS {weights}",
        ),
    ]
