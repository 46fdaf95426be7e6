"""Masks as run lengths, as COCO and BOP's shards write them: column by column, first those that are not set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor


def encode_mask(mask: Bool[Tensor, "h w"]) -> dict[str, list[int]]:
    """`{"counts": [...], "size": [h, w]}` of a mask, the counts as plain numbers."""
    pixels = mask.T.flatten().numpy()
    ends = np.flatnonzero(np.diff(pixels)) + 1
    bounds = np.concatenate(([0], ends, [len(pixels)]))
    counts = np.diff(bounds).tolist()
    return {"counts": [0, *counts] if len(pixels) and pixels[0] else counts, "size": list(mask.shape)}


def decode_mask(entry: object, where: str) -> Bool[Tensor, "h w"]:
    """The mask of an entry with `counts` (numbers, or COCO's text of them) and `size`.

    Raises:
        ValueError: for anything else, or counts that do not add up to the size; the message begins with `where`.
    """
    size = entry.get("size") if isinstance(entry, dict) else None
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side >= 0 for side in size):
        raise ValueError(f"{where}: a mask is a json object with size [height, width] and counts")
    height, width = size
    counts = entry.get("counts") if isinstance(entry, dict) else None
    runs = _numbers_of_text(counts, where) if isinstance(counts, str) else counts
    if not isinstance(runs, Sequence) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError(f"{where}: the counts of a mask are whole numbers, not negative, or COCO's text of them")
    if sum(runs) != height * width:
        raise ValueError(f"{where}: the counts add up to {sum(runs)}, not to {height} x {width} pixels")
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, np.array(runs, dtype=np.int64))
    return torch.from_numpy(pixels.reshape(width, height).T.copy())


def _numbers_of_text(text: str, where: str) -> list[int]:
    """COCO's compressed counts: five bits a character, low ones first.

    From the fourth on, numbers are differences to the last but one. The bit of 32 says that a number goes on, that of
    16 in its last character that it is negative.
    """
    numbers: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{where}: {letter!r} does not occur in the counts of a mask")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError(f"{where}: the counts of a mask are cut off")
    return numbers
