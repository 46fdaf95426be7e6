"""Starting a training from a trained model instead of from random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cad2pose.methods import Method
from cad2pose.model_file import Model
from cad2pose.networks import ResNetEncoder
from cad2pose.parts import Part

# Weights with rows for every part: their keys, outputs of a shared decoder (unless these are shared as well), offsets
# and outputs of the head. A part may also have a decoder of its own (`decoders.PLACE.`).
_IN_ROWS = ("keys.", "decoder.last.", "head.object_offset", "head.output_")


def same_parts(a: Sequence[Part], b: Sequence[Part]) -> bool:
    """Whether two models serve the same meshes in the same order."""
    return len(a) == len(b) and all(_same_mesh(one, two) for one, two in zip(a, b, strict=True))


def _same_mesh(a: Part, b: Part) -> bool:
    one, two = (part.mesh.vertices.float() for part in (a, b))
    return one.shape == two.shape and bool(torch.allclose(one, two))


def check_frozen(method: Method, parts: Sequence[Part], model: Model | None) -> None:
    """Raise ValueError where a method with frozen networks has no trained ones to take them from."""
    frozen = {name for name, parameter in method.named_parameters() if not parameter.requires_grad}
    if not frozen:
        return
    if model is None:
        raise ValueError(
            "the query network is to be frozen, and there is none: give a trained model of these parts (start)"
        )
    if not same_parts(parts, model.parts):
        here, there = (", ".join(part.name for part in some) for some in (parts, model.parts))
        raise ValueError(
            f"the query network to be frozen knows {there}, and the parts are {here}; give a model of those"
        )
    given = model.method.state_dict()
    missing = sorted(
        n for n, p in method.named_parameters() if n in frozen and given.get(n, p[..., :0]).shape != p.shape
    )
    if missing:
        raise ValueError(
            f"the query network to be frozen has other settings or is of another method: {missing[0]} does not fit; "
            "give the settings that it was trained with"
        )
    for name in ("crop_size", "pad", "stride"):
        wanted, there = (getattr(some.config, name, None) for some in (method, model.method))
        if wanted != there:
            raise ValueError(
                f"the query network to be frozen was trained with {name} {there}, and {name} is {wanted}; it knows "
                "nothing of such crops, so give the settings that it was trained with"
            )


@torch.no_grad()
def warm_start(method: Method, parts: Sequence[Part], model: Model) -> list[str]:
    """Copy every weight of `model` that fits; returns the names of those of `method` that stay random, if only in part.

    Weights that belong to single parts are copied for those parts that both have (the same mesh, in whatever place), so
    that a model of other parts lends what it knows of pictures and poses in general, and one of some of the parts all
    it knows of these. A model of another method lends what has the same name and shape in both: the encoder at least.

    Raises:
        ValueError: if nothing of the encoder fits.
    """
    given = dict(model.method.state_dict())
    whole = same_parts(parts, model.parts)
    twins = _twins(parts, model.parts)
    shared = () if getattr(method.config, "class_aware", True) else ("decoder.last.",)  # GDR-Net's maps, of all parts
    left = []
    for name, value in method.state_dict().items():
        source = given.get(_decoder_of_twin(name, twins) if name.startswith("decoders.") else name)
        if source is not None and name.startswith(_IN_ROWS) and not name.startswith(shared) and not whole:
            known = _rows_copied(value, source, twins, len(parts), len(model.parts))
        else:
            known = _copied(value, source)
        if not known:
            left.append(name)
    weights = {name for name, _ in method.named_parameters() if name.startswith("encoder.")}
    if weights and weights <= set(left):
        raise ValueError("the model to start from has another encoder: its width must be that of the new model")
    return left


def _twins(parts: Sequence[Part], others: Sequence[Part]) -> dict[int, int]:
    """Places of the parts that are among others, and the places they have there."""
    found = {}
    for here, part in enumerate(parts):
        there = next((place for place, other in enumerate(others) if _same_mesh(part, other)), None)
        if there is not None:
            found[here] = there
    return found


def _decoder_of_twin(name: str, twins: Mapping[int, int]) -> str:
    """Name in the other model of a weight of a part's own decoder; empty where the part is not in there."""
    room, place, rest = name.split(".", 2)
    there = twins.get(int(place))
    return "" if there is None else f"{room}.{there}.{rest}"


def _copied(value: Tensor, source: Tensor | None) -> bool:
    if source is None or source.shape != value.shape:
        return False
    value.copy_(source)
    return True


def _rows_copied(value: Tensor, source: Tensor, twins: Mapping[int, int], count: int, others: int) -> bool:
    """Copy the rows of parts that both have, of weights with equally many for each part; whether those are all."""
    if value.shape[0] % count or source.shape[0] % others:
        return False
    ours, theirs = value.unflatten(0, (count, -1)), source.unflatten(0, (others, -1))
    if ours.shape[1:] != theirs.shape[1:]:
        return False
    for here, there in twins.items():
        ours[here].copy_(theirs[there])
    return len(twins) == count


def load_backbone(method: Method, path: Path) -> list[str]:
    """Load an encoder's weights from a file (see `ResNetEncoder.load_pretrained`); returns the names that stay random.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the method's encoder is no ResNet, or the weights do not fit it.
    """
    encoder = method.get_submodule("encoder") if hasattr(method, "encoder") else None
    if not isinstance(encoder, ResNetEncoder):
        kind = "no encoder" if encoder is None else f"a {type(encoder).__name__}"
        raise ValueError(f"{path} has weights of a ResNet, and this model has {kind}; choose one with a ResNet")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} with an encoder's weights")
    encoder.load_pretrained(path)
    return [name for name in method.state_dict() if not name.startswith("encoder.")]


def fresh_modules(method: Method, left: Sequence[str]) -> list[str]:
    """Modules with weights that stay random, in the order of the network: a whole room of it, modules, or weights."""
    fresh = set(left)
    lent_to = {name.split(".")[0] for name in method.state_dict() if name not in fresh}
    found: dict[str, None] = {}
    for name in left:
        room, module = name.split(".")[0], name.rpartition(".")[0]
        found[room if room not in lent_to else name if module == room else module] = None
    return list(found)
