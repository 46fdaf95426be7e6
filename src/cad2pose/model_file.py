"""The self-contained model file: weights, parts, symmetries, conventions and version in one safetensors file.

What its scores are worth is in it, too, or beside it where it was learnt later and the file is to stay as it is.

No pickle: a file holds tensors and one JSON header, so reading it runs nothing that comes from it. Weights are kept in
half precision (buffers, such as running statistics, as they are), meshes as float32 vertices, float16 normals, uint8
colours, and faces as uint16 where that is enough for their vertices, else int32.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cad2pose import __version__
from cad2pose.confidence import (
    Calibrations,
    calibration_path,
    calibrations_beside,
    calibrations_from_json,
    calibrations_to_json,
)
from cad2pose.methods import GdrNetConfig, Method, MethodConfig, QueryConfig, SurfEmbConfig
from cad2pose.parts.mesh import Mesh
from cad2pose.parts.part import Part
from cad2pose.parts.symmetry import Symmetries
from cad2pose.settings import describe, read_settings
from cad2pose.tensor_files import first_file, first_files, numbered_files, read_tensors, write_tensors

FORMAT = "cad2pose model"
DEPTH_ERRORS = "depth_percent"  # in a model's info: of every part, in their order
IMAGES = "images"  # in a model's info: folders of labelled images that it has learnt from, if any
FORMAT_VERSION = 1
CONVENTIONS = (
    "T_cam_obj takes the mesh file's frame to the OpenCV camera frame (x right, y down, z forward); millimetres; "
    "pixel centres at integers; boxes x y w h measured from the image's left and upper edge; RGB in [0, 1]; "
    "networks see (x - centre) / radius of the bounding sphere"
)

_METHODS: dict[str, type] = {  # by the method's class
    "QueryMethod": QueryConfig, "SurfEmbMethod": SurfEmbConfig, "GdrNetMethod": GdrNetConfig,
}  # fmt: skip


# Settings that older files lack, and what was before.
_BEFORE: dict[str, dict[str, typing.Any]] = {
    "QueryConfig": {
        "intermediate": "queries", "head": "patch-pnp", "rotation_loss": "points", "frozen": False,
        "pose_gradient": 1.0,
    },
    "GdrNetConfig": {"pose_gradient": 1.0},
    "LossWeights": {"coordinates": 2.0},
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A trained method, the parts it knows, and how it came to be.

    Args:
        method: in eval mode, float32 weights.
        parts: in the order of the method's `part_index`.
        info: free text about the training, such as samples, seconds, device.
        calibrations: what its scores are worth; none in a file that was not calibrated.
    """

    method: Method
    parts: tuple[Part, ...]
    info: Mapping[str, str]
    calibrations: Calibrations = field(default_factory=dict)

    def depth_error(self, index: int) -> float | None:
        """Median relative depth error of a part's regressed poses on fresh crops; None where it is not known."""
        errors = self.info.get(DEPTH_ERRORS, "").split()
        return float(errors[index]) / 100 if len(errors) == len(self.parts) else None


def shipped_model_path(name: str = "builtin") -> Path:
    """The model file that comes with the package.

    Raises:
        FileNotFoundError: if this installation has none of that name.
    """
    folder = Path(__file__).parent / "weights"
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        present = ", ".join(sorted(p.stem for p in folder.glob("*.safetensors"))) or "none"
        raise FileNotFoundError(
            f"this installation ships no model named {name!r} (there is {present}, in {folder}); "
            "reinstall the package, or train one with `cad2pose train`"
        )
    return path


def model_files(folder: Path | str) -> list[Path]:
    """The model files of a folder, by name; of a model in several files the first."""
    return first_files(Path(folder))


def save_model(
    path: Path | str,
    method: Method,
    parts: Sequence[Part],
    info: Mapping[str, str],
    calibrations: Calibrations | None = None,
    most_bytes: int | None = None,
) -> tuple[Path, ...]:
    """Write a model file, whole or not at all; `parts` are the method's, in its order.

    Calibrations beside a file of that name, which were another model's, are removed. With `most_bytes` a larger model
    becomes NAME-00001-of-00002.safetensors and so on.

    Returns:
        The files.

    Raises:
        ValueError: if a weight is not finite in half precision.
        OSError: if it cannot be written.
    """
    assert len(parts) == len(method.parts), "a model file holds the parts of its method and no others"
    tensors = {f"weights.{name}": value for name, value in _half_precision(method).items()}
    for index, part in enumerate(parts):
        tensors |= {f"parts.{index}.{name}": value for name, value in _mesh_tensors(part.mesh).items()}
    header = {
        "cad2pose": __version__,
        "conventions": CONVENTIONS,
        "method": type(method).__name__,
        "config": describe(method.config),
        "parts": [_part_entry(part) for part in parts],
        "info": {str(key): str(value) for key, value in info.items()},
    }
    if calibrations:
        header["calibrations"] = calibrations_to_json(calibrations)
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "header": json.dumps(header)}
    path = Path(path)
    before = (path, *numbered_files(path))
    written = write_tensors(path, tensors, metadata, most_bytes)
    for file in (*before, *written):
        calibration_path(file).unlink(missing_ok=True)
    return written


