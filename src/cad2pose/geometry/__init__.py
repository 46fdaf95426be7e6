"""Maths of rotations, rigid transforms, cameras and crops; batched torch, no state."""

from cad2pose.geometry.boxes import (
    box_overlap,
    clip_box,
    mask_box,
    pixel_window,
    projected_box,
    undistort_boxes,
    undistorted_image_box,
)
from cad2pose.geometry.camera import Camera
from cad2pose.geometry.crop import (
    VirtualCamera,
    rotate_transform,
    virtual_camera,
    warp_depth_to_crops,
    warp_to_crops,
)
from cad2pose.geometry.intrinsics import invert_intrinsics, project_points, resized_intrinsics, unproject_pixels
from cad2pose.geometry.rotation import (
    axis_angle_from_rotation,
    geodesic_distance,
    nearest_rotation,
    quaternion_from_rotation,
    random_rotations,
    rotation_about_z,
    rotation_from_6d,
    rotation_from_axis_angle,
    rotation_from_quaternion,
    rotation_to_ray,
    rotations_towards,
    six_d_from_rotation,
    skew,
)
from cad2pose.geometry.transform import exp_se3, invert_transform, log_se3, make_transform, transform_points

__all__ = [
    "Camera", "VirtualCamera", "axis_angle_from_rotation", "box_overlap", "clip_box", "exp_se3", "geodesic_distance",
    "invert_intrinsics", "invert_transform", "log_se3", "make_transform", "mask_box", "nearest_rotation",
    "pixel_window", "project_points", "projected_box", "quaternion_from_rotation", "random_rotations",
    "resized_intrinsics", "rotate_transform", "rotation_about_z", "rotation_from_6d", "rotation_from_axis_angle",
    "rotation_from_quaternion", "rotation_to_ray", "rotations_towards", "six_d_from_rotation", "skew",
    "transform_points", "undistort_boxes", "undistorted_image_box", "unproject_pixels", "virtual_camera",
    "warp_depth_to_crops", "warp_to_crops",
]  # fmt: skip
