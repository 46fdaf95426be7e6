"""The CAD model: mesh, bounding sphere, symmetries, surface samples, and example parts made by code."""

from cad2pose.parts.builtin import BUILTIN_PARTS, builtin_part
from cad2pose.parts.mesh import Mesh, Units, load_mesh, save_ply
from cad2pose.parts.part import Part, load_bop_parts, load_part, read_models_info, write_models_info
from cad2pose.parts.surface import SurfaceSamples, farthest_points, sample_surface
from cad2pose.parts.symmetry import ContinuousSymmetry, Symmetries

__all__ = [
    "BUILTIN_PARTS", "ContinuousSymmetry", "Mesh", "Part", "SurfaceSamples", "Symmetries", "Units", "builtin_part",
    "farthest_points", "load_bop_parts", "load_mesh", "load_part", "read_models_info", "sample_surface", "save_ply",
    "write_models_info",
]  # fmt: skip
