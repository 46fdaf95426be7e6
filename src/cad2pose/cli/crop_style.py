"""What crops are to be like and where they come from, as commands ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from cad2pose.cli.arguments import OptionalPath
from cad2pose.cli.sources import find_straight_camera
from cad2pose.data.appearance import AppearanceConfig
from cad2pose.data.augmentation import AugmentationConfig
from cad2pose.data.boxes import BoxConfig
from cad2pose.data.curriculum import crops_to_learn
from cad2pose.data.labelled import LabelledCrops, MixedCrops
from cad2pose.data.labelled_images import open_images
from cad2pose.data.occluders import ClutterConfig
from cad2pose.data.pose_prior import PosePrior
from cad2pose.data.support import SupportConfig
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.experiments.ingredients import without
from cad2pose.geometry import Camera
from cad2pose.parts import Part
from cad2pose.structures import CropSource

_EFFECTS = {
    "strong": AugmentationConfig, "modest": AugmentationConfig.modest, "colourful": AugmentationConfig.colourful,
}  # fmt: skip


@dataclass(frozen=True)
class CropStyle:
    """Rendered crops.

    Attributes:
        views: where the camera may see the part from; all of SO(3) unless stated.
        camera: camera.json (fx, fy, cx, cy, width, height) of the camera to be used; a range of cameras by default.
        backgrounds: folder of photographs to use as backgrounds beside the procedural ones.
        crop_roll: crops are turned by up to this many degrees about their axis; state less where `views` are upright.
        effects: how much blur, noise and colour the crops get: strong for photographs, modest for clean pictures,
            colourful with colours changed as heavily as GDRNPP does.
        boxes: of the crops: as a detector's, most of them around the visible part, or amodal, around the whole part as
            GDRNPP has them.
        box_errors: how much boxes err: standard deviations of their centres, in box sides, and of the logarithms of
            their sides; by default as most of two detectors' boxes on LM-O. State more where your detector errs more.
        look: light, materials and colours; shares of 0 turn ingredients off.
        table: what parts and their neighbours stand on.
        clutter: what stands around and before the part.
        without: ingredients to leave out: tables, shadows, openness, metal, reflections, recolouring, neighbours,
            patches, photographs, border-cuts, box-errors, source-resolution, gaussian-blur, defocus, motion, noise,
            bayer, compression, sharpening, equalisation, shades, vignette, exposure, colour-effects, holes; or groups:
            light, blur, grain, processing.
    """

    views: PosePrior = field(default_factory=PosePrior)
    camera: OptionalPath = None
    backgrounds: OptionalPath = None
    crop_roll: float = 180.0
    effects: Literal["strong", "modest", "colourful"] = "strong"
    boxes: Literal["detector", "amodal"] = "detector"
    box_errors: tuple[float, float] = (BoxConfig.shift, BoxConfig.scale)
    look: AppearanceConfig = field(default_factory=AppearanceConfig)
    table: SupportConfig = field(default_factory=SupportConfig)
    clutter: ClutterConfig = field(default_factory=ClutterConfig)
    without: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """Those of `SyntheticConfig` that this is about."""
        camera: Camera | None = find_straight_camera(self.camera) if self.camera else None
        visible = BoxConfig.visible_share if self.boxes == "detector" else 0.0
        settings: dict[str, Any] = {
            "prior": self.views, "camera": camera, "backgrounds": self.backgrounds, "roll": self.crop_roll,
            "augmentation": _EFFECTS[self.effects](), "appearance": self.look, "support": self.table,
            "clutter": self.clutter, "box": BoxConfig(*self.box_errors, visible),
        }  # fmt: skip
        left = without(SyntheticConfig(**settings), self.without)
        return {name: getattr(left, name) for name in settings}

    def config(self, crop_size: int, pad: float) -> SyntheticConfig:
        """Of crops of this size."""
        return SyntheticConfig(crop_size=crop_size, pad=pad, **self.settings())


class CropSources:
    """Where a training's crops come from.

    Args:
        parts: what is learnt.
        config: of rendered crops.
        device: where crops are made.
        images: folder of a BOP split or of shards with labelled images, None for rendered crops alone.
        mix: share of crops from those.
        allow_test: take images that are meant for testing, too.

    Attributes:
        settings: by which a run folder knows them.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        config: SyntheticConfig,
        device: torch.device,
        images: Path | None,
        mix: float,
        allow_test: bool = False,
    ) -> None:
        if not 0 < mix <= 1:
            raise ValueError(f"mix is {mix:g}; it is a share above 0, and 1 at most")
        self.parts, self.config, self.device, self.mix, self.allow_test = parts, config, device, mix, allow_test
        self.dataset = None if images is None else open_images(images)
        self.settings: dict[str, Any] = {"crops": config}
        if images is not None:
            self.settings |= {"images": images.resolve(), "mix": mix}

    def training(self, seed: int, easing: int = 0) -> CropSource:
        """Crops to learn from, those of the first `easing` batches easier (see `crops_to_learn`) where rendered."""
        if easing and self.mix == 1 and self.dataset is not None:
            raise ValueError("--curriculum is about rendered crops, and --mix 1 takes none; leave one of them out")
        labelled = None
        if self.dataset is not None:
            labelled = LabelledCrops(
                self.dataset, self.parts, self.config, self.device, seed, allow_test=self.allow_test
            )
            if self.mix == 1:
                return labelled
        rendered = crops_to_learn(self.parts, self.config, self.device, seed, easing)
        return rendered if labelled is None else MixedCrops(rendered, labelled, self.mix)

    def judged(self, seed: int) -> CropSource:
        """Crops to judge by: fresh, rendered, of another style."""
        return SyntheticCrops(self.parts, self.config.judging(), self.device, seed)
