"""Meshes and poses in, pictures out: rasteriser, interpolation, shadows, shading."""

from cad2pose.rendering.light_paths import openness, shadows
from cad2pose.rendering.meshes import MeshSet
from cad2pose.rendering.rasterizer import NEAR, Fragments, rasterize
from cad2pose.rendering.render import Rendering, render
from cad2pose.rendering.shading import Lights, Material, shade, to_display, to_linear

__all__ = [
    "NEAR", "Fragments", "Lights", "Material", "MeshSet", "Rendering", "openness", "rasterize", "render", "shade",
    "shadows", "to_display", "to_linear",
]  # fmt: skip
