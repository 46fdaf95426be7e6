"""BOP results files: one estimated pose a row, `scene_id,im_id,obj_id,score,R,t,time`.

R has nine numbers row by row and t three (mm), separated by spaces; time is that of the whole image in seconds, -1 for
unknown. Format: BOP challenge 2019.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cad2pose.files import write_text
from cad2pose.geometry.transform import make_transform
from cad2pose.structures import PoseEstimates

COLUMNS = ("scene_id", "im_id", "obj_id", "score", "R", "t", "time")

_MAX_SKEW = 0.02  # of R^T R - I: columns orthonormal to 1 %, as the least exact of LM-O's annotations
_SHOWN_ERRORS = 10
_LARGEST_ID = 2**63


@dataclass(frozen=True)
class Results:
    """Estimated poses of any number of images, in the order of the file.

    Args:
        scene_id, image_id, object_id: `(N,)`.
        score: `(N,)` higher is better.
        T_cam_obj: `(N, 4, 4)` float64, mm.
        seconds: `(N,)` time of the whole image, -1 for unknown.
    """

    scene_id: Int[Tensor, "n"]
    image_id: Int[Tensor, "n"]
    object_id: Int[Tensor, "n"]
    score: Float[Tensor, "n"]
    T_cam_obj: Float[Tensor, "n 4 4"]
    seconds: Float[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.object_id)

    def stated_seconds(self) -> dict[tuple[int, int], list[float]]:
        """Times that the rows of every image state; images without any are not there."""
        stated: dict[tuple[int, int], list[float]] = {}
        columns = (self.scene_id.tolist(), self.image_id.tolist(), self.seconds.tolist())
        for scene, image, seconds in zip(*columns, strict=True):
            if seconds >= 0:
                stated.setdefault((scene, image), []).append(seconds)
        return stated

    @classmethod
    def from_estimates(cls, estimates: Mapping[tuple[int, int], PoseEstimates]) -> Results:
        """Rows of the poses found in several images, by (scene, image) number; boxes without a pose have none."""
        rows = [
            (scene, image, e, i) for (scene, image), e in estimates.items() for i in e.found.nonzero()[:, 0].tolist()
        ]
        poses = [e.T_cam_obj[i].double().cpu() for _, _, e, i in rows]
        return cls(
            torch.tensor([scene for scene, _, _, _ in rows], dtype=torch.int64),
            torch.tensor([image for _, image, _, _ in rows], dtype=torch.int64),
            torch.tensor([int(e.object_id[i]) for _, _, e, i in rows], dtype=torch.int64),
            torch.tensor([float(e.score[i]) for _, _, e, i in rows], dtype=torch.float64),
            torch.stack(poses) if poses else torch.zeros(0, 4, 4, dtype=torch.float64),
            torch.tensor([e.seconds for _, _, e, _ in rows], dtype=torch.float64),
        )


def read_results_csv(path: Path | str) -> Results:
    """Read a results file; the header may be missing, empty lines are skipped.

    Rotations are kept as written, as BOP scores them; they may be off orthonormal by 1 %.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for an empty file, or bad rows: wrong number of columns, something that is not a finite number, a
            wrong count in R or t, R far from a rotation. Names file, lines and what is wrong with them.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"results file {path} does not exist")
    rows: dict[int, tuple[list[int], list[float]]] = {}
    bad: dict[int, str] = {}
    first = True
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                header = first and not _is_number(cells[0])
                first = False
                try:
                    if header:
                        _check_header(cells)
                    else:
                        rows[reader.line_num] = _parse_row(cells)
                except ValueError as error:
                    bad[reader.line_num] = str(error)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a text file in the form of a BOP results csv: {error}") from error
    if first:
        raise ValueError(f"{path} is empty, without even a header: it was not written to its end")
    table = torch.tensor([numbers for _, numbers in rows.values()], dtype=torch.float64).reshape(-1, 14)
    bad |= _not_rotations(list(rows), table[:, 1:10].reshape(-1, 3, 3))
    if bad:
        shown = [f"line {line}: {what}" for line, what in sorted(bad.items())[:_SHOWN_ERRORS]]
        more = f"; and {len(bad) - _SHOWN_ERRORS} more lines" if len(bad) > _SHOWN_ERRORS else ""
        raise ValueError(f"{path} has bad rows: {'; '.join(shown)}{more}")
    return _assemble(torch.tensor([ids for ids, _ in rows.values()], dtype=torch.int64).reshape(-1, 3), table)


