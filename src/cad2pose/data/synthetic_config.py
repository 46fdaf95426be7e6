"""What synthetic crops are like."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cad2pose.data.appearance import AppearanceConfig
from cad2pose.data.augmentation_config import AugmentationConfig
from cad2pose.data.boxes import BoxConfig, clip_box, jitter_box
from cad2pose.data.draws import Draws
from cad2pose.data.occluders import ClutterConfig
from cad2pose.data.pose_prior import PosePrior, check_apparent_size
from cad2pose.data.support import SupportConfig
from cad2pose.geometry import Camera, VirtualCamera, virtual_camera
from cad2pose.geometry.crop import DEFAULT_PAD


@dataclass(frozen=True)
class SyntheticConfig:
    """What synthetic crops are like.

    Attributes:
        crop_size: side of the crops in pixels.
        camera: the source camera; None: cameras of 640 x 480 pixels with focal lengths of `focal` image widths.
        focal: shortest and longest focal length in image widths, where no camera is given.
        prior: where parts are seen from.
        box: how boxes err.
        pad: as of `virtual_camera`.
        roll: the crop camera is turned by at most this many degrees about its axis.
        clutter: what stands around and before the part.
        support: the table that it stands on.
        backgrounds: folder of photographs to stand behind it (searched to any depth); None: procedural pictures only.
        photo_share: share of backgrounds and textures taken from the photographs, where there are any.
        pictures: number of pictures kept of each kind, of which all backgrounds are made.
        appearance: light and colours.
        augmentation: what the camera does to the picture.
    """

    crop_size: int = 128
    camera: Camera | None = None
    focal: tuple[float, float] = (0.8, 1.4)
    prior: PosePrior = field(default_factory=PosePrior)
    box: BoxConfig = field(default_factory=BoxConfig)
    pad: float = DEFAULT_PAD
    roll: float = 180.0
    clutter: ClutterConfig = field(default_factory=ClutterConfig)
    support: SupportConfig = field(default_factory=SupportConfig)
    backgrounds: Path | None = None
    photo_share: float = 0.6
    pictures: int = 256
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def __post_init__(self) -> None:
        if self.camera is not None and any(self.camera.distortion):
            raise ValueError("synthetic crops need a camera without lens distortion: give camera.without_distortion()")
        if self.prior.distance is None:
            width, height = (640, 480) if self.camera is None else (self.camera.width, self.camera.height)
            check_apparent_size(self.prior.apparent_size[0], width, height)
        if not 0 < self.focal[0] <= self.focal[1]:
            raise ValueError(f"focal is {self.focal}; give the shortest and the longest focal length in image widths")
        if self.crop_size < 16:
            raise ValueError(f"crop_size is {self.crop_size}; crops have at least 16 pixels a side")
        if not 0 <= self.photo_share <= 1:
            raise ValueError(f"photo_share is {self.photo_share:g}; it is a share between 0 and 1")
        if self.pictures < 1:
            raise ValueError(f"pictures is {self.pictures}; at least 1 is needed")
        if not 1 <= self.pad < float("inf"):
            raise ValueError(f"pad is {self.pad:g}; below 1 the crop would cut the box")
        if not 0 <= self.roll <= 180:
            raise ValueError(f"roll is {self.roll:g}; give degrees within [0, 180]")

    @classmethod
    def evaluation(cls, **changes: object) -> SyntheticConfig:
        """Fresh pictures to judge a model by: upright crops, detector-like boxes, up to about 30 % hidden.

        Their light is plain and nothing stands on tables: a style that training does not see.
        """
        base = cls(
            roll=0.0,
            clutter=ClutterConfig(occluders=1, occluded_share=0.5, deepest=0.3, blob_share=0.0, min_visibility=0.7),
            support=SupportConfig.off(),
            appearance=AppearanceConfig.modest(),
            augmentation=AugmentationConfig.modest(),
        )
        return replace(base, **changes)  # type: ignore[arg-type]

    def easy(self) -> SyntheticConfig:
        """The same without what stands around and before the part, and with the picture's colours left alone."""
        return replace(
            self, clutter=self.clutter.without_neighbours(), augmentation=self.augmentation.without_colours()
        )

    def judging(self) -> SyntheticConfig:
        """Pictures to judge by what has learnt from this: other pictures, but the same camera, views and size.

        Boxes err as most of detectors' do, or as here where they err more here, and are of the visible or the whole
        part as often as here.
        """
        shared = ("crop_size", "camera", "focal", "prior", "pad", "backgrounds", "photo_share", "pictures")
        style = SyntheticConfig.evaluation(**{name: getattr(self, name) for name in shared})
        shift, scale = max(self.box.shift, style.box.shift), max(self.box.scale, style.box.scale)
        return replace(style, box=replace(self.box, shift=shift, scale=scale))

    def crop_camera(
        self,
        K: Float[Tensor, "n 3 3"],
        box: Float[Tensor, "n 4"],
        image_size: Float[Tensor, "n 2"],
        draws: Draws,
    ) -> VirtualCamera:
        """Crop cameras around boxes that err as a detector's would, rolled at random.

        Args:
            K: `(n, 3, 3)` of the source cameras, float64.
            box: `(n, 4)` x, y, w, h in pixels around what is to be seen.
            image_size: `(n, 2)` width and height in pixels.
            draws: of the batch.
        """
        box = clip_box(jitter_box(clip_box(box, image_size), self.box, draws), image_size)
        roll = draws.uniform(-1.0, 1.0, len(K)).double() * torch.pi * (self.roll / 180)
        return virtual_camera(K, box, image_size, self.crop_size, self.pad, roll)
