"""Neural networks that know nothing of poses."""

from cad2pose.networks.patch_pnp import PatchPnP
from cad2pose.networks.resnet import ResNetEncoder
from cad2pose.networks.siren import KeyNetwork
from cad2pose.networks.unet import UNetDecoder

__all__ = ["KeyNetwork", "PatchPnP", "ResNetEncoder", "UNetDecoder"]
