"""Tables: what rests on them touches them, stands stably, and is seen from above."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
import trimesh

from cad2pose.data.draws import Draws
from cad2pose.data.layout import Scene, SceneLayout
from cad2pose.data.occluders import ClutterConfig
from cad2pose.data.support import SupportConfig, resting_directions
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.geometry import transform_points
from cad2pose.parts import Mesh, builtin_part
from small_models import wedge

ALWAYS = SyntheticConfig(
    crop_size=48, pictures=4, support=SupportConfig(share=1.0, settled_share=1.0),
    clutter=ClutterConfig(occluders=0, others=3, other_share=1.0),
)  # fmt: skip


def scene_of(config: SyntheticConfig = ALWAYS, count: int = 40) -> tuple[SceneLayout, Scene]:
    layout = SceneLayout([builtin_part("nut"), builtin_part("bracket")], config, 0)
    return layout, layout.scene(torch.arange(count) % 2, Draws(3))


def heights(scene: Scene, row: int, points: torch.Tensor) -> torch.Tensor:
    """Of points in the crop camera over the row's table."""
    return (points - scene.T_virt_clutter[row, -1, :3, 3]) @ scene.up[row]


def test_the_part_touches_its_table_and_is_seen_from_above():
    layout, scene = scene_of()
    tables = scene.clutter_index[:, -1] == len(layout.clutter) - 1
    assert tables.float().mean() > 0.8
    for row in tables.nonzero()[:, 0].tolist():
        part = builtin_part(("nut", "bracket")[row % 2])
        vertices = transform_points(scene.T_virt_obj[row], part.mesh.used_vertices)
        assert abs(float(heights(scene, row, vertices).min())) < 0.01 * part.radius
        assert float(heights(scene, row, torch.zeros(1, 3, dtype=torch.float64))) > 0, "the camera is above the table"


def test_most_parts_stand_on_a_face():
    _, scene = scene_of(count=60)
    standing = 0
    for row in range(0, 60, 2):
        up = scene.T_virt_obj[row, :3, :3].T @ scene.up[row]
        standing += bool((resting_directions(builtin_part("nut").mesh) @ up > 0.999).any())
    assert 15 <= standing < 30


def test_neighbours_stand_on_the_same_table():
    layout, scene = scene_of()
    touching = 0
    for row in range(40):
        for slot in range(3):
            mesh = layout.clutter[int(scene.clutter_index[row, slot])]
            low = heights(scene, row, transform_points(scene.T_virt_clutter[row, slot], mesh.used_vertices)).min()
            size = scene.T_virt_clutter[row, slot, :3, 0].norm()
            touching += abs(float(low)) < 0.03 * float(size)
    assert touching > 90


@pytest.mark.parametrize(("name", "faces"), [("nut", 8), ("bracket", 6)])
def test_resting_directions_of_known_parts(name, faces):
    found = resting_directions(builtin_part(name).mesh)
    assert found.shape == (faces, 3)
    assert torch.allclose(found.norm(dim=-1), torch.ones(faces).double())
    assert (found[:, 2].abs() > 0.999).any()


def test_a_fine_ball_stands_anywhere_and_takes_no_time():
    ball = trimesh.creation.icosphere(5)
    begun = time.process_time()
    found = resting_directions(Mesh.from_arrays(torch.tensor(ball.vertices).double(), torch.tensor(ball.faces)))
    assert time.process_time() - begun < 20, "it took minutes where every face was held against every other"
    assert len(found) == 24
    torch.testing.assert_close(found.norm(dim=1), torch.ones(24).double())


def test_a_tall_thing_does_not_stand_on_its_tip():
    found = resting_directions(wedge().mesh)  # a flat tetrahedron with its right angle at the bottom
    assert 1 <= len(found) <= 4
    assert (found[:, 2] > 0.99).any()


def test_no_table_is_drawn_where_none_is_wanted():
    layout, scene = scene_of(replace(ALWAYS, support=SupportConfig.off()))
    assert not bool(scene.up.any())
    assert scene.clutter_index.max() < len(layout.clutter) - 1
    assert scene.clutter_index.shape[1] == 3


def test_tables_fill_the_picture_but_hide_nothing():
    batch = SyntheticCrops([builtin_part("nut")], ALWAYS).batch(0, 12)
    assert batch.truth is not None
    alone = replace(ALWAYS, clutter=ClutterConfig(occluders=0, others=0, blob_share=0.0))
    batch = SyntheticCrops([builtin_part("nut")], alone).batch(0, 12)
    assert batch.truth is not None
    hidden = batch.truth.mask_full & ~batch.truth.mask_visible
    assert hidden.float().sum() < 0.01 * batch.truth.mask_full.float().sum()


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"share": 1.5}, "share"), ({"extent": (0.5, 3.0)}, "extent"), ({"stable_share": -0.1}, "stable")],
)
def test_settings_are_checked(settings, word):
    with pytest.raises(ValueError, match=word):
        SupportConfig(**settings)
