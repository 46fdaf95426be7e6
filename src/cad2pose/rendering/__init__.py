"""Meshes and poses in, pictures out: rasteriser, interpolation, shading."""

from cad2pose.rendering.meshes import MeshSet
from cad2pose.rendering.rasterizer import NEAR, Fragments, rasterize
from cad2pose.rendering.render import Rendering, render
from cad2pose.rendering.shading import Lights, Material, shade

__all__ = ["NEAR", "Fragments", "Lights", "Material", "MeshSet", "Rendering", "rasterize", "render", "shade"]
