"""CUDA does what the CPU does: crops, method, training, estimating. Skipped where there is no CUDA device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from cad2pose import cuda_kernels
from cad2pose.data.synthetic import SyntheticConfig, SyntheticCrops
from cad2pose.estimator import EstimatorOptions, PoseEstimator
from cad2pose.geometry import Camera, geodesic_distance, make_transform, random_rotations
from cad2pose.methods import GdrNetConfig, QueryConfig, QueryMethod
from cad2pose.model_file import Model
from cad2pose.parts import builtin_part
from cad2pose.rendering import MeshSet, openness, render, shadows
from cad2pose.solvers import (
    Hypotheses,
    QueryMaps,
    SamplingOptions,
    SearchOptions,
    SolverOptions,
    Surface,
    key_symmetry,
    refine_depth,
    solve,
)
from cad2pose.solvers.distinct import Gap, distinct
from cad2pose.solvers.kernels import has_kernels
from cad2pose.solvers.p3p import p3p
from cad2pose.solvers.quick_score import QuickScore
from cad2pose.solvers.refine import refine
from cad2pose.solvers.score import PoseScore
from cad2pose.solvers.search import placed_by_mask
from cad2pose.structures import CropBatch, CropTruth, Detections
from cad2pose.training import Run, TrainingConfig, train, training_step
from cad2pose.training.checkpoint import TrainingState
from cad2pose.training.prefetch import prefetch
from planted_queries import plant
from small_models import SMALL, SMALL_GDRNET, wedge

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CONFIG = replace(SMALL, crop_size=64)
CROPS = SyntheticConfig(crop_size=64, pictures=4)
TRAINING = TrainingConfig(samples=48, batch_size=8, warmup_steps=2, validation_crops=4, validations=2, seed=3)


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """Convolutions in float32 as on the CPU, not in TF32."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


def parts():  # type: ignore[no-untyped-def]
    return [wedge(1), wedge(2, "other", shift=-40.0)]


def truth_of(batch: CropBatch) -> CropTruth:
    assert batch.truth is not None
    return batch.truth


@pytest.mark.parametrize("index", [0, 3])
def test_crops_have_the_same_truth(index: int) -> None:
    here, there = (SyntheticCrops(parts(), CROPS, device, 5).batch(index, 24) for device in ("cpu", "cuda"))
    assert there.image.is_cuda
    assert there.part_index.is_cuda
    assert torch.equal(here.part_index, there.part_index.cpu())
    for name in ("K_virt", "R_virt_cam", "box"):
        torch.testing.assert_close(getattr(there.camera, name).cpu(), getattr(here.camera, name), rtol=0, atol=0)
    cpu, cuda = truth_of(here), truth_of(there.to("cpu"))
    assert torch.equal(cpu.T_virt_obj, cuda.T_virt_obj)
    torch.testing.assert_close(there.valid.cpu(), here.valid, rtol=0, atol=1e-5)
    same = cpu.mask_full == cuda.mask_full
    assert same.float().mean() > 0.999
    # Patches over the picture have borders of noise, and noise is drawn on the device.
    assert (cpu.mask_visible == cuda.mask_visible).float().mean() > 0.98
    both = (cpu.mask_full & cuda.mask_full)[:, None]
    assert (((cpu.coordinates - cuda.coordinates) * both).abs().amax(1) < 1e-3).float().mean() > 0.999
    assert torch.isfinite(there.image).all()
    assert 0.1 < float(there.image.mean()) < 0.9


