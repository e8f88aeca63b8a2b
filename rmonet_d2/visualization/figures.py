"""Curves of a training run as PNG bytes, drawn by matplotlib without a display."""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rmonet_d2.utils.run_log import RunLog

# Name of a loss in metrics.json -> its title (Eq. 3, Eq. 8).
LOSS_TITLES = {
    "total_loss": "total loss",
    "loss_nll": "reconstruction: −log p(x | z)",
    "loss_kl_z": "latents: β KL(z)",
    "loss_kl_mask": "masks: γ KL(m)",
    "loss_rpn_cls": "boxes: δ classification",
    "loss_rpn_loc": "boxes: λ regression",
}
BLUE, GREEN, GREY = "#1f6fb4", "#2f9e5b", "#8a8f98"


def loss_curves(run: RunLog) -> bytes | None:
    """Plot the total loss and each ``loss_*`` over the iterations; None if none was logged."""
    found = [*LOSS_TITLES, *(name for name in run.keys("loss_") if name not in LOSS_TITLES)]
    names = [name for name in found if run.curve(name)[0]]
    if not names:
        return None
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.4 * lines), layout="constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(lines, columns, i + 1)
        axes.plot(*run.curve(name), color=BLUE, linewidth=1.4)
        axes.set_title(LOSS_TITLES.get(name, name), fontsize=10, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        style_axes(axes)
    figure.supxlabel("iteration", fontsize=10)
    return _png(figure)


def ari_curve(
    run: RunLog, paper: float | None = None, untrained: float | None = None
) -> bytes | None:
    """Plot the foreground ARI of each evaluation over the images seen; None without evaluations.

    Args:
        run: the training run. Its batch size converts iterations to images; if that is unknown, the
            axis shows iterations.
        paper: the paper's ARI, drawn as a dashed line.
        untrained: the untrained model's ARI, drawn as the point at 0 images.
    """
    iterations, values = run.curve("decomposition/ARI")
    if not iterations:
        return None
    # Detectron2 logs the evaluation after the last step one iteration late, unlike earlier ones.
    done = [min(i + 1, run.iterations or i + 1) for i in iterations]
    seen = [n * (run.batch_size or 1) for n in done]
    if untrained is not None and seen[0] > 0:
        seen, values = [0, *seen], [untrained, *values]
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(seen, values, color=GREEN, marker="o", markersize=5, linewidth=1.8)
    axes.annotate(
        f"{values[-1]:.3f}",
        (seen[-1], values[-1]),
        (-4, 7),
        textcoords="offset points",
        ha="right",
        color=GREEN,
        fontsize=10,
        fontweight="bold",
    )
    if paper is not None:
        axes.axhline(paper, color=GREY, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"paper {paper:.3f}",
            (1.0, paper),
            (-2, 4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            color=GREY,
            fontsize=9,
        )
    axes.set_ylim(min(0.0, min(values)) - 0.02, 1.06)
    axes.set_xlim(left=0)
    axes.set_xlabel("images seen" if run.batch_size else "iteration")
    axes.set_ylabel("foreground ARI")
    style_axes(axes)
    return _png(figure)


def style_axes(axes) -> None:
    """Give axes the common style: two spines, a light grid, and commas in thousands."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(True, color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=140)
    return buffer.getvalue()