def load_model(path: Path | str, device: torch.device | str = "cpu", beside: bool = True) -> Model:
    """Read a model file, and calibrations beside it; its method is in eval mode, float32, and needs no gradient.

    Args:
        path: the file, or any of several of one model.
        device: where to.
        beside: read the calibrations beside it, too, where there are any.

    Raises:
        FileNotFoundError: if there is no such file, or one of several is missing.
        ValueError: if it is truncated, no cad2pose model, of another format version, or inconsistent.
        CalibrationError: if the calibrations beside it are damaged, or not its own.
    """
    path = first_file(Path(path))
    metadata, tensors = read_tensors(path)
    _check_version(path, metadata)
    try:
        header = json.loads(metadata["header"])
        parts = tuple(_read_part(entry, index, tensors) for index, entry in enumerate(header["parts"]))
        method = _read_method(header, parts, tensors)
        info = {str(key): str(value) for key, value in header["info"].items()}
        calibrations = calibrations_from_json(header.get("calibrations", {}), len(parts))
    except KeyError as error:
        raise ValueError(f"{path}: the model file is damaged: {error} is missing") from error
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{path}: the model file is damaged or of another cad2pose: {error}") from error
    learnt_later = calibrations_beside(path, len(parts)) if beside else None
    if learnt_later is not None:
        calibrations = learnt_later
    return Model(method.to(device).eval().requires_grad_(False), parts, info, calibrations)


def _check_version(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: a safetensors file, but not a cad2pose model; `cad2pose train` makes those")
    version = metadata.get("format_version")
    if version != str(FORMAT_VERSION):
        raise ValueError(
            f"{path}: model format version {version}; cad2pose {__version__} understands version {FORMAT_VERSION}. "
            "Install the cad2pose that wrote it, or train the model anew"
        )


def _half_precision(method: Method) -> dict[str, Tensor]:
    """Parameters as float16, buffers as they are (running variances would underflow)."""
    parameters = {name for name, _ in method.named_parameters()}
    state: dict[str, Tensor] = {}
    for name, value in method.state_dict().items():
        value = value.detach().cpu()
        if name in parameters and value.is_floating_point():
            value = value.to(torch.float16)
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"weight {name} is not finite in half precision: the training diverged, nothing was saved")
        state[name] = value.clone().contiguous()
    return state


def _read_method(header: dict[str, typing.Any], parts: tuple[Part, ...], tensors: Mapping[str, Tensor]) -> Method:
    if header["method"] not in _METHODS:
        raise ValueError(f"method {header['method']!r} is not one of {', '.join(_METHODS)}")
    config: MethodConfig = read_settings(_METHODS[header["method"]], header["config"], before=_BEFORE)
    method = config.build(parts)
    prefix = "weights."
    weights = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
    method.load_state_dict(weights)  # copies into the float32 parameters
    return method


def _mesh_tensors(mesh: Mesh) -> dict[str, Tensor]:
    few = len(mesh.vertices) <= 1 << 16
    tensors = {
        "vertices": mesh.vertices.to(torch.float32),
        "faces": mesh.faces.to(torch.uint16 if few else torch.int32),
        "normals": mesh.normals.to(torch.float16),
    }
    if mesh.colors is not None:
        tensors["colors"] = (mesh.colors * 255).round().clamp(0, 255).to(torch.uint8)
    return {name: value.cpu().clone().contiguous() for name, value in tensors.items()}


def _part_entry(part: Part) -> dict[str, object]:
    return {
        "name": part.name,
        "object_id": part.object_id,
        "symmetries": part.symmetries.to_bop(),
        "center": part.center.tolist(),
        "radius": part.radius,
        "diameter": part.diameter,
    }


def _read_part(entry: dict[str, typing.Any], index: int, tensors: Mapping[str, Tensor]) -> Part:
    """One part of the file; its centre, radius and diameter are those it was trained with, to the last digit."""
    vertices, faces, normals = (tensors[f"parts.{index}.{name}"] for name in ("vertices", "faces", "normals"))
    colors = tensors.get(f"parts.{index}.colors")
    mesh = Mesh(
        vertices.to(torch.float64), faces.to(torch.int64), normalize(normals.to(torch.float64), dim=-1),
        None if colors is None else colors.to(torch.float32) / 255,
    )  # fmt: skip
    return Part(
        name=str(entry["name"]), object_id=int(entry["object_id"]), mesh=mesh,
        symmetries=Symmetries.from_bop(entry["symmetries"]),
        center=torch.tensor(entry["center"], dtype=torch.float64),
        radius=float(entry["radius"]), diameter=float(entry["diameter"]),
    )  # fmt: skip
