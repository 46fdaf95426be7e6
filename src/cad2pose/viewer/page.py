"""One self-contained HTML file: template, styles, scripts and numbers; nothing in it asks any host for anything."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from cad2pose import __version__
from cad2pose.viewer.payload import payload_of
from cad2pose.viewer.scene import DrawnPart, Photograph, Scene

SCRIPTS = ("numbers.js", "shaders.js", "overlay.js", "surface_view.js", "crop_view.js", "pose_table.js", "main.js")


def page_of(
    photograph: Photograph, scenes: Sequence[Scene], parts: Sequence[DrawnPart], back: str | None = None
) -> str:
    """The page of one photograph's detections.

    Args:
        photograph: that they were found in.
        scenes: one per detection.
        parts: those that the scenes name.
        back: address of the list of images, where there is one.

    Raises:
        ValueError: without a scene, or for one whose part is missing.
    """
    if not scenes:
        raise ValueError(f"{photograph.name} has no detection to show; a page needs one box at least")
    if missing := {scene.object_id for scene in scenes} - {part.object_id for part in parts}:
        raise ValueError(f"no part was given for object {min(missing)}, which a scene shows")
    return render_template(
        "page.html", title=photograph.name, payload=payload_of(photograph, scenes, parts), back=back,
        three=_script("three.min.js"), script=_inlined(), style=style(),
    )  # fmt: skip


def render_template(name: str, **values: object) -> str:
    """A template of this room, with everything that it is given escaped."""
    return _environment().get_template(name).render(version=__version__, **values)


@cache
def _environment() -> Environment:
    return Environment(autoescape=True, loader=FunctionLoader(_asset), undefined=StrictUndefined)


@cache
def _asset(name: str) -> str:
    return (files("cad2pose.viewer") / "assets" / name).read_text(encoding="utf-8")


def _script(name: str) -> Markup:
    text = _asset(name)
    assert "</script" not in text.lower(), f"{name} would end the element that it stands in"
    return Markup(text)  # our own file


def _inlined() -> Markup:
    """The page's own scripts in one scope."""
    return Markup('(() => {\n"use strict";\n' + "\n".join(_script(name) for name in SCRIPTS) + "\n})();")


def style() -> Markup:
    """The style sheet, for pages of this room."""
    return Markup(_asset("viewer.css"))
