"""How strongly each effect of the augmentation acts, and on how many samples."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class AugmentationConfig:
    """Strength of each effect, and the share of samples that get it (`..._share`). A zero of either turns it off.

    Lengths are in pixels of the source image, intensities in units of white = 1. Where a crop enlarges the source image
    more than twofold, defocus and motion are those of one enlarged twofold (the Gaussian blur: fourfold), and so less
    than is stated: a box of 40 pixels in a crop of 256 enlarges it 4.3 times, and gets 0.47 of them. Where it shrinks
    the source image to less than half, all three are those of half, and so more.

    Attributes:
        native: reduce the crop to the resolution that the source image has at its place, then enlarge it.
        auto_exposure: brighten or darken towards an ordinary mean, as cameras do.
        resolution: most by which resolution is reduced further, as a factor minus 1.
        blur: largest standard deviation of the Gaussian blur.
        defocus: largest radius of the disc that a lens out of focus makes of a point.
        motion: longest streak of motion blur.
        noise: largest standard deviation of the noise on middle gray; the dark and the bright have more or less of it.
        bayer: largest part that a colour filter and its filling in have in the picture; 1 is a plain camera.
        compression: largest quantisation step of 8 x 8 cosine blocks.
        sharpen: largest strength of the unsharp mask.
        equalise: how many times an even share of the histogram local equalisation (CLAHE) may use more, at most.
        shade: strength of broad shadows.
        vignette: most by which the picture is darker two sides away from the lens's middle.
        brightness, contrast, gain, tone: largest change of offset, of slope, of each channel's slope, of middle tones.
        saturation, hue: largest change of saturation, and of hue in rad.
        color_share: share of samples whose colours (the last six) change.
        gray_share, invert_share: share of samples without colour, and with one or all channels inverted.
        holes: most rectangles cut out, for `holes_share` of the samples.
    """

    native: bool = True
    auto_exposure: bool = True
    resolution: float = 0.8
    resolution_share: float = 0.3
    blur: float = 1.3
    blur_share: float = 0.7
    defocus: float = 2.5
    defocus_share: float = 0.1
    motion: float = 7.0
    motion_share: float = 0.1
    noise: float = 0.08
    noise_share: float = 0.7
    bayer: float = 1.0
    bayer_share: float = 0.3
    compression: float = 0.06
    compression_share: float = 0.15
    sharpen: float = 2.0
    sharpen_share: float = 0.3
    equalise: float = 3.0
    equalise_share: float = 0.1
    shade: float = 0.35
    shade_share: float = 0.3
    vignette: float = 0.5
    vignette_share: float = 0.2
    brightness: float = 0.15
    contrast: float = 0.4
    gain: float = 0.2
    tone: float = 0.5
    saturation: float = 0.5
    hue: float = 0.25
    color_share: float = 0.85
    gray_share: float = 0.05
    invert_share: float = 0.03
    holes: int = 6
    holes_share: float = 0.25

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < float("inf") or (field.name.endswith("_share") and value > 1):
                raise ValueError(
                    f"{field.name} is {value}; strengths must not be negative nor infinite, shares lie between 0 and 1"
                )
        if self.bayer > 1:
            raise ValueError(f"bayer is {self.bayer:g}; it is a share between 0 and 1")
        for name in ("contrast", "gain", "tone"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name):g}; it must be below 1")

    def without_colours(self) -> AugmentationConfig:
        """The same with the picture's colours and exposure left alone."""
        return replace(self, color_share=0.0, gray_share=0.0, invert_share=0.0, auto_exposure=False)

    @classmethod
    def off(cls) -> AugmentationConfig:
        """No effect at all."""
        zeros: dict[str, Any] = {field.name: 0.0 for field in fields(cls)}
        return cls(**zeros | {"native": False, "auto_exposure": False, "holes": 0})

    @classmethod
    def colourful(cls) -> AugmentationConfig:
        """Colours changed as heavily as GDRNPP (Liu et al. 2025) does; its ranges, in this chain's terms."""
        return cls(
            brightness=0.3, contrast=0.7, gain=0.5, tone=0.7, saturation=1.0, hue=0.3, gray_share=0.2,
            invert_share=0.15, sharpen=4.0, holes_share=0.4,
        )  # fmt: skip

    @classmethod
    def modest(cls) -> AugmentationConfig:
        """What an ordinary camera does; for evaluation."""
        return cls(
            resolution=0.0, blur=0.8, defocus=0.0, motion=0.0, equalise=0.0, vignette=0.2, noise=0.03, compression=0.04,
            sharpen=0.5, shade=0.2, brightness=0.05, contrast=0.15, gain=0.08, tone=0.2, saturation=0.2, hue=0.05,
            gray_share=0.0, invert_share=0.0, holes=0,
        )  # fmt: skip
