"""The results of probing as JSON, as a Markdown table and as a figure."""

import json
import os

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rmonet_d2.latents.dci import DCI
from rmonet_d2.latents.objects import ObjectTable
from rmonet_d2.latents.probes import FEATURES, PROBES, Score
from rmonet_d2.utils.tables import table as markdown_table

_COLORS = {"latents": "#1f6fb4", "baseline": "#8a8f98", "shuffled": "#d9a441"}
_PROBE_TITLES = {"linear": "linear", "mlp": "MLP"}
_TITLES = {"latents": "latents", "baseline": "mean color and box", "shuffled": "shuffled labels"}


def results_dict(objects: ObjectTable, scores: list[Score], dci: DCI | None, info: dict) -> dict:
    """All figures, ready for JSON."""
    return {
        **info,
        "objects_found": len(objects.latents),
        "objects_true": objects.num_true,
        "latent_dim": objects.latents.shape[1],
        "scores": [{**vars(s), "mean": s.mean, "std": s.std} for s in scores],
        "dci": dci and {**vars(dci), "importance": np.round(dci.importance, 4).tolist()},
    }


def scores_table(scores: list[Score]) -> str:
    """A row per attribute: mean over the folds, and the standard deviation for the latents."""
    by_key = {(s.target, s.probe, s.features): s for s in scores}
    header = ["attribute", "metric", "objects"]
    header += [f"{_PROBE_TITLES[probe]}: {_TITLES[name]}" for probe in PROBES for name in FEATURES]
    rows = []
    for target in dict.fromkeys(s.target for s in scores):
        first = by_key[target, PROBES[0], FEATURES[0]]
        cells = [target, first.metric, str(first.num_objects)]
        for probe in PROBES:
            for name in FEATURES:
                score = by_key[target, probe, name]
                spread = f" ± {score.std:.3f}" if name == "latents" else ""
                cells.append(f"{score.mean:.3f}{spread}")
        rows.append(cells)
    return markdown_table(header, rows)


def draw_scores(scores: list[Score], path: str) -> None:
    """Bars of all attributes, one panel per probe; the latents beside both controls."""
    targets = list(dict.fromkeys(s.target for s in scores))
    figure = Figure(figsize=(4.6 * len(PROBES), 0.46 * len(targets) + 1.5), layout="constrained")
    FigureCanvasAgg(figure)
    place = np.arange(len(targets))
    for column, probe in enumerate(PROBES):
        axes = figure.add_subplot(1, len(PROBES), column + 1)
        for row, name in enumerate(_TITLES):
            found = {s.target: s for s in scores if (s.probe, s.features) == (probe, name)}
            means = [max(found[t].mean, 0.0) for t in targets]
            axes.barh(
                place + 0.27 * (row - 1),
                means,
                0.25,
                xerr=[found[t].std for t in targets],
                color=_COLORS[name],
                label=_TITLES[name],
            )
        axes.set_yticks(place, targets if column == 0 else [""] * len(targets))
        axes.invert_yaxis()
        axes.set_xlim(0, 1.02)
        axes.set_title(f"{_PROBE_TITLES[probe]} probe", fontsize=10, loc="left")
        axes.set_xlabel("accuracy (classes) or R², 0 where negative", fontsize=9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, frameon=False, ncols=3, loc="outside upper center")
    figure.savefig(path, dpi=110)


def write_results(
    folder: str, objects: ObjectTable, scores: list[Score], dci: DCI | None, info: dict
) -> str:
    """Write probes.json, probes.md and probes.png; return the text of the second."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "probes.json"), "w", encoding="utf-8") as file:
        results = results_dict(objects, scores, dci, info)
        json.dump(results, file, indent=1, ensure_ascii=False)
    lines = [
        f"{len(objects.latents)} of {objects.num_true} true objects were found.",
        scores_table(scores),
    ]
    if dci is not None:
        lines.append(
            f"DCI over {', '.join(dci.factors)}: disentanglement {dci.disentanglement:.3f}, "
            f"completeness {dci.completeness:.3f}, informativeness {dci.informativeness:.3f}."
        )
    text = "\n\n".join(lines) + "\n"
    with open(os.path.join(folder, "probes.md"), "w", encoding="utf-8") as file:
        file.write(text)
    draw_scores(scores, os.path.join(folder, "probes.png"))
    return text
