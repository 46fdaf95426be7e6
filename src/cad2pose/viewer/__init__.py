"""A page in the browser that shows what the network said of a detection: live distributions over the part, poses."""

from cad2pose.viewer.page import page_of
from cad2pose.viewer.scene import DrawnPart, Scene
from cad2pose.viewer.scene_maker import SceneMaker
from cad2pose.viewer.server import ViewerServer

__all__ = ["DrawnPart", "Scene", "SceneMaker", "ViewerServer", "page_of"]
