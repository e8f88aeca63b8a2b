"""The table of a report: a run's figures beside the untrained model's and the paper's."""

from dataclasses import dataclass

from rmonet_d2.utils.run_log import RunLog

# Tables 1 and 2, R-MONet (UNet), by data set. AP is a fraction there and in percent here; its
# boxes are those of the RPN.
PAPER = {
    "multi_dsprites": {
        "decomposition/ARI": 0.951,
        "bbox_proposal/AP": 43.5,
        "bbox_proposal/AP50": 83.9,
        "bbox_proposal/AP75": 40.7,
    },
    "clevr": {
        "decomposition/ARI": 0.981,
        "bbox_proposal/AP": 64.5,
        "bbox_proposal/AP50": 96.9,
        "bbox_proposal/AP75": 77.5,
    },
}
_DATASET_TITLES = {"multi_dsprites": "Multi-dSprites", "clevr": "CLEVR"}
# Key in the results, name, meaning, decimals.
ROWS = (
    ("decomposition/ARI", "ARI", "adjusted Rand index of the foreground pixels, at most 1", 3),
    ("decomposition/ARI_all", "ARI, all pixels", "the same with the background", 3),
    ("decomposition/mBO", "mBO", "mean best overlap (IoU) of the true objects", 3),
    ("decomposition/MSE", "MSE", "squared error of the reconstruction, lower is better", 5),
    ("decomposition/consistency", "consistency", "mean IoU of an object's two boxes", 3),
    ("bbox_proposal/AP", "box AP, proposed", "COCO AP50:95 of the model's boxes, percent", 1),
    ("bbox_proposal/AP50", "box AP50, proposed", "at IoU 0.5", 1),
    ("bbox_proposal/AP75", "box AP75, proposed", "at IoU 0.75", 1),
    ("bbox_mask/AP", "box AP, around masks", "COCO AP50:95 of tight boxes, percent", 1),
    ("bbox_mask/AP50", "box AP50, around masks", "at IoU 0.5", 1),
    ("bbox_mask/AP75", "box AP75, around masks", "at IoU 0.75", 1),
    ("bbox/AP", "box AP, returned", "COCO AP50:95, percent; kind of box not recorded", 1),
    ("bbox/AP50", "box AP50, returned", "at IoU 0.5", 1),
    ("bbox/AP75", "box AP75, returned", "at IoU 0.75", 1),
    ("segm/AP", "mask AP", "COCO AP50:95, percent", 1),
    ("segm/AP50", "mask AP50", "at IoU 0.5", 1),
    ("segm/AP75", "mask AP75", "at IoU 0.75", 1),
)
_HEADLINE = ("decomposition/ARI", "bbox_proposal/AP50", "bbox_mask/AP50", "segm/AP50")
# These have no boxes but those around their masks.
_WITHOUT_PROPOSALS = ("MONet", "IODINE")


@dataclass(frozen=True)
class Row:
    """One figure: its name, its meaning, and its value as text in each column."""

    name: str
    note: str
    figures: list[str]


@dataclass(frozen=True)
class ResultsTable:
    """The table, a note below it, and what is missing ("" if nothing is)."""

    columns: list[str]
    rows: list[Row]
    note: str
    missing: str


def paper_results(run: RunLog) -> tuple[str, dict[str, float]]:
    """Title and figures of the paper's data set that a run was tested on; ("", {}) for others."""
    datasets = run.config.get("DATASETS", {})
    names = [*(datasets.get("TEST") or ()), *(datasets.get("TRAIN") or ())]
    found = next((key for key in PAPER if names and str(names[0]).startswith(key)), "")
    return _DATASET_TITLES.get(found, ""), PAPER.get(found, {})


def boxes_by_kind(results: dict[str, float], config: dict) -> dict[str, float]:
    """File the AP of returned boxes under the kind of box that was returned.

    Results name the returned boxes "bbox", which are proposed boxes in one run and the masks' tight
    boxes in another, depending on MODEL.SCENE.BOX_SOURCE. Two runs are comparable only by kind.

    Args:
        results: figures as in ``RunLog.results``.
        config: the config that made them; {} if unknown.

    Returns:
        The figures, without "bbox/..." where the kind of box is known.
    """
    kind = _returned_kind(config)
    if any(key.startswith(("bbox_proposal/", "bbox_mask/")) for key in results):
        return {key: value for key, value in results.items() if not key.startswith("bbox/")}
    return {
        key.replace("bbox/", f"{kind}/", 1) if key.startswith("bbox/") else key: value
        for key, value in results.items()
    }


def _returned_kind(config: dict) -> str:
    model = config.get("MODEL", {})
    if model.get("META_ARCHITECTURE") in _WITHOUT_PROPOSALS:
        return "bbox_mask"
    # Configs of version 0.1.0 have the key in MODEL.RMONET.
    sources = [model.get(name, {}).get("BOX_SOURCE") for name in ("SCENE", "RMONET")]
    source = next((source for source in sources if source), None)
    return f"bbox_{source}" if source else "bbox"


def results_table(
    run: RunLog, untrained: dict[str, float], shipped: dict[str, float]
) -> ResultsTable:
    """Tabulate a run's figures; rows that only the paper could fill are left out.

    Args:
        run: the run.
        untrained: results of the same model before training; {} without.
        shipped: results of shipped weights, which were trained for longer; {} without.
    """
    if not run.results:
        return ResultsTable([], [], "", _why_no_results(run))
    columns = {
        "this run": boxes_by_kind(run.results, run.config),
        "untrained": boxes_by_kind(untrained, run.config),
        "shipped weights": boxes_by_kind(shipped, {}),
    }
    columns = {name: column for name, column in columns.items() if column}
    measured = set().union(*columns.values())
    dataset, paper = paper_results(run)
    if paper:
        columns["paper"] = paper
    rows = [
        Row(name, note, [_figure(column.get(key), decimals) for column in columns.values()])
        for key, name, note, decimals in ROWS
        if key in measured
    ]
    scenes = run.results.get("decomposition/num_images")
    notes = [f"{scenes:.0f} test scenes."] if scenes else []
    if paper:
        notes.append(
            f"Paper: R-MONet (UNet) on {dataset}, Tables 1 and 2, trained for much longer on a GPU."
        )
    missing = "" if untrained else "results of the untrained model to compare with."
    return ResultsTable(list(columns), rows, " ".join(notes), missing)


def headline(run: RunLog) -> list[tuple[str, str]]:
    """(value, name) of the run's most important figures."""
    results = boxes_by_kind(run.results, run.config)
    return [
        (f"{results[key]:.{decimals}f}", name)
        for key, name, _, decimals in ROWS
        if key in _HEADLINE and key in results
    ]


def _why_no_results(run: RunLog) -> str:
    if run.config and not run.has_test_data:
        return (
            "an evaluation, as the config names no test data with annotations (DATASETS.TEST is "
            "empty)."
        )
    return "an evaluation (metrics.json and eval_results.json have no results)."


def _figure(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"