def test_shadows_and_openness_are_those_of_the_cpu() -> None:
    meshes = MeshSet.from_meshes([builtin_part("bracket").mesh, builtin_part("nut").mesh])
    index = torch.tensor([[0, 1], [1, 0]]).int()
    R = random_rotations(4, torch.Generator().manual_seed(0), torch.float64).view(2, 2, 3, 3)
    t = torch.tensor([[[-10.0, 0, 400], [25.0, 8, 380]], [[0.0, 0, 300], [15.0, -10, 330]]], dtype=torch.float64)
    K = torch.tensor([[600.0, 0, 63.5], [0, 600.0, 63.5], [0, 0, 1]]).expand(2, 3, 3)
    light = torch.nn.functional.normalize(torch.tensor([[-0.6, 0.3, -1.0], [0.5, 0.2, -0.8]]), dim=-1)
    spread, near, centre = torch.tensor([0.15, 0.05]), torch.tensor([30.0, 30.0]), t.mean(1).float()
    ball = torch.tensor([90.0, 90.0])
    found = []
    T = make_transform(R, t).float()
    for device in ("cpu", "cuda"):
        packed, slots, there = meshes.to(device), index.to(device), T.to(device)
        seen = render(packed, slots, there, K.to(device), 128, 128)
        lit = shadows(
            packed, slots, there, seen, light.to(device), spread.to(device), centre.to(device), ball.to(device), 128
        )
        found.append([each.cpu() for each in (lit, openness(seen, near.to(device)), seen.mask)])
    (lit, opened, mask), (lit_there, opened_there, mask_there) = found
    assert (mask == mask_there).float().mean() > 0.999
    assert 0.05 < float((lit[mask] < 0.5).float().mean()) < 0.95
    assert float(opened[mask].min()) < 0.9
    both = mask & mask_there
    assert ((lit - lit_there).abs()[both] > 0.02).float().mean() < 0.01
    assert ((opened - opened_there).abs()[both] > 0.02).float().mean() < 0.01


def test_crops_are_the_same_every_time() -> None:
    first, second = (SyntheticCrops(parts(), CROPS, "cuda", 1).batch(2, 16) for _ in range(2))
    torch.testing.assert_close(first.image, second.image, rtol=0, atol=1e-4)
    assert torch.equal(truth_of(first).mask_full, truth_of(second).mask_full)


