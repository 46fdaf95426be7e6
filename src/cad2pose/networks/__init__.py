"""Neural networks that know nothing of poses."""

from cad2pose.networks.convnext import ConvNeXtEncoder
from cad2pose.networks.geometry_head import GeometryHead
from cad2pose.networks.patch_pnp import PER_OBJECT_VECTORS, PER_OBJECT_WEIGHT, PatchPnP
from cad2pose.networks.resnet import ResNetEncoder
from cad2pose.networks.siren import KeyNetwork
from cad2pose.networks.thesis_head import DropBlock, ThesisHead
from cad2pose.networks.unet import UNetDecoder

__all__ = [
    "PER_OBJECT_VECTORS", "PER_OBJECT_WEIGHT", "ConvNeXtEncoder", "DropBlock", "GeometryHead", "KeyNetwork", "PatchPnP",
    "ResNetEncoder", "ThesisHead", "UNetDecoder",
]  # fmt: skip
