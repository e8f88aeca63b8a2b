"""The results of a comparison as tables and curves."""

import csv
import io
from dataclasses import dataclass

from rmonet_d2.comparison.systems import System
from rmonet_d2.utils.run_log import RunLog
from rmonet_d2.utils.tables import table

ARI = "decomposition/ARI"
BOX_AP = {"AP50:95": "bbox/AP", "AP50": "bbox/AP50", "AP75": "bbox/AP75"}


@dataclass
class Outcome:
    """The run of one system.

    Attributes:
        system: the system.
        run: contents of its output folder.
        untrained: results of the same config before training, in the form of ``RunLog.results``.
    """

    system: System
    run: RunLog
    untrained: dict[str, float]

    def curve(self) -> list[dict]:
        """Return the foreground ARI over the course of training.

        Returns:
            Dicts of "images" (seen so far), "seconds" (of training steps so far, from the logged
            time per iteration) and "ARI". The first one is the untrained model, if it was
            evaluated.
        """
        batch = self.run.batch_size or 1
        points = []
        if ARI in self.untrained:
            points.append({"images": 0, "seconds": 0.0, "ARI": self.untrained[ARI]})
        seconds, done = 0.0, 0
        for row in self.run.rows:
            now = min(row["iteration"] + 1, self.run.iterations)
            if "time" in row and now > done:
                seconds += row["time"] * (now - done)
                done = now
            if ARI in row:
                points.append({"images": now * batch, "seconds": seconds, "ARI": row[ARI]})
        return points


def ari_table(outcomes: list[Outcome], dataset: str) -> str:
    """Format Table 1 (foreground ARI) with our results beside the paper's, as Markdown."""
    rows = [
        [
            o.system.title,
            _figure(o.run.results.get(ARI)),
            _figure(o.untrained.get(ARI)),
            _figure(o.system.ari.get(dataset)),
            f"{o.run.images_seen or 0:,}",
            f"{(o.run.seconds or 0.0) / 60:.1f}",
        ]
        for o in outcomes
    ]
    return table(["system", "ARI", "untrained", "paper", "images", "minutes of training"], rows)


def box_table(outcomes: list[Outcome], dataset: str) -> str:
    """Format Table 2 (box AP in percent) with our results beside the paper's, as Markdown."""
    header = ["system", *BOX_AP, *(f"{name}, paper" for name in BOX_AP)]
    rows = []
    for o in outcomes:
        paper = o.system.box_ap.get(dataset, (None, None, None))
        ours = [_figure(value, 1) for value in _predicted_box_ap(o.run.results)]
        theirs = [_figure(None if value is None else 100 * value, 1) for value in paper]
        rows.append([o.system.title, *ours, *theirs])
    return table(header, rows)


def _predicted_box_ap(results: dict[str, float]) -> list[float | None]:
    """AP of the boxes that a system predicts, as in the paper's Table 2.

    The returned boxes, "bbox", may be the tight boxes of the masks (MODEL.SCENE.BOX_SOURCE). They
    are the only ones of a system that predicts no boxes.
    """
    predicted = [results.get(key.replace("bbox/", "bbox_proposal/")) for key in BOX_AP.values()]
    returned = [results.get(key) for key in BOX_AP.values()]
    return returned if predicted[0] is None else predicted


def results_csv(outcomes: list[Outcome], dataset: str) -> str:
    """Format all results of the last evaluations and the paper's as CSV, one line per system."""
    keys = sorted({key for o in outcomes for key in o.run.results})
    rows = []
    for o in outcomes:
        paper = o.system.box_ap.get(dataset, (None, None, None))
        rows.append(
            {
                "system": o.system.name,
                "images": o.run.images_seen,
                "seconds": o.run.seconds,
                "untrained_ARI": o.untrained.get(ARI),
                "paper_ARI": o.system.ari.get(dataset),
                **{f"paper_{name}": v for name, v in zip(BOX_AP, paper, strict=True)},
                **{key: o.run.results.get(key) for key in keys},
            }
        )
    return _csv(rows)


def curves_csv(outcomes: list[Outcome]) -> str:
    """Format the numbers behind Fig. 19 as CSV: system, images, seconds, ARI."""
    return _csv([{"system": o.system.name, **point} for o in outcomes for point in o.curve()])


def _csv(rows: list[dict]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _figure(value: float | None, decimals: int = 3) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"
