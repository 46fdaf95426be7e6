"""A part: a mesh, its name and id, its symmetries, and the frame that networks see it in."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor

from cad2pose.files import write_text
from cad2pose.parts.bounds import bounding_sphere, largest_distance
from cad2pose.parts.mesh import Mesh, Units, load_mesh
from cad2pose.parts.symmetry import Symmetries

_DIAMETER_TOLERANCE = 0.1
_CENTRE_TOLERANCE = 0.1  # of the diameter


@dataclass(frozen=True, eq=False)
class Part:
    """What the other rooms know of an object.

    Args:
        name: for people.
        object_id: as in the BOP data set, or any positive number.
        mesh: in the mesh file's own frame, mm; all poses refer to it.
        symmetries: declared ones.
        center: `(3,)` centre of the smallest bounding sphere, mm, float64.
        radius: of that sphere, mm.
        diameter: largest distance of two vertices, mm (BOP's threshold unit).
    """

    name: str
    object_id: int
    mesh: Mesh
    symmetries: Symmetries
    center: Float[Tensor, "3"]
    radius: float
    diameter: float

    @classmethod
    def from_mesh(
        cls,
        name: str,
        mesh: Mesh,
        object_id: int = 1,
        symmetries: Symmetries | None = None,
        diameter: float | None = None,
    ) -> Part:
        """Part with its sphere and diameter measured on the mesh.

        A stated `diameter` (models_info.json) is kept, as BOP's thresholds hang on it.

        Raises:
            ValueError: if a stated diameter differs from the mesh's by more than 10 %.
        """
        center, radius = bounding_sphere(mesh.used_vertices)
        measured = largest_distance(mesh.used_vertices)
        if diameter is not None and not abs(diameter - measured) <= _DIAMETER_TOLERANCE * measured:  # nan, too
            raise ValueError(
                f"{name}: models_info states a diameter of {diameter:.5g} mm, but the mesh measures {measured:.5g} mm; "
                "check the units of the mesh and the object id"
            )
        symmetries = Symmetries() if symmetries is None else symmetries
        moved = symmetries.largest_shift(center) / measured
        if moved > _CENTRE_TOLERANCE:
            warnings.warn(
                f"{name}: a declared symmetry moves the middle of the part by {100 * moved:.0f} % of its diameter, "
                "which no symmetry of its shape does; is the offset of its axis missing, or is it of another mesh?",
                stacklevel=2,
            )
        return cls(name, object_id, mesh, symmetries, center, radius, measured if diameter is None else diameter)

    def normalize(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Object coordinates in mm -> (x - centre) / radius, within the unit ball."""
        return (points - self.center.to(points)) / self.radius

    def middle(self, T_cam_obj: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 3"]:
        """The part's centre in camera coordinates, mm."""
        return T_cam_obj[..., :3, :3] @ self.center.to(T_cam_obj) + T_cam_obj[..., :3, 3]

    def is_ahead(self, T_cam_obj: Float[Tensor, "*batch 4 4"]) -> Bool[Tensor, "*batch"]:
        """Whether the part's centre lies before the camera; where its file's origin lies does not matter."""
        return self.middle(T_cam_obj)[..., 2] > 0

    def to_bop(self) -> dict[str, object]:
        """This part's entry in models_info.json, all keys in BOP's order."""
        low, high = self.mesh.used_vertices.aminmax(dim=0)
        entry: dict[str, object] = {"diameter": self.diameter}
        entry |= {f"min_{axis}": value for axis, value in zip("xyz", low.tolist(), strict=True)}
        entry |= {f"size_{axis}": value for axis, value in zip("xyz", (high - low).tolist(), strict=True)}
        return entry | self.symmetries.to_bop()


def load_part(
    path: Path | str,
    units: Units = "mm",
    object_id: int = 1,
    name: str | None = None,
    symmetries: Symmetries | None = None,
    models_info: Path | str | None = None,
) -> Part:
    """Part from a mesh file.

    `models_info` names a BOP models_info.json, whose entry for `object_id` gives diameter and symmetries;
    `symmetries` overrides it.

    Raises:
        FileNotFoundError, ValueError: as `load_mesh` and `read_models_info`; or for an id without an entry.
    """
    mesh = load_mesh(path, units)
    name = Path(path).stem if name is None else name
    if models_info is None:
        return Part.from_mesh(name, mesh, object_id, symmetries)
    entries = read_models_info(models_info)
    if object_id not in entries:
        raise ValueError(f"{models_info} has no object {object_id}; it has {', '.join(map(str, sorted(entries)))}")
    return _part_with_entry(name, mesh, object_id, entries[object_id], symmetries, Path(models_info))


def load_bop_parts(models_dir: Path | str, object_ids: Sequence[int] | None = None) -> list[Part]:
    """Parts of a BOP models folder (models_info.json, obj_000001.ply, ...), in the order asked for.

    Raises:
        FileNotFoundError: for a missing folder, models_info.json or mesh.
        ValueError: for ids that models_info.json does not have, or damaged files.
    """
    folder = Path(models_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no models folder {folder}")
    info_path = folder / "models_info.json"
    entries = read_models_info(info_path)
    wanted = sorted(entries) if object_ids is None else list(object_ids)
    unknown = [object_id for object_id in wanted if object_id not in entries]
    if unknown:
        known = ", ".join(map(str, sorted(entries)))
        raise ValueError(f"{info_path} has no object {', '.join(map(str, unknown))}; it has {known}")
    parts = []
    for object_id in wanted:
        name = f"obj_{object_id:06d}"
        mesh = load_mesh(folder / f"{name}.ply", keep_vertices=True)
        parts.append(_part_with_entry(name, mesh, object_id, entries[object_id], None, info_path))
    return parts


def _part_with_entry(
    name: str, mesh: Mesh, object_id: int, entry: Mapping[str, object], symmetries: Symmetries | None, source: Path
) -> Part:
    try:
        diameter = float(entry["diameter"]) if "diameter" in entry else None  # type: ignore[arg-type]
        symmetries = Symmetries.from_bop(entry) if symmetries is None else symmetries
        return Part.from_mesh(name, mesh, object_id, symmetries, diameter)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}, object {object_id}: {error}") from error


def read_models_info(path: Path | str) -> dict[int, dict[str, object]]:
    """Entries of a BOP models_info.json by object id.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: unless it is a json object of objects whose keys are numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
            raise ValueError('it must look like {"1": {"diameter": ..., ...}, ...}')
        return {int(key): entry for key, entry in content.items()}
    except ValueError as error:  # json and unicode errors are ValueErrors
        raise ValueError(f"{path} is not a models_info.json: {error}") from error


def write_models_info(path: Path | str, parts: Sequence[Part]) -> None:
    """Write models_info.json, one line per part."""
    _write_entries(path, {part.object_id: part.to_bop() for part in parts})


def check_entry(path: Path | str, part: Part) -> None:
    """Find out early whether a part's entry can be put into a models_info.json, which need not be there yet.

    Raises:
        ValueError: if there is a file that is not a models_info.json, or its entry of the part's id states another
            diameter, and so is another part's.
    """
    known = read_models_info(path).get(part.object_id, {}) if Path(path).exists() else {}
    stated = known.get("diameter")
    if isinstance(stated, int | float) and abs(stated - part.diameter) > _DIAMETER_TOLERANCE * part.diameter:
        raise ValueError(
            f"object {part.object_id} of {path} has a diameter of {stated:.5g} mm, but {part.name} measures "
            f"{part.diameter:.5g} mm: it seems to be another part; give this one an id of its own with --object-id, "
            "or remove that entry"
        )


def update_models_info(path: Path | str, part: Part) -> None:
    """Put a part's entry into a models_info.json, which need not be there yet; the other entries stay as they are.

    Of the part's own entry all but the symmetries stays, too: BOP's thresholds hang on the diameter that it states.
    The file is replaced as a whole or not at all.

    Raises:
        ValueError: as `check_entry`; the file is left alone.
        OSError: if it cannot be written.
    """
    check_entry(path, part)
    entries = read_models_info(path) if Path(path).exists() else {}
    known = entries.get(part.object_id, {})
    kept = {key: value for key, value in known.items() if not key.startswith("symmetries_")}
    measured = part.to_bop()
    entries[part.object_id] = {name: kept.get(name, value) for name, value in measured.items()} | kept
    _write_entries(path, entries)


def _write_entries(path: Path | str, entries: Mapping[int, Mapping[str, object]]) -> None:
    lines = [f'  "{object_id}": {json.dumps(entry)}' for object_id, entry in entries.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
