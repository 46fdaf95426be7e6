"""From an image, its camera and detected boxes to poses."""

from cad2pose.estimator.fusion import fuse_poses
from cad2pose.estimator.inspection import Inspection, inspect_estimates, query_image_method, surface_keys_of
from cad2pose.estimator.options import EstimatorOptions
from cad2pose.estimator.pose_estimator import PoseEstimator
from cad2pose.estimator.selection import best_per_object, likely_right
from cad2pose.estimator.steady import SteadyPoses

__all__ = [
    "EstimatorOptions", "Inspection", "PoseEstimator", "SteadyPoses", "best_per_object", "fuse_poses",
    "inspect_estimates", "likely_right", "query_image_method", "surface_keys_of",
]  # fmt: skip
