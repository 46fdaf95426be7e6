"""Pictures for people: overlays, contact sheets, and the files they go to."""

from cad2pose.pictures.contact_sheet import contact_sheet
from cad2pose.pictures.image_file import save_png
from cad2pose.pictures.overlay import OverlayStyle, draw_poses

__all__ = ["OverlayStyle", "contact_sheet", "draw_poses", "save_png"]
