"""Training: the loop, its settings, and what it leaves in the run folder."""

from cad2pose.training.config import TrainingConfig
from cad2pose.training.journal import Progress
from cad2pose.training.loop import train
from cad2pose.training.matches import CropMatches, crop_matches
from cad2pose.training.run import Run
from cad2pose.training.step import training_step
from cad2pose.training.validation import CropErrors, crop_errors, pose_crop_errors, validate

__all__ = [
    "CropErrors", "CropMatches", "Progress", "Run", "TrainingConfig", "crop_errors", "crop_matches",
    "pose_crop_errors", "train", "training_step", "validate",
]  # fmt: skip
