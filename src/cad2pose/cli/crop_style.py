"""What rendered crops are to be like, as commands ask for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cad2pose.cli.arguments import OptionalPath
from cad2pose.cli.sources import find_camera
from cad2pose.data.appearance import AppearanceConfig
from cad2pose.data.augmentation import AugmentationConfig
from cad2pose.data.boxes import BoxConfig
from cad2pose.data.occluders import ClutterConfig
from cad2pose.data.pose_prior import PosePrior
from cad2pose.data.support import SupportConfig
from cad2pose.data.synthetic import SyntheticConfig
from cad2pose.geometry import Camera

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
        look: light, materials and colours; shares of 0 turn ingredients off.
        table: what parts and their neighbours stand on.
        clutter: what stands around and before the part.
    """

    views: PosePrior = field(default_factory=PosePrior)
    camera: OptionalPath = None
    backgrounds: OptionalPath = None
    crop_roll: float = 180.0
    effects: Literal["strong", "modest", "colourful"] = "strong"
    boxes: Literal["detector", "amodal"] = "detector"
    look: AppearanceConfig = field(default_factory=AppearanceConfig)
    table: SupportConfig = field(default_factory=SupportConfig)
    clutter: ClutterConfig = field(default_factory=ClutterConfig)

    def settings(self, default_camera: Path | None = None) -> dict[str, Any]:
        """Those of `SyntheticConfig` that this is about.

        Args:
            default_camera: camera.json to be used where none is given.
        """
        file = self.camera or default_camera
        camera: Camera | None = find_camera(file) if file else None
        return {
            "prior": self.views, "camera": camera, "backgrounds": self.backgrounds, "roll": self.crop_roll,
            "augmentation": _EFFECTS[self.effects](), "appearance": self.look, "support": self.table,
            "clutter": self.clutter,
            "box": BoxConfig() if self.boxes == "detector" else BoxConfig(visible_share=0.0),
        }  # fmt: skip

    def config(self, crop_size: int, pad: float) -> SyntheticConfig:
        """Of crops of this size."""
        return SyntheticConfig(crop_size=crop_size, pad=pad, **self.settings())
