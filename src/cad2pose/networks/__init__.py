"""Neural networks that know nothing of poses."""

from cad2pose.networks.convnext import ConvNeXtEncoder
from cad2pose.networks.geometry_head import GeometryHead
from cad2pose.networks.patch_pnp import PatchPnP
from cad2pose.networks.resnet import ResNetEncoder
from cad2pose.networks.siren import KeyNetwork
from cad2pose.networks.thesis_head import DropBlock, ThesisHead
from cad2pose.networks.unet import UNetDecoder

__all__ = [
    "ConvNeXtEncoder", "DropBlock", "GeometryHead", "KeyNetwork", "PatchPnP", "ResNetEncoder", "ThesisHead",
    "UNetDecoder",
]  # fmt: skip
