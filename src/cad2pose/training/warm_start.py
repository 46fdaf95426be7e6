"""Starting a training from a trained model instead of from random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from cad2pose.methods import Method
from cad2pose.model_file import Model
from cad2pose.networks import ResNetEncoder
from cad2pose.parts import Part

# What belongs to single parts: their keys, their decoders or outputs of the decoder, their offsets and outputs of the
# head.
_OF_PARTS = ("keys.", "decoders.", "decoder.last.", "head.object_offset", "head.output_")


def same_parts(a: Sequence[Part], b: Sequence[Part]) -> bool:
    """Whether two models serve the same meshes in the same order."""
    if len(a) != len(b):
        return False
    pairs = zip(a, b, strict=True)
    return all(
        one.mesh.vertices.shape == two.mesh.vertices.shape
        and bool(torch.allclose(one.mesh.vertices.float(), two.mesh.vertices.float()))
        for one, two in pairs
    )


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
    """Copy every weight of `model` that fits; returns the names of those of `method` that stay random.

    Weights that belong to single parts are copied only where the parts are the same, so that a model of other parts
    lends what it knows of pictures and poses in general. A model of another method lends what has the same name and
    shape in both: the encoder at least.

    Raises:
        ValueError: if nothing of the encoder fits.
    """
    given = dict(model.method.state_dict())
    of_same_parts = same_parts(parts, model.parts)
    left = []
    for name, value in method.state_dict().items():
        source = given.get(name)
        usable = of_same_parts or not name.startswith(_OF_PARTS)
        if usable and source is not None and source.shape == value.shape:
            value.copy_(source.to(value))
        else:
            left.append(name)
    weights = {name for name, _ in method.named_parameters() if name.startswith("encoder.")}
    if weights and weights <= set(left):
        raise ValueError("the model to start from has another encoder: its width must be that of the new model")
    return left


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
