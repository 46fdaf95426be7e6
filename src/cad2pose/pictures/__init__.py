"""Pictures for people: overlays, contact sheets, what a query image says, and the files they go to."""

from cad2pose.pictures.contact_sheet import contact_sheet
from cad2pose.pictures.debug_sheet import debug_sheet
from cad2pose.pictures.distribution import (
    distribution_picture,
    distribution_views,
    most_certain_pixel,
    pixel_distribution,
)
from cad2pose.pictures.false_colour import EmbeddingPalette, embedding_colours, key_picture, query_picture
from cad2pose.pictures.image_file import save_png
from cad2pose.pictures.outlines import Outline, draw_outlines, truth_and_estimate
from cad2pose.pictures.overlay import OverlayStyle, draw_poses
from cad2pose.pictures.score_map import score_map_picture

__all__ = [
    "EmbeddingPalette", "Outline", "OverlayStyle", "contact_sheet", "debug_sheet", "distribution_picture",
    "distribution_views", "draw_outlines", "draw_poses", "embedding_colours", "key_picture", "most_certain_pixel",
    "pixel_distribution", "query_picture", "save_png", "score_map_picture", "truth_and_estimate",
]  # fmt: skip
