"""What scores are worth on labelled images of one's own: which boxes count, and who is promised what."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from cad2pose.cli import main
from cad2pose.confidence import Calibration, pose_spread
from cad2pose.data.augmentation import AugmentationConfig
from cad2pose.data.bop_files import BopInstance
from cad2pose.data.bop_writer import SPLIT, RenderPlan, write_dataset
from cad2pose.data.tabletop import TabletopConfig
from cad2pose.evaluation.calibration import rescaled
from cad2pose.experiments import LabelledBoxes, calibrate_on_images, calibration, calibration_outcomes
from cad2pose.experiments.calibration_crops import ROUGH, USUAL, WITHOUT
from cad2pose.geometry import Camera, box_overlap, make_transform, project_points, transform_points
from cad2pose.model_file import load_model, save_model
from cad2pose.structures import Detections, PoseDetails, PoseEstimates
from small_models import random_model, wedge

CAMERA = Camera.from_values(100.0, 100.0, 49.5, 39.5, 100, 80)
BOX = (30.0, 20.0, 20.0, 20.0)
CPU = torch.device("cpu")
COVARIANCE = 100 * torch.eye(6).double()[None]


def at(depth: float) -> torch.Tensor:
    return make_transform(torch.eye(3).double(), torch.tensor([0.0, 0, depth]).double())


@dataclass(frozen=True)
class FakeImage:
    instances: tuple[BopInstance, ...]
    camera: Camera = CAMERA
    broken: bool = False

    def read(self):
        if self.broken:
            raise ValueError("no image at all")
        return torch.zeros(3, 80, 100)

    def read_depth(self):
        raise FileNotFoundError

    def read_mask(self, instance, visible=True):
        raise FileNotFoundError


@dataclass(frozen=True)
class FakeImages:
    root: Path
    known: tuple[FakeImage, ...]
    split: str = "mine"

    def keys(self):
        return [(1, number) for number in range(len(self.known))]

    def instances(self, scene_id, image_id):
        return self.known[image_id].instances

    def image(self, scene_id, image_id):
        return self.known[image_id]


def instance(object_id=1, box=BOX, share: float | None = 0.8, index=0) -> BopInstance:
    return BopInstance(index, object_id, at(500.0), box, box, share)


def images(tmp_path, *known: FakeImage, split="mine") -> FakeImages:
    (tmp_path / split).mkdir(exist_ok=True)
    return FakeImages(tmp_path, known, split)


def detected(*boxes, object_id=1) -> Detections:
    box = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    return Detections(torch.full((len(box),), object_id), box, torch.ones(len(box)).double())


def kinds(boxes: LabelledBoxes) -> list[list[int]]:
    return [[one.kind for one in every] for _, every in boxes]


def test_a_box_belongs_to_the_instance_that_it_overlaps_most(tmp_path):
    near, far = instance(), instance(box=(60.0, 20.0, 20.0, 20.0), index=1)
    far = replace(far, T_cam_obj=at(700.0))
    known = images(tmp_path, *[FakeImage((near, far))] * 4)
    cases = {(31.0, 21.0, 20.0, 20.0): (USUAL, 500.0), (58.0, 20.0, 20.0, 20.0): (USUAL, 700.0),
             (20.0, 20.0, 20.0, 20.0): (ROUGH, 500.0), (0.0, 60.0, 20.0, 20.0): (WITHOUT, None)}  # fmt: skip
    boxes = LabelledBoxes(known, [wedge()], {(1, number): detected(box) for number, box in enumerate(cases)})
    for (number, (one,)), (wanted, (box, (kind, depth))) in zip(boxes, enumerate(cases.items()), strict=True):
        assert (number, one.kind) == (wanted, kind)
        assert tuple(one.box[0].tolist()) == box
        assert bool(one.T_cam_obj.isnan().all()) if depth is None else one.T_cam_obj[2, 3] == depth


def test_what_cannot_tell_anything_is_left_out(tmp_path):
    """Hardly seen instances, images without annotations, objects of other models, boxes outside of the image."""
    hidden = FakeImage((instance(share=0.05),))
    known = images(tmp_path, hidden, FakeImage(()), FakeImage((instance(), instance(2))))
    outside = (200.0, 10.0, 20.0, 20.0)
    boxes = {(1, 0): detected(BOX), (1, 1): detected(BOX), (1, 2): detected(BOX, outside), (1, 9): detected(BOX)}
    assert kinds(LabelledBoxes(known, [wedge()], boxes)) == [[], [USUAL]]
    assert kinds(LabelledBoxes(known, [wedge()])) == [[USUAL]]
    with pytest.raises(ValueError, match=r"has no detected box of the model's objects \(1\)"):
        LabelledBoxes(known, [wedge()], {(1, 2): detected(BOX, object_id=2)})
    with pytest.raises(ValueError, match=r"shows no instance of the model's objects \(7\)"):
        LabelledBoxes(known, [wedge(7)])


def test_the_surest_box_of_an_instance_counts_and_hidden_ones_take_none_away(tmp_path):
    hidden = instance(share=0.05, box=(31.0, 20.0, 20.0, 20.0), index=1)
    known = images(tmp_path, FakeImage((replace(hidden, T_cam_obj=at(700.0)), instance())))
    first, second = (31.0, 20.0, 20.0, 20.0), (30.0, 21.0, 20.0, 20.0)
    boxes = replace(detected(first, second), score=torch.tensor([0.2, 0.9]).double())
    ((_, (found,)),) = LabelledBoxes(known, [wedge()], {(1, 0): boxes})
    assert (tuple(found.box[0].tolist()), found.T_cam_obj[2, 3]) == (second, 500.0)
    # a box of the hidden one, beside the other, is no rough box of that
    aside = replace(hidden, box_visible=(42.0, 20.0, 20.0, 20.0), box_full=(42.0, 20.0, 20.0, 20.0))
    known_aside = images(tmp_path, FakeImage((replace(aside, T_cam_obj=at(700.0)), instance())))
    boxes = replace(detected((41.0, 20.0, 20.0, 20.0), second), score=torch.tensor([0.9, 0.2]).double())
    ((_, (found,)),) = LabelledBoxes(known_aside, [wedge()], {(1, 0): boxes})
    assert (tuple(found.box[0].tolist()), found.kind) == (second, USUAL)
    narrow = (30.0, 20.0, 0.5, 20.0)
    assert kinds(LabelledBoxes(known, [wedge()], {(1, 0): detected(narrow)})) == [[]]


def test_each_annotated_box_keeps_its_own_pose(tmp_path):
    """However near another one of the same object is."""
    stacked = (instance(), replace(instance(box=(31.0, 20.0, 20.0, 20.0), index=1), T_cam_obj=at(700.0)))
    for number, every in LabelledBoxes(images(tmp_path, *[FakeImage(stacked)] * 20), [wedge()]):
        assert [float(one.T_cam_obj[2, 3]) for one in every] == [500.0, 700.0], number


def test_what_the_image_does_not_show_is_left_out(tmp_path):
    """Nothing is told of boxes: aside, behind the camera."""
    aside, behind = at(500.0), at(-500.0)
    aside[0, 3] = 2000
    gone = tuple(BopInstance(index, 1, T) for index, T in enumerate((aside, behind, at(500.0))))
    ((_, (one,)),) = LabelledBoxes(images(tmp_path, FakeImage(gone)), [wedge()])
    assert torch.equal(one.T_cam_obj, at(500.0))


def test_boxes_of_a_bent_image_are_where_the_lens_shows_the_part(tmp_path):
    K = torch.tensor([[600.0, 0, 319.5], [0, 600, 239.5], [0, 0, 1]]).double()
    camera, part = Camera(K, 640, 480, (-0.3, 0.1, 0.0, 0.0, 0.0)), wedge()
    T = at(500.0)
    T[:3, 3] += torch.tensor([190.0, 130.0, 0]).double() - part.center
    straight = project_points(K, transform_points(T, part.mesh.used_vertices.double()))
    bent = camera.bent_pixels(straight) + 0.5
    box, other = ((*some.amin(0).tolist(), *(some.amax(0) - some.amin(0)).tolist()) for some in (bent, straight))

    class Bent(FakeImage):
        def read(self):
            return torch.zeros(3, 480, 640)

    known = images(tmp_path, Bent((BopInstance(0, 1, T),), camera))
    assert kinds(LabelledBoxes(known, [part], {(1, 0): detected(box)})) == [[USUAL]]
    assert kinds(LabelledBoxes(known, [part], {(1, 0): detected(other)})) != [[USUAL]]


def test_a_picture_of_another_size_than_its_camera_is_left_out(tmp_path):
    other = FakeImage((instance(),), Camera.from_values(100.0, 100.0, 49.5, 39.5, 90, 80))
    boxes = LabelledBoxes(images(tmp_path, other, FakeImage((instance(),))), [wedge()])
    assert kinds(boxes) == [[USUAL]]
    assert "100 x 80 pixels, its camera 90 x 80" in boxes.broken[1, 0]


def test_annotated_boxes_are_off_as_a_detectors(tmp_path):
    bare = BopInstance(0, 1, at(500.0))
    known = images(tmp_path, *[FakeImage((instance(),))] * 30, FakeImage((bare,)))
    first, again = (torch.cat([one.box for _, every in LabelledBoxes(known, [wedge()]) for one in every]) for _ in "ab")
    assert torch.equal(first, again)
    off = box_overlap(first[:30], torch.tensor(BOX).expand(30, 4))
    assert 0.5 < float(off.min()) < float(off.max()) < 1
    assert len(first.unique(dim=0)) == 31
    middle, there = first[30, :2] + first[30, 2:] / 2, project_points(CAMERA.K, wedge().middle(at(500.0))[None])[0]
    assert float((middle - there).norm()) < 4, "where no box is annotated, the mesh has one"


def test_a_test_split_is_refused(tmp_path):
    assert len(LabelledBoxes(images(tmp_path, FakeImage((instance(),)), split="val"), [wedge()])) == 1
    known = images(tmp_path, FakeImage((instance(),)), split="test_mine")
    with pytest.raises(ValueError, match="meant for testing"):
        LabelledBoxes(known, [wedge()])
    assert len(LabelledBoxes(known, [wedge()], allow_test=True)) == 1


@pytest.fixture
def planted(monkeypatch):
    """Estimates that are right with their score as chance; `always` has images' boxes that are right or wrong for sure,
    by the box's left edge.
    """
    generator = torch.Generator().manual_seed(0)
    always: dict[float, bool] = {}

    def estimate(estimator, seen, boxes):
        score, chance = torch.rand(2, generator=generator).tolist()
        T = seen.T_cam_obj[None].clone()
        right = always.get(float(seen.box[0, 0]), chance < score)
        T[:, 2, 3] += 0 if right else 60
        if seen.kind == WITHOUT:
            T, score = torch.eye(4).double()[None], score / 10
        details = replace(PoseDetails.unknown([None]), covariance=COVARIANCE)
        return PoseEstimates(boxes.object_id, T, torch.tensor([score]).double(), boxes.box, details=details)

    monkeypatch.setattr(calibration_outcomes, "_estimate", estimate)
    return always


def test_scores_are_learnt_from_images(tmp_path, planted):
    part = wedge()
    known = images(tmp_path, *[FakeImage((instance(),))] * 400)
    elsewhere = (0.0, 60.0, 20.0, 20.0)
    boxes = {(1, number): detected(BOX, *[elsewhere] * (number % 4 == 0)) for number in range(400)}
    done = []
    fits, tests = calibrate_on_images(
        random_model(part), LabelledBoxes(known, [part], boxes), ("regression",), CPU, lambda way, n: done.append(n)
    )
    assert done == list(range(1, 401))
    (fit,), (test,) = fits["regression"], tests
    assert fit is not None
    assert fit.shown is not None
    spread = pose_spread(at(500.0)[None], COVARIANCE, part.center, part.radius).expand(2)
    low, high = fit.probability(torch.tensor([0.2, 0.8]), spread).tolist()
    assert low == pytest.approx(0.2, abs=0.12)
    assert high == pytest.approx(0.8, abs=0.12)
    assert (test.fitted, test.tested, test.without) == (400, 400, 100)
    assert test.error < 0.1
    assert test.without_promised is not None
    assert test.without_promised < 0.1


@pytest.mark.parametrize(("mistaken", "step", "learnt"), [(12, 5, True), (9, 5, False), (12, 1, False)])
def test_whether_mistaken_boxes_suffice_is_decided_for_all_pieces_alike(
    tmp_path, planted, monkeypatch, mistaken, step, learnt
):
    """A fifth has two or three of them less, and what is tested must be of the kind that is kept."""
    kept = []
    promised = calibration._promised
    monkeypatch.setattr(calibration, "_promised", lambda fits, of: kept.append(fits[0].shown) or promised(fits, of))
    elsewhere = (0.0, 60.0, 20.0, 20.0)
    boxes = {(1, n): detected(BOX, *[elsewhere] * (n % step == 0 and n < step * mistaken)) for n in range(60)}
    known = images(tmp_path, *[FakeImage((instance(),))] * 60)
    fits, _ = calibrate_on_images(random_model(), LabelledBoxes(known, [wedge()], boxes), ("regression",), CPU)
    (fit,) = fits["regression"]
    assert fit is not None
    assert [(shown is not None) for shown in (*kept, fit.shown)] == [learnt] * 6


def test_what_rendered_crops_told_is_scaled_and_shifted(tmp_path, planted):
    """Of few images: the weights of score and spread keep their proportion, and the mean promise is what is right."""
    part, old = wedge(), Calibration(12.0, -2.0, -3.0, 0.01)
    model = replace(random_model(part), calibrations={"regression": (old,)})
    known = images(tmp_path, *[FakeImage((instance(),))] * 40)
    fits, (test,) = calibrate_on_images(model, LabelledBoxes(known, [part]), ("regression",), CPU)
    (fit,) = fits["regression"]
    assert fit is not None
    assert 0 < fit.a / old.a == pytest.approx(fit.c / old.c)
    assert fit.least_spread == old.least_spread
    promised = sum(one.promised * one.count for one in test.bins) / test.tested
    assert promised == pytest.approx(test.right, abs=0.08)


@pytest.mark.parametrize("missed", [0, 1])
def test_no_single_pose_turns_the_order_round(missed):
    """All right, or one of 25 wrong, the surest."""
    old = Calibration(12.0, -4.0, -1.0, 0.1, (3.0, 0.0))
    scores = torch.linspace(0.3, 0.99, 25).double()
    right = torch.ones(25, dtype=torch.bool)
    right[25 - missed :] = False
    fit = rescaled(old, scores, right, torch.full((25,), 1.0).double())
    low, middle, high = fit.logit(torch.tensor([0.1, 0.5, 0.99]), torch.ones(3)).tolist()
    assert low < middle < high
    assert fit.a / old.a == pytest.approx(fit.c / old.c)
    assert (fit.shown, fit.least_spread) == (old.shown, old.least_spread)
    flat = rescaled(old, scores, scores < 0.6, torch.ones(25).double())
    assert (flat.a, flat.c) == (0.0, 0.0), "where the order is wrong there is none"


def test_boxes_in_one_fifth_of_the_images_tell_nothing(tmp_path, planted):
    many = FakeImage(tuple(instance(index=index) for index in range(25)))
    with pytest.raises(ValueError, match="not all in one fifth of the images"):
        calibrate_on_images(random_model(), LabelledBoxes(images(tmp_path, many), [wedge()]), ("regression",), CPU)


def test_what_is_promised_of_a_piece_is_learnt_of_the_others(tmp_path, planted):
    """A fifth of the images in which all is wrong is promised what holds in the rest."""
    part, moved = wedge(), (31.0, 20.0, 20.0, 20.0)
    planted.update({30.0: True, 31.0: False})
    known = images(tmp_path, *[FakeImage((instance(),))] * 100)
    boxes = {(1, number): detected(moved if number < 20 else BOX) for number in range(100)}
    _, (test,) = calibrate_on_images(random_model(part), LabelledBoxes(known, [part], boxes), ("regression",), CPU)
    assert test.right == 0.8
    promised = {bin_.promised: (bin_.count, bin_.frequency) for bin_ in test.bins}
    surest = max(promised)
    assert surest > 0.9
    assert promised[surest] == (20, 0.0), "the piece that is wrong throughout is promised that all is right"


def test_parts_that_few_boxes_show_stay_as_they_were(tmp_path, planted):
    a, b = wedge(1, "a"), wedge(2, "b")
    old, shown = Calibration(1.0, 0.5, 0.0, 0.1, (3.0, -1.0)), (3.0, -1.0)
    known = images(tmp_path, *[FakeImage((instance(),))] * 25, *[FakeImage((instance(2),))] * 19)
    model = replace(random_model(a, b), calibrations={"regression": (old, old), "search": (old, None)})
    fits, tests = calibrate_on_images(model, LabelledBoxes(known, [a, b]), ("regression",), CPU)
    first, second = fits["regression"]
    assert first is not None
    assert (first.shown, second, fits["search"]) == (shown, old, (old, None))
    assert first != old
    assert [(test.part, test.tested) for test in tests] == [("a", 25)]
    few = images(tmp_path, *[FakeImage((instance(),))] * 19)
    with pytest.raises(ValueError, match=r"\(regression\): a 19, b 0; a calibration needs 20 of a part, not all in"):
        calibrate_on_images(model, LabelledBoxes(few, [a, b]), ("regression",), CPU)


def test_broken_images_are_named(tmp_path, planted):
    known = images(tmp_path, *[FakeImage((instance(),))] * 24, FakeImage((instance(),), broken=True))
    with pytest.warns(UserWarning, match="1 of 25 images were left out; scene 1, image 24: no image at all"):
        calibrate_on_images(random_model(), LabelledBoxes(known, [wedge()]), ("regression",), CPU)


def test_the_command_learns_from_a_folder(tmp_path, planted, capsys):
    part = wedge()
    look = TabletopConfig(parts=(3, 3), others=0, pictures=2, effects=AugmentationConfig.off())
    write_dataset([part], Camera.from_values(150.0, 150.0, 79.5, 59.5, 160, 120), RenderPlan(1, 12, 1, look), tmp_path)
    path, folder = tmp_path / "model.safetensors", tmp_path / SPLIT
    save_model(path, random_model(part).method, [part], {})
    call = ["calibrate", str(path), "--images", str(folder), "--device", "cpu", "--ways", "regression"]
    assert main([*call, "--beside", "--figures", str(tmp_path / "figures.json")]) == 0
    assert "labelled images" in capsys.readouterr().out
    (figures,) = json.loads((tmp_path / "figures.json").read_text())
    assert 20 <= figures["tested"] <= 36
    assert set(load_model(path).calibrations) == {"regression"}
    for options, message in (
        (["--fit-crops", "9"], "leave out what is about rendered crops"),
        (["--crop-roll", "3"], "leave out what is about rendered crops"),
        (["--detections", str(tmp_path / "none.json")], "none.json"),
    ):
        assert main([*call, *options]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert main(["calibrate", str(path), "--allow-test-images"]) == 2
    assert "are about --images" in capsys.readouterr().err
