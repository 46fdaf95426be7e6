"""What every method is, so that training, model files and estimating need not know which one they have.

Abstract classes and no protocols: a method is a torch module as well, and Python's types cannot say "both of these".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cad2pose.methods.losses import LossTerms
from cad2pose.methods.part_set import PartSet
from cad2pose.parts import Part
from cad2pose.structures import CropBatch


@runtime_checkable
class MethodConfig(Protocol):
    """What every method's settings (a frozen dataclass) have."""

    @property
    def crop_size(self) -> int:
        """Side of the crops in pixels."""
        ...

    @property
    def pad(self) -> float:
        """As of `virtual_camera`."""
        ...

    def build(self, parts: Sequence[Part]) -> Method:
        """The method with these settings, its weights random."""
        ...


class Method(nn.Module, ABC):
    """From crops to an output, and from the output and the truth to a loss.

    Attributes:
        config: its settings.
        parts: what it serves, in the order of `CropBatch.part_index`.
    """

    config: MethodConfig
    parts: PartSet

    @abstractmethod
    def forward(self, batch: CropBatch) -> Any:
        """What the networks say of every crop: a record of the method's own."""

    @abstractmethod
    def loss(self, output: Any, batch: CropBatch, generator: torch.Generator | None = None) -> LossTerms:
        """The loss of an output; the batch has its truth, and `generator` draws whatever is drawn."""


class PoseMethod(Method):
    """A method that reads poses off its own output, without a solver."""

    @abstractmethod
    def poses(self, output: Any, batch: CropBatch) -> tuple[Float[Tensor, "batch 4 4"], Float[Tensor, "batch"]]:
        """Poses T_virt_obj (mm, mesh file's frame, float64) and their scores in [0, 1]."""
