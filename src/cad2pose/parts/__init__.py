"""The CAD model: mesh, bounding sphere, symmetries, surface samples, and example parts made by code."""

from cad2pose.parts.builtin import BUILTIN_PARTS, builtin_part
from cad2pose.parts.mesh import Mesh, Units, load_mesh, save_ply
from cad2pose.parts.part import Part, load_bop_parts, load_part, read_models_info, update_models_info, write_models_info
from cad2pose.parts.surface import SurfaceSamples, farthest_points, sample_surface
from cad2pose.parts.symmetry import ContinuousSymmetry, Symmetries
from cad2pose.parts.symmetry_choice import nearest_equivalent
from cad2pose.parts.symmetry_finder import SymmetryOptions, SymmetryReport, find_symmetries

__all__ = [
    "BUILTIN_PARTS", "ContinuousSymmetry", "Mesh", "Part", "SurfaceSamples", "Symmetries", "SymmetryOptions",
    "SymmetryReport", "Units", "builtin_part", "farthest_points", "find_symmetries", "load_bop_parts", "load_mesh",
    "load_part", "nearest_equivalent", "read_models_info", "sample_surface", "save_ply", "update_models_info",
    "write_models_info",
]  # fmt: skip
