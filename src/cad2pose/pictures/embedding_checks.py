"""What pictures of embeddings ask of their input."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def check_finite(what: str, numbers: Float[Tensor, "*shape"]) -> None:
    """Raise ValueError if any number is not finite."""
    broken = int((~torch.isfinite(numbers)).sum())
    if broken:
        raise ValueError(f"{broken} of {numbers.numel()} numbers of the {what} are not finite; give finite ones")


def check_keys(keys: Float[Tensor, "m e"], points: Float[Tensor, "m2 3"] | None = None) -> None:
    """Raise ValueError if there are no keys, or not one for every point, or any number is not finite."""
    if not keys.numel():
        raise ValueError(f"the keys have the shape {tuple(keys.shape)}; give the key of at least one surface point")
    check_finite("keys", keys)
    if points is not None:
        if len(points) != len(keys):
            raise ValueError(f"there are {len(points)} points and {len(keys)} keys; give the key of every point")
        check_finite("points", points)


def check_vectors(what: str, dimension: int, vectors: Float[Tensor, "*shape"], keys: Float[Tensor, "m e"]) -> None:
    """Raise ValueError for vectors of another dimension than the keys, or not finite."""
    if dimension != keys.shape[1]:
        raise ValueError(
            f"the {what} have {dimension} dimensions and the keys {keys.shape[1]}; both must come from the same model"
        )
    check_finite(what, vectors)


def check_mask(queries: Float[Tensor, "e h w"], mask: Float[Tensor, "h2 w2"]) -> None:
    """Raise ValueError unless the mask has one probability for every query."""
    if queries.shape[1:] != mask.shape:
        height, width = queries.shape[1:]
        raise ValueError(
            f"the query image is {width} x {height} and the mask {mask.shape[1]} x {mask.shape[0]}; "
            "give the mask of the same cells"
        )
    check_finite("mask", mask)
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        low, high = (float(value) for value in mask.aminmax())
        raise ValueError(
            f"the mask ranges from {low:.3g} to {high:.3g}; give probabilities (the sigmoid of the logits)"
        )
