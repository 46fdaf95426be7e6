"""Crops made once and kept on disk, for runs that learn from the same ones one after the other."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cad2pose.files import replacing
from cad2pose.geometry import VirtualCamera
from cad2pose.structures import CropBatch, CropSource, CropTruth

_CAMERA = tuple(f.name for f in fields(VirtualCamera) if f.name != "size")


class RecordedCrops:
    """Batches of another source, written when they are first asked for and read after that.

    Images and coverage are kept with 8 bits, coordinates with 16, so that a crop of 128 px takes 200 kB. What is given
    is what was kept, the first time too: everybody sees the same numbers. Several processes may share a folder.

    Args:
        source: what makes them; the folder does not know it, so each source needs a folder of its own.
        folder: where they are kept.
        device: where batches are given.
    """

    def __init__(self, source: CropSource, folder: Path, device: torch.device | str = "cpu") -> None:
        self.source = source
        self.folder = folder
        self.device = torch.device(device)

    def batch(self, index: int, size: int) -> CropBatch:
        """Batch number `index`, of `size` crops; a file that cannot be read is made again."""
        try:
            batch = _unpack(load_file(self._file(index, size)))
        except (OSError, KeyError, ValueError, SafetensorError):
            batch = _unpack(self._record(index, size))
        return batch.to(self.device)

    def record(self, batches: int, size: int) -> None:
        """Make the first `batches` batches of `size` crops, those that are not there yet."""
        for index in range(batches):
            if not self._file(index, size).is_file():
                self._record(index, size)

    def _file(self, index: int, size: int) -> Path:
        return self.folder / f"{size}" / f"{index:06d}.safetensors"

    def _record(self, index: int, size: int) -> dict[str, Tensor]:
        kept = _pack(self.source.batch(index, size))
        with replacing(self._file(index, size)) as aside:
            save_file(kept, aside)
        return kept


def _pack(batch: CropBatch) -> dict[str, Tensor]:
    truth = batch.truth
    assert truth is not None, "crops are kept with their truth"
    masks = torch.stack((truth.mask_full, truth.mask_visible), dim=1).to(torch.uint8)
    kept = {
        "image": _to_bytes(batch.image), "valid": _to_bytes(batch.valid), "part_index": batch.part_index,
        "T_virt_obj": truth.T_virt_obj, "masks": masks, "coordinates": truth.coordinates.half(),
        **{name: getattr(batch.camera, name) for name in _CAMERA},
    }  # fmt: skip
    return {name: tensor.cpu().contiguous() for name, tensor in kept.items()}


def _unpack(kept: dict[str, Tensor]) -> CropBatch:
    full, visible = kept["masks"].bool().unbind(1)
    truth = CropTruth(kept["T_virt_obj"], full, visible, kept["coordinates"].float())
    camera = VirtualCamera(*(kept[name] for name in _CAMERA), size=kept["image"].shape[-1])
    return CropBatch(
        kept["image"].float() / 255, kept["valid"].float() / 255, camera, kept["part_index"], truth
    )  # fmt: skip


def _to_bytes(values: Tensor) -> Tensor:
    return (values * 255).round_().clamp_(0, 255).to(torch.uint8)
