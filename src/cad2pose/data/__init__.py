"""BOP datasets, results and detections on disk, and synthetic crops made without end."""

from cad2pose.data.bop import BopDataset, find_dataset
from cad2pose.data.bop_files import BopInstance, BopTarget
from cad2pose.data.bop_scene import BopImage, BopScene
from cad2pose.data.detections import read_detections, write_detections
from cad2pose.data.images import read_image
from cad2pose.data.pose_prior import PosePrior
from cad2pose.data.results import Results, read_results_csv, write_results_csv
from cad2pose.data.scenes import Photo, synthetic_photo
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops

__all__ = [
    "BopDataset", "BopImage", "BopInstance", "BopScene", "BopTarget", "Photo", "PosePrior", "Results",
    "SyntheticConfig", "SyntheticCrops", "find_dataset", "read_detections", "read_image", "read_results_csv",
    "synthetic_photo", "write_detections", "write_results_csv",
]  # fmt: skip
