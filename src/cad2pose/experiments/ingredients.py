"""What makes rendered crops look real, by names under which it can be left out to see what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cad2pose.data.appearance import AppearanceConfig
from cad2pose.data.support import SupportConfig
from cad2pose.data.synthetic import SyntheticConfig

Switch = tuple[str, Callable[[SyntheticConfig], SyntheticConfig]]
"""What it is, and how training crops are without it."""

COLOUR_CHANGES = ("hue", "saturation", "brightness", "tint", "tone", "recolored_share")
"""Settings of `AppearanceConfig` about a part's own colours; 0 leaves them as the CAD has them."""


def _look(**changes: Any) -> Callable[[SyntheticConfig], SyntheticConfig]:
    return lambda style: replace(style, appearance=replace(style.appearance, **changes))


def _effects(**changes: Any) -> Callable[[SyntheticConfig], SyntheticConfig]:
    return lambda style: replace(style, augmentation=replace(style.augmentation, **changes))


_SINGLE: dict[str, Switch] = {
    "tables": ("tables under the parts", lambda style: replace(style, support=SupportConfig.off())),
    "shadows": ("shadows", _look(shadow_share=0.0)),
    "openness": ("darker corners", _look(openness_share=0.0)),
    "metal": (
        "metals, smooth surfaces and reflections",
        _look(roughness=AppearanceConfig.plain().roughness, metallic_share=0.0, mirror_share=0.0),
    ),
    "reflections": ("mirrored surroundings", _look(mirror_share=0.0)),
    "recolouring": (
        "changes of the part's colours", _look(**dict.fromkeys(COLOUR_CHANGES, 0.0)),
    ),
    "neighbours": (
        "other things in the scene", lambda style: replace(style, clutter=style.clutter.without_neighbours())
    ),
    "patches": (
        "flat patches over the parts", lambda style: replace(style, clutter=replace(style.clutter, blob_share=0.0))
    ),
    "photographs": ("photographs as backgrounds", lambda style: replace(style, backgrounds=None)),
    "border-cuts": (
        "parts cut by the image border", lambda style: replace(style, prior=replace(style.prior, border_share=0.0))
    ),
    "box-errors": ("errors of the boxes", lambda style: replace(style, box=replace(style.box, shift=0.0, scale=0.0))),
    "source-resolution": (
        "the source image's own resolution, and less", _effects(native=False, resolution=0.0)
    ),
    "gaussian-blur": ("Gaussian blur", _effects(blur=0.0)),
    "defocus": ("a lens out of focus", _effects(defocus=0.0)),
    "motion": ("motion blur", _effects(motion=0.0)),
    "noise": ("noise", _effects(noise=0.0)),
    "bayer": ("the colour filter and its filling in", _effects(bayer=0.0)),
    "compression": ("compression", _effects(compression=0.0)),
    "sharpening": ("the unsharp mask", _effects(sharpen=0.0)),
    "equalisation": ("local equalisation (CLAHE)", _effects(equalise=0.0)),
    "shades": ("broad shadows", _effects(shade=0.0)),
    "vignette": ("darker borders", _effects(vignette=0.0)),
    "exposure": ("exposure to an ordinary mean", _effects(auto_exposure=False)),
    "colour-effects": (
        "changes of the picture's colours",
        lambda style: replace(style, augmentation=style.augmentation.without_colours()),
    ),
    "holes": ("holes", _effects(holes=0)),
}  # fmt: skip
_GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "blur": ("blur and loss of resolution", ("source-resolution", "gaussian-blur", "defocus", "motion")),
    "grain": ("noise, colour filter and compression", ("noise", "bayer", "compression")),
    "processing": (
        "sharpening, equalisation, shades and vignettes", ("sharpening", "equalisation", "shades", "vignette")
    ),
    "light": (
        "tables, shadows, darker corners, metals and reflections", ("tables", "shadows", "openness", "metal")
    ),
}  # fmt: skip


def _without_all(members: Sequence[str]) -> Callable[[SyntheticConfig], SyntheticConfig]:
    return lambda style: without(style, members)


SWITCHES: dict[str, Switch] = _SINGLE | {
    name: (about, _without_all(members)) for name, (about, members) in _GROUPS.items()
}
"""All that can be left out: single ingredients, and groups of them."""

_COMPARED = (
    "tables", "shadows", "openness", "metal", "recolouring", "neighbours", "photographs", "blur", "grain", "processing",
    "colour-effects", "holes", "box-errors", "light",
)  # fmt: skip
INGREDIENTS: dict[str, Switch] = {name: SWITCHES[name] for name in _COMPARED}
"""Those of them that `cad2pose compare` has contestants for."""


def strong_colours(style: SyntheticConfig) -> SyntheticConfig:
    """Training crops whose parts' own colours change by twice as much, and twice as often are random ones."""
    looks = style.appearance
    return replace(style, appearance=replace(looks, **{name: 2 * getattr(looks, name) for name in COLOUR_CHANGES}))


def wilder_boxes(style: SyntheticConfig) -> SyntheticConfig:
    """Training crops whose boxes err by more than most of detectors' do."""
    return replace(style, box=replace(style.box, shift=0.06, scale=0.1))


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
