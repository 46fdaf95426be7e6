"""Writes a model file again in pieces that are small enough for where it is to be kept.

    python benchmarks/split_model.py runs/lmo/model.safetensors --out models/lmo/lmo.safetensors --megabytes 16

Every piece is needed; any of them, or the name without numbers, stands for the model. What its scores are worth comes
along.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from cad2pose.model_file import load_model, save_model


def main(model: Path, /, out: Path, megabytes: float = 16.0) -> None:
    """Split.

    Args:
        model: model file.
        out: NAME.safetensors, which becomes NAME-00001-of-00002.safetensors and so on if it is larger than that.
        megabytes: (10^6 bytes) of a piece at most.
    """
    known = load_model(model)
    written = save_model(out, known.method, known.parts, known.info, known.calibrations, int(megabytes * 1e6))
    for path in written:
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    tyro.cli(main)