def write_results_csv(path: Path | str, results: Results) -> None:
    """Write a results file, whole or not at all; reading it back gives the same numbers."""
    lines = [",".join(COLUMNS)]
    columns = (results.scene_id, results.image_id, results.object_id, results.score, results.seconds)
    poses = results.T_cam_obj.double()
    if not bool(torch.isfinite(poses).all()) or not bool(torch.isfinite(results.score).all()):
        raise ValueError("results with poses or scores that are not finite are not written")
    for *ids, score, seconds, T in zip(*(column.tolist() for column in columns), poses, strict=True):
        R, t = _spaced(T[:3, :3].flatten().tolist()), _spaced(T[:3, 3].tolist())
        lines.append(",".join((*map(str, ids), repr(score), R, t, repr(seconds))))
    write_text(path, "\n".join(lines) + "\n")


def _spaced(values: Sequence[float]) -> str:
    return " ".join(map(repr, values))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _check_header(cells: Sequence[str]) -> None:
    names = tuple(cell.strip() for cell in cells)
    if names != COLUMNS:
        raise ValueError(f"the columns are {','.join(names)[:80]}; they must be {','.join(COLUMNS)}")


def _parse_row(cells: Sequence[str]) -> tuple[list[int], list[float]]:
    """Scene, image, object; score, nine of R, three of t, seconds."""
    if len(cells) != len(COLUMNS):
        raise ValueError(f"has {len(cells)} columns, not {len(COLUMNS)} ({','.join(COLUMNS)})")
    ids = [_whole(cell, name) for cell, name in zip(cells[:3], COLUMNS, strict=False)]
    score = _finite(cells[3:4], "score")
    R = _finite(cells[4].split(), "R")
    t = _finite(cells[5].split(), "t")
    seconds = _finite(cells[6:], "time")
    if len(R) != 9 or len(t) != 3:
        raise ValueError(f"R has {len(R)} numbers and t has {len(t)}; they must have 9 and 3, separated by spaces")
    return ids, [*score, *R, *t, *seconds]


def _whole(cell: str, name: str) -> int:
    try:
        number = int(cell)
    except ValueError:
        raise ValueError(f"{name} is {cell[:30]!r}, not a whole number") from None
    if abs(number) >= _LARGEST_ID:
        raise ValueError(f"{name} is {cell[:30]!r}, which 64 bits do not hold")
    return number


def _finite(cells: Sequence[str], name: str) -> list[float]:
    values = []
    for cell in cells:
        try:
            values.append(float(cell))
        except ValueError:
            raise ValueError(f"{name} holds {cell[:30]!r}, not a number") from None
        if not math.isfinite(values[-1]):
            raise ValueError(f"{name} holds {cell[:30]!r}, not a finite number")
    return values


def _not_rotations(lines: Sequence[int], R: Float[Tensor, "n 3 3"]) -> dict[int, str]:
    """What is wrong with the matrices that are far from a rotation, by line."""
    skew = (R.transpose(1, 2) @ R - torch.eye(3, dtype=R.dtype)).abs().amax((1, 2))
    mirrored = torch.linalg.det(R) < 0
    wrong = {}
    for line, off, mirror in zip(lines, skew.tolist(), mirrored.tolist(), strict=True):
        if off > _MAX_SKEW:
            wrong[line] = f"R is not a rotation: R^T R differs from the identity by {off:.2g}"
        elif mirror:
            wrong[line] = "R is a mirror image of a rotation (determinant -1)"
    return wrong


def _assemble(ids: Int[Tensor, "n 3"], table: Float[Tensor, "n 14"]) -> Results:
    T_cam_obj = make_transform(table[:, 1:10].reshape(-1, 3, 3), table[:, 10:13])
    scene, image, obj = ids.unbind(1)
    return Results(scene, image, obj, table[:, 0], T_cam_obj, table[:, 13])