def test_forward_loss_and_gradients_agree() -> None:
    batch = SyntheticCrops(parts(), CROPS, "cpu", 0).batch(0, 12)
    # What is drawn at random for the contrastive loss differs between devices, so one draws nothing that matters.
    config = replace(CONFIG, weights=replace(CONFIG.weights, nce=0.0))
    here = QueryMethod(config, parts()).train()
    there = copy.deepcopy(here).to("cuda").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    outputs, losses = [], []
    for method, crops in ((here, batch), (there, batch.to("cuda"))):
        generator = torch.Generator(crops.image.device).manual_seed(0)
        outputs.append(method(crops))
        losses.append(method.loss(outputs[-1], crops, generator))
        losses[-1].total.backward()
    torch.testing.assert_close(outputs[1].queries.cpu(), outputs[0].queries, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(outputs[1].pose.position.cpu(), outputs[0].pose.position, rtol=1e-3, atol=1e-1)
    for name, term in losses[0].terms.items():
        tolerance = 0.15 if name == "nce" else 1e-3
        torch.testing.assert_close(losses[1].terms[name].cpu(), term, rtol=tolerance, atol=1e-4, msg=name)
    for (name, cpu), cuda in zip(here.named_parameters(), there.parameters(), strict=True):
        if cpu.grad is not None and not name.startswith("keys."):
            assert cuda.grad is not None, name
            error = (cpu.grad - cuda.grad.cpu()).norm() / cpu.grad.norm().clamp_min(1e-4)
            assert error < 0.02, (name, float(error))


@pytest.mark.parametrize("config", [CONFIG, replace(SMALL_GDRNET, crop_size=64)])
def test_poses_and_scores_agree(config: QueryConfig | GdrNetConfig) -> None:
    batch = SyntheticCrops(parts(), CROPS, "cpu", 0).batch(1, 12)
    method = config.build(parts()).eval()
    other = copy.deepcopy(method).to("cuda").eval()
    with torch.inference_mode():
        T_cpu, score_cpu = method.poses(method(batch), batch)
        there = batch.to("cuda")
        T_cuda, score_cuda = other.poses(other(there), there)
    assert T_cuda.is_cuda
    assert T_cuda.dtype == torch.float64
    torch.testing.assert_close(T_cuda.cpu(), T_cpu, rtol=1e-3, atol=1e-1)
    torch.testing.assert_close(score_cuda.cpu(), score_cpu, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("options", [EstimatorOptions(), EstimatorOptions(rolls=(-10.0, 0.0, 10.0), zooms=(0.9, 1.1))])
def test_estimates_agree(options: EstimatorOptions) -> None:
    camera = Camera.from_values(600.0, 610.0, 150.0, 130.0, 320, 240, (0.05, -0.02, 0.001, 0.0))
    boxes = torch.tensor([[20.0, 30, 90, 60], [150, 80, 50, 120], [200, 10, 118, 150]], dtype=torch.float64)
    detections = Detections(torch.tensor([1, 2, 1]), boxes, torch.ones(3))
    image = torch.rand(3, 240, 320)
    method = QueryMethod(CONFIG, parts()).eval()
    found = [
        PoseEstimator([Model(copy.deepcopy(method), tuple(parts()), {})], device, options)
        for device in ("cpu", "cuda")
    ]  # fmt: skip
    cpu, cuda = (estimator.estimate(image, camera, detections) for estimator in found)
    assert not cuda.T_cam_obj.is_cuda
    torch.testing.assert_close(cuda.T_cam_obj, cpu.T_cam_obj, rtol=1e-2, atol=0.5)
    torch.testing.assert_close(cuda.score, cpu.score, rtol=2e-2, atol=2e-3)
    again = found[1].estimate(image.cuda(), camera, detections)
    torch.testing.assert_close(again.T_cam_obj, cuda.T_cam_obj, rtol=1e-3, atol=1e-1)


@pytest.mark.parametrize("proposals", [SamplingOptions(samples=2000, kept=300), SearchOptions()])
def test_the_solver_finds_the_same_poses(proposals: SamplingOptions | SearchOptions) -> None:
    part = builtin_part("bracket")
    surface = Surface.of_part(part, 8000)
    planted = plant(part, surface, 4, 64, width=0.06, seed=2)
    symmetry = key_symmetry(surface, planted.keys)
    options = SolverOptions(proposals=proposals)
    maps = QueryMaps(*(getattr(planted.maps, name).cuda() for name in ("queries", "mask_logits", "valid", "K")))
    cpu = solve(surface, planted.keys, planted.maps, options, symmetry=symmetry)
    cuda = solve(surface.to("cuda"), planted.keys.cuda(), maps, options, symmetry=symmetry.to("cuda"))
    assert cuda.rotation.is_cuda
    assert cuda.reasons == cpu.reasons
    for found in (cpu, cuda):  # they draw different samples, so both are held against the truth
        angle = geodesic_distance(found.rotation[:, 0].cpu().double(), planted.rotation.double()).rad2deg()
        assert (angle < 2).sum() >= 3
    depth = planted.position[:, 2, None, None].expand(4, 64, 64).contiguous()
    poses = Hypotheses(torch.arange(4), planted.rotation, 1.05 * planted.position)
    there = Hypotheses(poses.row.cuda(), poses.rotation.cuda(), poses.position.cuda())
    moved = [
        refine_depth(surface, planted.maps, depth, planted.maps.K, poses).position,
        refine_depth(surface.to("cuda"), maps, depth.cuda(), maps.K, there).position.cpu(),
    ]
    torch.testing.assert_close(*moved, rtol=1e-3, atol=1e-3)


def test_kernels_compute_what_torch_operations_do(monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_kernels(torch.device("cuda")):
        pytest.skip("the kernels cannot be compiled here: cuda-bindings or NVRTC is missing")
    part = builtin_part("bracket")
    surface = Surface.of_part(part, 8000)
    planted = plant(part, surface, 4, 64, width=0.06, seed=2)
    there, keys = surface.to("cuda"), planted.keys.cuda()
    maps = QueryMaps(*(getattr(planted.maps, name).cuda() for name in ("queries", "mask_logits", "valid", "K")))
    row = torch.arange(4, device="cuda").repeat_interleave(40)
    generator = torch.Generator().manual_seed(1)
    turn = random_rotations(160, generator, torch.float32)
    near = torch.matrix_exp(0.1 * (turn - turn.transpose(1, 2))).cuda()
    poses = Hypotheses(row, near @ planted.rotation.cuda()[row], 1.03 * planted.position.cuda()[row])
    points = torch.randn(3000, 3, 3, generator=generator, dtype=torch.float64).cuda()
    rays = points @ turn[:1].double().cuda() + torch.tensor([0.2, -0.1, 6.0], device="cuda")

    def computed() -> list[torch.Tensor]:
        score = PoseScore(there, keys, maps)
        found = score.linearize(*asdict(poses).values())
        climbed = refine(score, *asdict(poses).values())
        quick = QuickScore(there, keys, maps)(*asdict(poses).values())
        placed = placed_by_mask(there, maps, poses)
        chosen = distinct(poses, found.value, 4, 10, Gap(0.05, 0.05))
        roots = p3p(points, rays)
        assert (roots.valid.sum(1) > 0).float().mean() > 0.99
        whole = torch.where(roots.valid[..., None], roots.translation, 0.0).sum(1)
        scores = [found.value, found.gradient, found.information, climbed.score, quick]
        return [*scores, placed.position, chosen.double(), whole]

    with_kernels = computed()
    monkeypatch.setattr(cuda_kernels, "find_kernel", lambda *_, **__: None)
    without = computed()
    names = ("value", "gradient", "information", "climbed", "quick", "placed", "distinct", "roots")
    for name, a, b in zip(names, with_kernels, without, strict=True):
        close = torch.isclose(a, b, rtol=2e-3, atol=5e-3)
        assert close.float().mean() > (0.9 if name in ("climbed", "quick") else 0.99), name


@pytest.mark.parametrize("options", [EstimatorOptions(refine=True), EstimatorOptions(solver="search")])
def test_refined_and_solved_estimates_work_with_depth(options: EstimatorOptions) -> None:
    camera = Camera.from_values(600.0, 610.0, 150.0, 130.0, 320, 240)
    detections = Detections(torch.tensor([1, 2]), torch.tensor([[20.0, 30, 90, 60], [150, 80, 50, 120]]), torch.ones(2))
    model = Model(QueryMethod(CONFIG, parts()).eval(), tuple(parts()), {})
    estimator = PoseEstimator([model], "cuda", options)
    for depth in (None, torch.full((240, 320), 500.0)):
        found = estimator.estimate(torch.rand(3, 240, 320), camera, detections, depth=depth)
        assert len(found) == 2
        assert not found.details.covariance.is_cuda
        assert torch.isfinite(found.T_cam_obj[found.found]).all()


def test_batches_made_on_another_stream_are_whole() -> None:
    """Those handed over by the thread are those made here, also when memory is tight between the two streams."""
    device = torch.device("cuda")
    crops = SyntheticCrops(parts(), CROPS, device, 4)
    sums = []
    for batch in prefetch(lambda index: crops.batch(index, 16), 0, 12, device):
        for _ in range(20):  # keep this stream busy while the other goes on
            torch.randn(512, 512, device=device).matmul(torch.randn(512, 512, device=device))
        truth = truth_of(batch)
        sums.append((truth.T_virt_obj.clone(), truth.mask_full.clone(), batch.image.clone()))
        del batch, truth
    for index, (T_virt_obj, mask, image) in enumerate(sums):
        wanted = crops.batch(index, 16)
        assert torch.equal(T_virt_obj, truth_of(wanted).T_virt_obj)
        assert torch.equal(mask, truth_of(wanted).mask_full)
        torch.testing.assert_close(image, wanted.image, rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["auto", "off"])
def test_three_steps_then_resumed(tmp_path: Path, precision: str) -> None:
    device = torch.device("cuda")
    config = replace(TRAINING, mixed_precision=precision)

    def run(stop_after: int | None) -> Path:
        crops, judged = (SyntheticCrops(parts(), CROPS, device, seed) for seed in (0, 1))
        return train(Run(parts(), CONFIG, config, device), crops, judged, tmp_path / "run", stop_after=stop_after)

    run(3)
    state = Run(parts(), CONFIG, config, device).state()
    assert state.restore(tmp_path / "run")
    assert state.step == 3
    # Fused, AdamW counts its steps on the device, the average on the host: nobody waits for the other.
    assert all(entry["step"].is_cuda for entry in state.optimizer.state.values())
    assert all(entry["exp_avg"].is_cuda for entry in state.optimizer.state.values())
    assert not state.average.n_averaged.is_cuda
    torch.cuda.set_sync_debug_mode("error")
    try:
        state.average.update_parameters(state.method)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    model = run(None)
    assert model.is_file()
    end = Run(parts(), CONFIG, config, device).state()
    assert end.restore(tmp_path / "run")
    assert end.step == config.steps == 6
    assert all(bool(torch.isfinite(p).all()) for p in end.method.parameters())


def test_a_resumed_step_is_the_step_that_would_have_come(tmp_path: Path) -> None:
    device = torch.device("cuda")
    config = replace(TRAINING, mixed_precision="off")
    crops = SyntheticCrops(parts(), CROPS, device, 0)

    def steps(state: TrainingState, count: int) -> float:
        terms = {}
        for _ in range(count):
            terms = training_step(state, crops.batch(state.step, 8), config)
        return float(terms["total"])

    first = Run(parts(), CONFIG, config, device).state()
    first.method.train()
    steps(first, 2)
    first.save(tmp_path)
    second = Run(parts(), CONFIG, config, device).state()
    assert second.restore(tmp_path)
    second.method.train()
    assert steps(first, 2) == pytest.approx(steps(second, 2), rel=2e-3)
