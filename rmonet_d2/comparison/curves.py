"""Fig. 19: the foreground ARI of every system over the number of training images and over time."""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from rmonet_d2.comparison.results import Outcome
from rmonet_d2.visualization.drawing import color
from rmonet_d2.visualization.figures import style_axes


def convergence_figure(outcomes: list[Outcome]) -> Figure:
    """Draw two diagrams side by side, with one line per system that has been evaluated."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    over_images, over_time = figure.subplots(1, 2, sharey=True)
    for i, outcome in enumerate(outcomes):
        points = outcome.curve()
        if not points:
            continue
        look = {
            "color": color(i) / 255.0,
            "linewidth": 1.8,
            "marker": "o",
            "markersize": 3.5,
            "label": outcome.system.title,
        }
        ari = [p["ARI"] for p in points]
        over_images.plot([p["images"] for p in points], ari, **look)
        over_time.plot([p["seconds"] / 60 for p in points], ari, **look)
    over_images.set_ylabel("foreground ARI")
    over_images.set_xlabel("images seen")
    over_time.set_xlabel("minutes of training steps")
    for axes in (over_images, over_time):
        style_axes(axes)
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=5)
        axes.set_ylim(top=1.02)
    handles, labels = over_images.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", fontsize=9, frameon=False)
    return figure


def render(figure: Figure, kind: str) -> bytes:
    """Render a figure as the bytes of a "png" or "svg" file."""
    buffer = io.BytesIO()
    canvas = {"png": FigureCanvasAgg, "svg": FigureCanvasSVG}[kind](figure)
    canvas.print_figure(buffer, format=kind, dpi=140)
    return buffer.getvalue()
