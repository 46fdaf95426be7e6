"""ResNet-18 and -34 as feature encoders: the usual architecture and parameter names, any width, no classifier.

Source: He et al. 2016, as used by SurfEmb (five taps at strides 2, 4, 8, 16 and 32).
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

TAP_STRIDES = (2, 4, 8, 16, 32)
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch d k l"]:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNetEncoder(nn.Module):
    """ResNet-18 or -34 up to its last stage.

    Args:
        width: channels of the stem; 64 is the published width, 32 a quarter of its cost.
        channels_in: 3 for RGB; more for extra maps, whose stem weights start at zero when pretrained
            weights are loaded.
        depth: 18 or 34.

    The input is `(B, channels_in, h, w)` with h and w multiples of 32; the output is a tuple of five
    feature maps at strides 2, 4, 8, 16, 32 with `tap_channels` channels.
    """

    def __init__(self, width: int = 64, channels_in: int = 3, depth: int = 18) -> None:
        super().__init__()
        self.tap_channels = (width, width, 2 * width, 4 * width, 8 * width)
        self.conv1 = nn.Conv2d(channels_in, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.depth = depth
        first, second, third, fourth = _BLOCKS[depth]
        self.layer1 = self._stage(width, width, 1, first)
        self.layer2 = self._stage(width, 2 * width, 2, second)
        self.layer3 = self._stage(2 * width, 4 * width, 2, third)
        self.layer4 = self._stage(4 * width, 8 * width, 2, fourth)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(channels_in: int, channels: int, stride: int, blocks: int) -> nn.Sequential:
        rest = (BasicBlock(channels, channels, 1) for _ in range(blocks - 1))
        return nn.Sequential(BasicBlock(channels_in, channels, stride), *rest)

    def forward(self, image: Float[Tensor, "batch c h w"]) -> tuple[Tensor, ...]:
        stem = torch.relu(self.bn1(self.conv1(image)))
        taps = [stem]
        x = nn.functional.max_pool2d(stem, 3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            taps.append(x)
        return tuple(taps)

    def load_pretrained(self, path: Path | str) -> None:
        """Load weights in the usual layout of a ResNet of this depth from a local `.safetensors` or `.pth` file.

        The classifier (`fc.*`) is ignored; a stem with more than three input channels keeps zeros there.

        Raises:
            ValueError: if it cannot be read, or names or shapes do not fit, naming the first of them.
        """
        path = Path(path)
        try:
            if path.suffix == ".safetensors":
                from safetensors.torch import load_file

                state = load_file(path)
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # what a damaged pickle raises is anybody's guess
            raise ValueError(f"{path} holds no weights that can be read: {str(error).splitlines()[0]}") from error
        if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise ValueError(f"{path} holds no names with weights, as the state of a network has them")
        state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
        own = self.state_dict()
        stem = state.get("conv1.weight")
        if stem is not None and stem.ndim == 4 and stem.shape[1] < own["conv1.weight"].shape[1]:
            padded = torch.zeros_like(own["conv1.weight"], dtype=stem.dtype)
            if padded[:, : stem.shape[1]].shape == stem.shape:
                padded[:, : stem.shape[1]] = stem
                state["conv1.weight"] = padded
        missing = sorted(name for name in own if name not in state and not name.endswith("num_batches_tracked"))
        unknown = sorted(set(state) - set(own))
        if missing or unknown:
            raise ValueError(
                f"{path} is not a ResNet-{self.depth}: it lacks {missing[:3] or 'nothing'} and has "
                f"unknown {unknown[:3] or 'nothing'}; the usual names (conv1, bn1, layer1.0.conv1, ...) are needed"
            )
        for name, tensor in state.items():
            if tensor.shape != own[name].shape:
                raise ValueError(
                    f"{path}: {name} has shape {tuple(tensor.shape)}, this encoder needs {tuple(own[name].shape)}; "
                    "pretrained weights fit width 64 only"
                )
        self.load_state_dict(state, strict=False)
