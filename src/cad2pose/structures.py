"""The typed records that travel between the rooms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cad2pose.geometry.crop import VirtualCamera


@dataclass(frozen=True)
class Detections:
    """Boxes of known objects in one image.

    Args:
        object_id: `(N,)` ids as in the BOP data set or the model file.
        box: `(N, 4)` x, y, w, h in pixels, COCO convention (edges measured from the image's left and upper edge).
        score: `(N,)` of the detector, higher is better.

    Lists and arrays become tensors.

    Raises:
        ValueError: for other shapes, numbers that are not finite, ids that are not whole, or boxes without area.
    """

    object_id: Int[Tensor, "n"]
    box: Float[Tensor, "n 4"]
    score: Float[Tensor, "n"]

    def __post_init__(self) -> None:
        for name in ("object_id", "box", "score"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name)))
        if self.box.shape == self.object_id.shape == (0,):  # empty lists do not say of what they are
            object.__setattr__(self, "box", self.box.view(0, 4))
            object.__setattr__(self, "object_id", self.object_id.to(torch.int64))
        if not self.box.is_floating_point():
            object.__setattr__(self, "box", self.box.to(torch.float32))
        count = len(self.box) if self.box.ndim else 0
        shapes = [tuple(tensor.shape) for tensor in (self.object_id, self.box, self.score)]
        if shapes != [(count,), (count, 4), (count,)]:
            raise ValueError(
                f"object_id, box and score have the shapes {', '.join(map(str, shapes))}; "
                "for N boxes give (N,), (N, 4) and (N,)"
            )
        if self.object_id.is_floating_point() or self.object_id.is_complex():
            raise ValueError(f"the object ids are {self.object_id.tolist()}; give whole numbers")
        if not bool(torch.isfinite(self.score).all()):
            raise ValueError(f"the scores are {self.score.tolist()}; give finite numbers")
        bad = ~torch.isfinite(self.box).all(-1) | (self.box[:, 2:] <= 0).any(-1)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise ValueError(
                f"box {row} is {self.box[row].tolist()}; a box is x y w h in pixels, finite, with w > 0 and h > 0"
            )

    def __len__(self) -> int:
        return len(self.object_id)


@dataclass(frozen=True)
class CropTruth:
    """What a rendered (or labelled) crop is known to show.

    Args:
        T_virt_obj: `(B, 4, 4)` pose in the crop camera, mm, mesh file's frame.
        mask_full: `(B, r, r)` silhouette as if nothing stood before it, cut by the image border only.
        mask_visible: `(B, r, r)` the part of it that is seen.
        coordinates: `(B, 3, r, r)` object coordinates (x - centre) / radius of the foremost surface inside
            `mask_full`, 0 outside.
    """

    T_virt_obj: Float[Tensor, "batch 4 4"]
    mask_full: Bool[Tensor, "batch r r"]
    mask_visible: Bool[Tensor, "batch r r"]
    coordinates: Float[Tensor, "batch 3 r r"]


@dataclass(frozen=True)
class CropBatch:
    """A batch of crops, each seen by its own virtual camera.

    Args:
        image: `(B, 3, r, r)` RGB in [0, 1]; pixels from outside the source image have one fixed fill.
        valid: `(B, 1, r, r)` share of the pixel that the source image covers.
        camera: the B crop cameras, with source K, image size and box.
        part_index: `(B,)` index into the method's list of parts.
        truth: present in training and synthetic evaluation.
    """

    image: Float[Tensor, "batch 3 r r"]
    valid: Float[Tensor, "batch 1 r r"]
    camera: VirtualCamera
    part_index: Int[Tensor, "batch"]
    truth: CropTruth | None = None

    def __len__(self) -> int:
        return len(self.part_index)

    def to(self, device: torch.device | str) -> CropBatch:
        """The same batch on another device."""
        truth = None
        if self.truth is not None:
            truth = CropTruth(*(getattr(self.truth, f.name).to(device) for f in fields(CropTruth)))
        return CropBatch(
            self.image.to(device), self.valid.to(device), self.camera.to(device), self.part_index.to(device), truth
        )

    def __getitem__(self, index: slice | Tensor) -> CropBatch:
        truth = self.truth
        if truth is not None:
            truth = CropTruth(*(getattr(truth, f.name)[index] for f in fields(CropTruth)))
        return replace(
            self, image=self.image[index], valid=self.valid[index], camera=self.camera[index],
            part_index=self.part_index[index], truth=truth,
        )  # fmt: skip

    @classmethod
    def join(cls, parts: Sequence[CropBatch]) -> CropBatch:
        """All of them, one after the other; all with truth, or none."""
        truths = [part.truth for part in parts if part.truth is not None]
        truth = None
        if len(truths) == len(parts):
            truth = CropTruth(*(torch.cat([getattr(t, f.name) for t in truths]) for f in fields(CropTruth)))
        camera = VirtualCamera.join([part.camera for part in parts])
        image, valid, index = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("image", "valid", "part_index")
        )
        return cls(image, valid, camera, index, truth)


@runtime_checkable
class CropSource(Protocol):
    """Endless crops; the same (index, size) always gives the same batch."""

    def batch(self, index: int, size: int) -> CropBatch: ...


@dataclass(frozen=True)
class PoseDetails:
    """What is known of N poses beside the poses.

    Args:
        covariance: `(N, 6, 6)` float64 of the left perturbation (rotation vector, translation), rad and mm, in the
            camera frame, about the bounding sphere's centre; NaN where it is not known.
        free_axis: `(N, 3)` unit axis in the camera frame about which the part may turn at will (a continuous symmetry,
            seen as such), of which the covariance says nothing; zeros where there is none.
        alternatives: `(N, k, 4, 4)` float64, the distinct poses that the image allows, likeliest first: the pose itself
            and others like those that a symmetry gives; NaN where there are no more, or none are known.
        probability: `(N, k)` float64 of the alternatives; 0 likewise.
        reasons: for every row None, or why it has no pose.
    """

    covariance: Float[Tensor, "n 6 6"]
    free_axis: Float[Tensor, "n 3"]
    alternatives: Float[Tensor, "n k 4 4"]
    probability: Float[Tensor, "n k"]
    reasons: tuple[str | None, ...]

    @classmethod
    def unknown(cls, reasons: Sequence[str | None]) -> PoseDetails:
        """Of poses of which nothing is known but whether there are any."""
        count = len(reasons)

        def filled(*shape: int, value: float) -> Tensor:
            return torch.full((count, *shape), value, dtype=torch.float64)

        return cls(
            filled(6, 6, value=torch.nan), filled(3, value=0.0), filled(0, 4, 4, value=torch.nan),
            filled(0, value=0.0), tuple(reasons),
        )  # fmt: skip

    def __getitem__(self, index: Int[Tensor, "k"]) -> PoseDetails:
        return PoseDetails(
            self.covariance[index], self.free_axis[index], self.alternatives[index], self.probability[index],
            tuple(self.reasons[row] for row in index.tolist()),
        )  # fmt: skip

    @classmethod
    def join(cls, parts: Sequence[PoseDetails]) -> PoseDetails:
        """All of them, one after the other, with room for as many alternatives as any has."""
        most = max((part.probability.shape[1] for part in parts), default=0)
        pad = torch.nn.functional.pad

        def longer(part: PoseDetails) -> tuple[Tensor, Tensor]:
            missing = most - part.probability.shape[1]
            alternatives = pad(part.alternatives, (0, 0, 0, 0, 0, missing), value=torch.nan)
            return alternatives, pad(part.probability, (0, missing))

        alternatives, probability = zip(*map(longer, parts), strict=True)
        return cls(
            torch.cat([part.covariance for part in parts]), torch.cat([part.free_axis for part in parts]),
            torch.cat(alternatives), torch.cat(probability), tuple(r for part in parts for r in part.reasons),
        )  # fmt: skip


@dataclass(frozen=True)
class Poses:
    """N poses in one camera's frame.

    Args:
        T_cam_obj: `(N, 4, 4)` float64, mm, mesh file's frame; NaN where there is none.
        score: `(N,)` float64 in [0, 1]; 0 where there is none.
        details: of them.
    """

    T_cam_obj: Float[Tensor, "n 4 4"]
    score: Float[Tensor, "n"]
    details: PoseDetails

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, index: Int[Tensor, "k"]) -> Poses:
        return Poses(self.T_cam_obj[index], self.score[index], self.details[index])

    @classmethod
    def join(cls, parts: Sequence[Poses]) -> Poses:
        """All of them, one after the other."""
        return cls(
            torch.cat([part.T_cam_obj for part in parts]), torch.cat([part.score for part in parts]),
            PoseDetails.join([part.details for part in parts]),
        )  # fmt: skip


@dataclass(frozen=True)
class PoseEstimates:
    """Poses found in one image.

    Args:
        object_id: `(N,)`.
        T_cam_obj: `(N, 4, 4)` float64, mm, mesh file's frame; the rotation part is orthonormal. NaN where no pose was
            found.
        score: `(N,)` higher is better; 0 where no pose was found.
        box: `(N, 4)` the boxes they were found from.
        seconds: time the whole image took.
        details: uncertainty, alternatives, and the reasons where no pose was found; all unknown by default.
        stages: of those seconds, how many went into making crops, the network, and making poses of its output; of poses
            that are refined or solved for, also proposals (or the choice of starts), climb and conclusion.
        confidence: `(N,)` float64, the chance that the pose is right (MSSD below a tenth of the diameter), by the
            calibration in the model file; 0 where no pose was found, NaN where it is not known.
    """

    object_id: Int[Tensor, "n"]
    T_cam_obj: Float[Tensor, "n 4 4"]
    score: Float[Tensor, "n"]
    box: Float[Tensor, "n 4"]
    seconds: float = -1.0
    details: PoseDetails = field(default_factory=lambda: PoseDetails.unknown(()))
    stages: Mapping[str, float] = field(default_factory=dict)
    confidence: Float[Tensor, "n"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def __post_init__(self) -> None:
        if not len(self.confidence):
            unknown = torch.full((len(self.object_id),), torch.nan, dtype=torch.float64)
            object.__setattr__(self, "confidence", unknown)
        if len(self.details.reasons) != len(self.object_id):
            if self.details.reasons:
                given = len(self.details.reasons)
                raise ValueError(f"there are details of {given} poses for {len(self.object_id)} objects")
            object.__setattr__(self, "details", PoseDetails.unknown((None,) * len(self.object_id)))

    def __len__(self) -> int:
        return len(self.object_id)

    def __getitem__(self, index: Int[Tensor, "k"]) -> PoseEstimates:
        return PoseEstimates(
            self.object_id[index], self.T_cam_obj[index], self.score[index], self.box[index], self.seconds,
            self.details[index], self.stages, self.confidence[index],
        )  # fmt: skip

    @property
    def found(self) -> Bool[Tensor, "n"]:
        """Which rows have a pose."""
        return torch.tensor([reason is None for reason in self.details.reasons], dtype=torch.bool)
