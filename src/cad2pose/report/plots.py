"""Plots as SVG inside a page: they take the page's colours, light or dark.

Names of files and parts are in legends of the page itself, where the template escapes them; what text a plot holds,
matplotlib escapes, and takes no dollar sign for the beginning of a formula.
"""

from __future__ import annotations

import html
import io
import re
import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_INK = "#010203"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's palette; each stands for a colour of the page's style."""

MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", (0, (5, 1.5)), (0, (2, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (1, 1)), (0, (8, 2)))
"""So that series can be told apart without colours."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "cad2pose", "font.family": ["sans-serif"], "font.size": 9,
    "font.sans-serif": ["DejaVu Sans"], "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK,
    "xtick.color": _INK, "ytick.color": _INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.grid": True,
    "grid.alpha": 0.18, "grid.color": _INK, "grid.linewidth": 0.7, "axes.linewidth": 0.7, "lines.linewidth": 1.6,
    "lines.markersize": 4.5, "text.parse_math": False, "figure.constrained_layout.use": True,
    "axes.unicode_minus": True, "axes.axisbelow": True,
}  # fmt: skip

Draw = Callable[["Axes"], None]


def color_of(index: int) -> str:
    """Of a series."""
    return SERIES[index % len(SERIES)]


def shape_of(index: int) -> int:
    """Place in MARKERS and DASHES: another with every round of the colours, so that 36 series differ."""
    return (index + index // len(SERIES)) % len(SERIES)


def dash_of(index: int) -> Any:
    """Of a series."""
    return DASHES[shape_of(index)]


def marker_of(index: int) -> str:
    """Of a series."""
    return MARKERS[shape_of(index)]


def svg(panels: Sequence[Draw], columns: int, described: str, panel_size: tuple[float, float] = (4.4, 2.7)) -> str:
    """Panels in reading order, as an SVG element for a page.

    Args:
        panels: each draws on axes of its own.
        columns: of the grid.
        described: what is to be seen, for those who do not see it.
        panel_size: inches; a hundred pixels each.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the measuring font lacks; browsers have it
        figure = Figure(figsize=(panel_size[0] * columns, panel_size[1] * rows), dpi=100)
        for index, draw in enumerate(panels):
            draw(figure.add_subplot(rows, columns, index + 1))
        stream = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    return _for_page(stream.getvalue(), described)


def _for_page(text: str, described: str) -> str:
    """The element alone, in the page's colours, without ids that another plot may have too."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[A-Za-z0-9.]+_\d+"', "<g", text)
    for index, color in enumerate(SERIES):
        text = text.replace(f": {color}", f": var(--c{index})")
    text = text.replace(f": {_INK}", ": currentColor")
    text = re.sub(r'^<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img" aria-label="@">', text)
    prefix = f"p{zlib.crc32(text.encode()):x}"  # the same in every process
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}", text)
    return text.replace('aria-label="@"', f'aria-label="{html.escape(described)}"', 1)


def set_labels(axes: Axes, title: str, x: str, y: str = "") -> None:
    """Of one panel."""
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def set_ticks(axes: Axes, names: Sequence[str]) -> None:
    """Names at 0, 1, 2, ... on the x axis, as they are written: a dollar sign begins no formula."""
    axes.set_xticks(range(len(names)))
    for label in axes.set_xticklabels(list(names)):
        label.set_parse_math(False)


def plain_numbers(axis: Axis) -> None:
    """Of a logarithmic axis: 0.1, 1, 10 and no powers, and nothing between them."""
    from matplotlib.ticker import NullFormatter

    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())
