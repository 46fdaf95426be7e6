"""Training: the loop, its settings, and what it leaves in the run folder."""

from cad2pose.training.config import TrainingConfig
from cad2pose.training.loop import Progress, make_state, train, validate
from cad2pose.training.matches import CropMatches, crop_matches
from cad2pose.training.step import training_step
from cad2pose.training.validation import CropErrors, crop_errors, pose_crop_errors

__all__ = [
    "CropErrors", "CropMatches", "Progress", "TrainingConfig", "crop_errors", "crop_matches", "make_state",
    "pose_crop_errors", "train", "training_step", "validate",
]  # fmt: skip
