"""What all pages share: one template that escapes everything, its style, and pictures inside the page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import cad2pose
from cad2pose.pictures.image_file import data_uri
from cad2pose.report.plots import shape_of

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, **content: Any) -> str:
    """A whole page.

    Everything in `content` is text, so that file names and scores cannot become HTML; templates mark plots as safe, in
    which matplotlib has escaped what text there is. The page asks no
    host for anything; its own policy forbids browsers to.

    Args:
        template: file name of the template.
        content: its variables.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"fixed": fixed, "share": share, "shape": shape_of}
    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    page = environment.get_template(template).render(style=style, version=cad2pose.__version__, **content)
    return page.encode("utf-8", "replace").decode("utf-8")  # names of files need not be text


def fixed(value: float | None, digits: int = 3, sign: str = "") -> str:
    """A number with so many decimals; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:{sign}.{digits}f}".replace("-", "−")


def share(value: float | None) -> str:
    """A share as percentage."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.0f} %"


def jpeg_uri(data: bytes) -> str:
    """The content of a JPEG file, as address of an image."""
    return data_uri("image/jpeg", data)
