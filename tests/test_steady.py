"""Poses of a video: symmetric parts do not jump, others and what is seen anew are left alone."""

from __future__ import annotations

from dataclasses import replace

import torch

from cad2pose.estimator import SteadyPoses
from cad2pose.evaluation.pose_error import nearest_symmetric_errors
from cad2pose.geometry import make_transform, random_rotations, rotation_about_z
from cad2pose.parts import Part, builtin_part
from cad2pose.structures import PoseDetails, PoseEstimates


def estimates(object_id: int, T_cam_obj: torch.Tensor) -> PoseEstimates:
    count = len(T_cam_obj)
    details = PoseDetails.unknown([None] * count)
    details = replace(details, alternatives=T_cam_obj[:, None].clone(), probability=torch.ones(count, 1).double())
    score, box = torch.ones(count, dtype=torch.float64), torch.ones(count, 4)
    return PoseEstimates(torch.full((count,), object_id), T_cam_obj, score, box, details=details)


def video(part: Part, images: int = 8) -> torch.Tensor:
    """Two instances that turn and move slowly, 300 mm apart, each estimated in any of its equivalent poses."""
    generator = torch.Generator().manual_seed(0)
    start = random_rotations(2, generator, torch.float64)
    members = torch.cat((torch.eye(4, dtype=torch.float64)[None], part.symmetries.discrete))
    found = []
    for image in range(images):
        R = rotation_about_z(torch.tensor(0.05 * image, dtype=torch.float64)) @ start
        t = torch.tensor([[0.0, 0, 800], [300, 0, 800]], dtype=torch.float64) + 10.0 * image
        any_of_them = members[torch.randint(len(members), (2,), generator=generator)]
        found.append(make_transform(R, t) @ any_of_them)
    return torch.stack(found)


def turns(T: torch.Tensor) -> torch.Tensor:
    between = T[:-1, ..., :3, :3].mT @ T[1:, ..., :3, :3]
    return torch.acos(((between.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1))


def test_a_nut_turns_as_slowly_as_it_does_and_stays_where_it_was():
    part = builtin_part("nut")
    seen = video(part)
    assert float(turns(seen).max()) > 1
    steady = SteadyPoses({7: part})
    poses = []
    for image, T in enumerate(seen):
        order = [0, 1] if image % 2 else [1, 0]  # in whichever order they come
        found = steady(estimates(7, T[order]))
        assert torch.equal(found.details.alternatives[:, 0], found.T_cam_obj)
        poses.append(found.T_cam_obj[order])
    turned = torch.stack(poses)
    assert float(turns(turned).max()) < 0.051
    errors = nearest_symmetric_errors(turned.flatten(0, 1), seen.flatten(0, 1), part.symmetries.transforms())
    assert float(errors[:, [0, 2]].max()) < 1e-4  # deg, mm


def test_alternatives_stay_distinct_and_the_same():
    part = builtin_part("nut")
    members = part.symmetries.transforms()
    first, second = video(part, 2)[:, :1]
    steady = SteadyPoses({7: part})
    steady(estimates(7, first))
    seen = estimates(7, second)
    empty = torch.full((1, 1, 4, 4), torch.nan, dtype=torch.float64)
    alternatives = torch.cat((second[:, None] @ members, empty), dim=1)
    probability = torch.linspace(0.3, 0, len(members) + 1, dtype=torch.float64)[None]
    seen = replace(seen, details=replace(seen.details, alternatives=alternatives, probability=probability))
    found = steady(seen)
    assert not torch.allclose(found.T_cam_obj, second)
    assert torch.equal(found.details.alternatives[:, 0], found.T_cam_obj)
    assert torch.equal(found.details.probability, probability)
    assert found.details.alternatives[0, -1].isnan().all()
    turned, given = found.details.alternatives[0, :-1], alternatives[0, :-1]
    apart = (turned[:, None] - given).abs().amax((-2, -1))
    assert (apart < 1e-6).sum(0).tolist() == [1] * len(members), "every pose once"


def test_a_part_that_is_not_found_for_a_while_is_remembered_and_others_are_left_alone():
    part, bracket = builtin_part("nut"), builtin_part("bracket")
    seen = video(part, 6)
    steady = SteadyPoses({7: part, 8: bracket})
    first = steady(estimates(7, seen[0])).T_cam_obj
    lost = estimates(7, torch.full_like(seen[1], torch.nan))
    lost = replace(lost, details=PoseDetails.unknown(["hidden"] * 2))
    assert steady(lost).T_cam_obj.isnan().all()
    nothing = steady(estimates(7, seen[0, :0]))
    assert len(nothing) == 0
    again = steady(estimates(7, seen[3])).T_cam_obj
    assert float(turns(torch.stack((first, again))).max()) < 0.151
    free = steady(estimates(8, seen[4]))
    assert torch.equal(free.T_cam_obj, seen[4])
    assert torch.equal(steady(estimates(8, seen[5])).T_cam_obj, seen[5])


def test_what_was_seen_long_ago_is_forgotten():
    part = builtin_part("nut")
    seen = video(part, 2)
    steady = SteadyPoses({7: part})
    steady(estimates(7, seen[0]))
    for _ in range(40):
        steady(estimates(7, seen[0, :0]))
    assert torch.equal(steady(estimates(7, seen[1])).T_cam_obj, seen[1])
