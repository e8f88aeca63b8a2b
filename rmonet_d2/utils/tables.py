"""Markdown tables."""

from collections.abc import Iterable

from tabulate import tabulate


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Format a Markdown table; floats get three significant digits, text stays as it is."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    # Without disable_numparse, tabulate would change text that looks like a number ("0.90").
    return tabulate(cells, [_cell(cell) for cell in header], "github", disable_numparse=True)


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value).replace("|", r"\|")
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
