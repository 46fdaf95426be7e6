"""What makes rendered crops look real, in groups that can be left out to see what each is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cad2pose.data.appearance import AppearanceConfig
from cad2pose.data.occluders import ClutterConfig
from cad2pose.data.support import SupportConfig
from cad2pose.data.synthetic import SyntheticConfig

_LIGHT = ("roughness", "metallic_share", "shadow_share", "openness_share", "mirror_share")


def _look(style: SyntheticConfig, **changes: Any) -> SyntheticConfig:
    return replace(style, appearance=replace(style.appearance, **changes))


def _effects(style: SyntheticConfig, **changes: Any) -> SyntheticConfig:
    return replace(style, augmentation=replace(style.augmentation, **changes))


INGREDIENTS: dict[str, tuple[str, Callable[[SyntheticConfig], SyntheticConfig]]] = {
    "tables": ("tables under the parts", lambda style: replace(style, support=SupportConfig.off())),
    "shadows": ("shadows", lambda style: _look(style, shadow_share=0.0)),
    "openness": ("darker corners", lambda style: _look(style, openness_share=0.0)),
    "metal": (
        "metals, smooth surfaces and reflections",
        lambda style: _look(style, roughness=(0.5, 1.0), metallic_share=0.0, mirror_share=0.0),
    ),
    "recolouring": (
        "changes of the part's colours",
        lambda style: _look(style, hue=0.0, saturation=0.0, brightness=0.0, tint=0.0, tone=0.0, recolored_share=0.0),
    ),
    "neighbours": ("other things in the scene", lambda style: replace(style, clutter=ClutterConfig(0, 0.0, 0.0, 0))),
    "photographs": ("photographs as backgrounds", lambda style: replace(style, backgrounds=None)),
    "blur": (
        "blur and loss of resolution",
        lambda style: _effects(style, native=False, resolution=0.0, blur=0.0, defocus=0.0, motion=0.0),
    ),
    "grain": (
        "noise, colour filter and compression",
        lambda style: _effects(style, noise=0.0, bayer=0.0, compression=0.0),
    ),
    "processing": (
        "sharpening, equalisation, shades and vignettes",
        lambda style: _effects(style, sharpen=0.0, equalise=0.0, shade=0.0, vignette=0.0),
    ),
    "colour-effects": (
        "changes of the picture's colours",
        lambda style: _effects(style, color_share=0.0, gray_share=0.0, invert_share=0.0, auto_exposure=False),
    ),
    "holes": ("holes", lambda style: _effects(style, holes=0)),
    "light": (
        "tables, shadows, darker corners, metals and reflections",
        lambda style: replace(
            _look(style, **{n: getattr(AppearanceConfig.plain(), n) for n in _LIGHT}), support=SupportConfig.off()
        ),
    ),
}
"""By name: what it is, and how training crops are without it."""

_SINGLE: dict[str, tuple[str, Callable[[SyntheticConfig], SyntheticConfig]]] = {
    "reflections": ("mirrored surroundings", lambda style: _look(style, mirror_share=0.0)),
    "source-resolution": (
        "the source image's own resolution, and less", lambda style: _effects(style, native=False, resolution=0.0)
    ),
    "gaussian-blur": ("Gaussian blur", lambda style: _effects(style, blur=0.0)),
    "defocus": ("a lens out of focus", lambda style: _effects(style, defocus=0.0)),
    "motion": ("motion blur", lambda style: _effects(style, motion=0.0)),
    "noise": ("noise", lambda style: _effects(style, noise=0.0)),
    "bayer": ("the colour filter and its filling in", lambda style: _effects(style, bayer=0.0)),
    "compression": ("compression", lambda style: _effects(style, compression=0.0)),
    "sharpening": ("the unsharp mask", lambda style: _effects(style, sharpen=0.0)),
    "equalisation": ("local equalisation (CLAHE)", lambda style: _effects(style, equalise=0.0)),
    "shades": ("broad shadows", lambda style: _effects(style, shade=0.0)),
    "vignette": ("darker borders", lambda style: _effects(style, vignette=0.0)),
    "exposure": ("exposure to an ordinary mean", lambda style: _effects(style, auto_exposure=False)),
    "border-cuts": (
        "parts cut by the image border", lambda style: replace(style, prior=replace(style.prior, border_share=0.0))
    ),
    "patches": (
        "flat patches over the parts", lambda style: replace(style, clutter=replace(style.clutter, blob_share=0.0))
    ),
    "box-errors": ("errors of the boxes", lambda style: replace(style, box=replace(style.box, shift=0.0, scale=0.0))),
}  # fmt: skip
SWITCHES = INGREDIENTS | _SINGLE
"""All that can be left out: the groups, and what they are made of."""


def without(style: SyntheticConfig, names: Sequence[str]) -> SyntheticConfig:
    """Training crops without some of the `SWITCHES`.

    Raises:
        ValueError: for a name that is not known.
    """
    for name in names:
        if name not in SWITCHES:
            raise ValueError(f"there is no ingredient {name!r} to leave out; there are {', '.join(SWITCHES)}")
        style = SWITCHES[name][1](style)
    return style
