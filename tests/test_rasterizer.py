from __future__ import annotations

import threading
from dataclasses import replace

import numba
import pytest
import torch
import trimesh
from torch import Tensor

import cuda_emulation
from cad2pose import cuda_kernels
from cad2pose.geometry import invert_intrinsics, random_rotations
from cad2pose.parts.mesh import Mesh
from cad2pose.rendering import NEAR, Fragments, MeshSet, rasterize, render
from ray_caster import Hits, cast_rays

HEIGHT, WIDTH = 44, 56


def mesh_of(shape: trimesh.Trimesh, colors: Tensor | None = None) -> Mesh:
    return Mesh(
        torch.tensor(shape.vertices, dtype=torch.float64),
        torch.tensor(shape.faces, dtype=torch.int64),
        torch.tensor(shape.vertex_normals.copy(), dtype=torch.float64),
        colors,
    )


def plain_meshes(vertices: Tensor, faces: Tensor) -> MeshSet:
    """One mesh without anything but its geometry."""
    normals = torch.nn.functional.normalize(torch.ones_like(vertices), dim=-1)
    starts = torch.tensor([0, len(vertices)]), torch.tensor([0, len(faces)])
    return MeshSet(vertices.float(), faces.int(), normals.float(), torch.rand(len(vertices), 3), *starts)


def soup(count: int, generator: torch.Generator) -> MeshSet:
    """Triangles thrown about a ball of radius 60 mm, of all sizes, some longer than the image is wide."""
    centers = 30 * torch.randn(count, 1, 3, generator=generator)
    sizes = 2 + 80 * torch.rand(count, 1, 1, generator=generator) ** 3
    corners = centers + sizes * torch.randn(count, 3, 3, generator=generator)
    return plain_meshes(corners.reshape(-1, 3), torch.arange(3 * count).reshape(-1, 3))


@pytest.fixture(params=["numba", "torch", "kernels"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backends; kernels, which belong to the torch backend, are run on the CPU."""
    if request.param != "kernels":
        return request.param
    if cuda_emulation.missing():
        pytest.skip(str(cuda_emulation.missing()))
    monkeypatch.setattr(cuda_kernels, "find_kernel", cuda_emulation.find_emulated)
    return "torch"


@pytest.fixture(scope="module")
def shapes() -> MeshSet:
    box, ball = trimesh.creation.box((50, 70, 30)), trimesh.creation.icosphere(subdivisions=2, radius=35)
    ring = trimesh.creation.torus(40, 12, major_sections=16, minor_sections=8)
    return MeshSet.from_meshes([mesh_of(box), mesh_of(ball, torch.rand(len(ball.vertices), 3)), mesh_of(ring)])


def poses(batch: int, slots: int, generator: torch.Generator, spread: float = 15.0, depth: float = 300.0) -> Tensor:
    transforms = torch.eye(4).repeat(batch, slots, 1, 1)
    transforms[..., :3, :3] = random_rotations(batch * slots, generator=generator).unflatten(0, (batch, slots))
    transforms[..., :3, 3] = spread * torch.randn(batch, slots, 3, generator=generator)
    transforms[..., 2, 3] += depth
    return transforms


def cameras(batch: int, generator: torch.Generator) -> Tensor:
    """Cameras of different, unequal focal lengths, off-centre, with a little skew."""
    K = torch.eye(3).repeat(batch, 1, 1)
    K[:, 0, 0] = 80 + 60 * torch.rand(batch, generator=generator)
    K[:, 1, 1] = 80 + 60 * torch.rand(batch, generator=generator)
    K[:, 0, 1] = 4 * torch.rand(batch, generator=generator)
    K[:, 0, 2] = WIDTH / 2 + 4 * torch.randn(batch, generator=generator)
    K[:, 1, 2] = HEIGHT / 2 + 4 * torch.randn(batch, generator=generator)
    return K


def cast_all(meshes: MeshSet, index: Tensor, T: Tensor, K: Tensor) -> Hits:
    scenes = [cast_rays(meshes, *scene, HEIGHT, WIDTH, NEAR) for scene in zip(index, T, K, strict=True)]
    return Hits(*(torch.stack([getattr(s, name) for s in scenes]) for name in Hits.__dataclass_fields__))


def agreement(fragments: Fragments, hits: Hits) -> float:
    """Share of pixels with the same slot, depth within 1e-5 and, where the face is the same, the same coordinates."""
    near = (fragments.depth - hits.depth).abs() <= 1e-5 * hits.depth
    inside = (fragments.barycentric - hits.barycentric).abs().amax(-1) < 1e-2
    weights = inside | (fragments.face != hits.face)
    return float(((fragments.slot == hits.slot) & near & weights).double().mean())


def test_agrees_with_ray_caster_on_scenes_of_several_parts(shapes, generator, backend):
    index = torch.randint(-1, 3, (6, 3), generator=generator)
    T, K = poses(6, 3, generator), cameras(6, generator)
    hits = cast_all(shapes, index, T, K)
    fragments = rasterize(shapes, index, T, K, HEIGHT, WIDTH, backend)
    assert agreement(fragments, hits) > 0.999
    assert float((hits.slot >= 0).double().mean()) > 0.15
    assert set(hits.slot.unique().tolist()) == {-1, 0, 1, 2}
    assert (fragments.face == hits.face).double().mean() > 0.995


def test_agrees_with_ray_caster_on_triangles_of_all_sizes(generator, backend):
    meshes = soup(150, generator)
    index, T, K = torch.zeros(3, 1, dtype=torch.int64), poses(3, 1, generator), cameras(3, generator)
    hits = cast_all(meshes, index, T, K)
    assert agreement(rasterize(meshes, index, T, K, HEIGHT, WIDTH, backend), hits) > 0.999


def test_half_a_pixel_of_shift_would_be_noticed(shapes, generator, backend):
    index = torch.tensor([[2]])
    T, K = poses(1, 1, generator), cameras(1, generator)
    shifted = K.clone()
    shifted[:, :2, 2] += 0.5
    hits = cast_all(shapes, index, T, K)
    assert agreement(rasterize(shapes, index, T, shifted, HEIGHT, WIDTH, backend), hits) < 0.99


def test_pixel_centres_are_integers(backend):
    """A square over u in [1.6, 4.4], v in [0.6, 2] holds the centres of columns 2 to 4 and rows 1 and 2."""
    corners = torch.tensor([[1.6, 0.6, 1], [4.4, 0.6, 1], [4.4, 2, 1], [1.6, 2, 1]]) * 100
    meshes = plain_meshes(corners, torch.tensor([[0, 1, 2], [2, 0, 3]]))
    fragments = rasterize(meshes, torch.zeros(1, 1).int(), torch.eye(4)[None, None], torch.eye(3)[None], 5, 8, backend)
    expected = torch.zeros(5, 8, dtype=torch.bool)
    expected[1:3, 2:5] = True
    assert torch.equal(fragments.face[0] >= 0, expected)
    assert torch.allclose(fragments.depth[0, expected], torch.tensor(100.0))


def test_interpolation_is_perspective_correct(shapes, generator, backend):
    """Rendered coordinates, moved by the pose, lie on the pixel's ray at the rendered depth."""
    index, T, K = torch.tensor([[0], [1], [2]]), poses(3, 1, generator, depth=120.0), cameras(3, generator)
    rendering = render(shapes, index, T, K, HEIGHT, WIDTH, backend)
    v, u = torch.meshgrid(torch.arange(HEIGHT).float(), torch.arange(WIDTH).float(), indexing="ij")
    rays = torch.stack((u, v, torch.ones_like(u))).flatten(1)
    expected = (invert_intrinsics(K) @ rays).unflatten(2, (HEIGHT, WIDTH)) * rendering.depth[:, None]
    T = T[:, 0]
    positions = (T[:, :3, :3] @ rendering.coordinates.flatten(2) + T[:, :3, 3:]).unflatten(2, (HEIGHT, WIDTH))
    error = (positions - expected).norm(dim=1)[rendering.mask]
    assert len(error) > 2000
    assert error.max() < 2e-3


def test_backends_agree_on_everything(shapes, generator, backend):
    index = torch.randint(-1, 3, (5, 4), generator=generator)
    T, K = poses(5, 4, generator, spread=60), cameras(5, generator)
    first, second = (rasterize(shapes, index, T, K, HEIGHT, WIDTH, name) for name in ("numba", backend))
    same = first.face == second.face
    assert same.double().mean() > 0.9995
    assert (first.slot == second.slot).double().mean() > 0.9995
    assert torch.allclose(first.depth[same], second.depth[same], rtol=1e-6)
    assert torch.allclose(first.barycentric[same], second.barycentric[same], atol=1e-5)
    first, second = (render(shapes, index, T, K, HEIGHT, WIDTH, name) for name in ("numba", backend))
    for name in ("coordinates", "normals", "colors"):
        difference = (getattr(first, name) - getattr(second, name)).abs().amax(1)
        assert difference[same].max() < 1e-4, name
    assert torch.equal(first.mask, first.slot >= 0)


def test_order_of_slots_changes_nothing_but_their_numbers(shapes, generator, backend):
    index, T, K = torch.tensor([[0, 1, 2]]), poses(1, 3, generator), cameras(1, generator)
    order = torch.tensor([2, 0, 1])
    plain = rasterize(shapes, index, T, K, HEIGHT, WIDTH, backend)
    turned = rasterize(shapes, index[:, order], T[:, order], K, HEIGHT, WIDTH, backend)
    assert torch.equal(plain.depth, turned.depth)
    seen = turned.slot >= 0
    assert torch.equal(order[turned.slot[seen].long()].int(), plain.slot[seen])


def test_triangles_that_reach_the_near_plane_are_dropped_whole(generator, backend):
    meshes = soup(200, generator)
    index, K = torch.zeros(2, 1, dtype=torch.int64), cameras(2, generator)
    T = poses(2, 1, generator, depth=10.0)
    hits = cast_all(meshes, index, T, K)
    fragments = rasterize(meshes, index, T, K, HEIGHT, WIDTH, backend)
    assert agreement(fragments, hits) > 0.999
    assert bool((hits.slot >= 0).any())
    T[..., 2, 3] = -500
    behind = rasterize(meshes, index, T, K, HEIGHT, WIDTH, backend)
    assert not bool(behind.depth.any())
    assert bool((behind.slot == -1).all())


def test_empty_slots_draw_nothing(shapes, generator, backend):
    T, K = poses(1, 1, generator), cameras(1, generator)
    alone = rasterize(shapes, torch.tensor([[1]]), T, K, HEIGHT, WIDTH, backend)
    T = torch.cat((torch.full((1, 1, 4, 4), torch.nan), T, torch.zeros(1, 1, 4, 4)), dim=1)
    between = rasterize(shapes, torch.tensor([[-1, 1, -1]]), T, K, HEIGHT, WIDTH, backend)
    assert torch.equal(alone.depth, between.depth)
    assert torch.equal(alone.face, between.face)
    assert set(between.slot.unique().tolist()) == {-1, 1}
    nothing = rasterize(shapes, torch.full((1, 2), -1), T[:, :2], K, HEIGHT, WIDTH, backend)
    assert set(nothing.face.unique().tolist()) == {-1}
    assert not bool(nothing.barycentric.any())


def test_no_slots_draw_nothing(shapes, backend):
    none = torch.zeros(2, 0, dtype=torch.int64)
    K = torch.eye(3).expand(2, 3, 3)
    drawn = rasterize(shapes, none, torch.zeros(2, 0, 4, 4), K, HEIGHT, WIDTH, backend)
    assert bool((drawn.slot == -1).all())


def test_equally_near_surfaces_go_to_the_lower_slot_then_face(shapes, generator, backend):
    T, K = poses(1, 1, generator).expand(-1, 2, -1, -1), cameras(1, generator)
    twice = rasterize(shapes, torch.tensor([[2, 2]]), T, K, HEIGHT, WIDTH, backend)
    assert set(twice.slot.unique().tolist()) == {-1, 0}
    ball = soup(20, generator)
    count = len(ball.faces)
    doubled = replace(ball, faces=torch.cat((ball.faces, ball.faces)), face_start=torch.tensor([0, 2 * count]))
    fragments = rasterize(doubled, torch.zeros(1, 1).int(), T[:, :1], K, HEIGHT, WIDTH, backend)
    assert 0 <= int(fragments.face.max()) < count


def test_no_pixel_falls_between_triangles(backend, generator):
    """A crumpled sheet that fills the image, some of its vertices and edges exactly on pixel centres."""
    n = 25
    v, u = torch.meshgrid(torch.arange(n).float() * 3 - 8, torch.arange(n).float() * 3 - 8, indexing="ij")
    jitter = torch.randn(2, n, n, generator=generator) * (torch.rand(n, n, generator=generator) < 0.7) * 0.4
    vertices = torch.stack((u + jitter[0], v + jitter[1], torch.ones_like(u)), dim=-1).reshape(-1, 3)
    vertices = vertices * (100 + 50 * torch.rand(n * n, 1, generator=generator))
    a = (torch.arange(n - 1)[:, None] * n + torch.arange(n - 1)).flatten()
    faces = torch.cat((torch.stack((a, a + 1, a + n), -1), torch.stack((a + n + 1, a + 1, a + n), -1)))
    meshes, index = plain_meshes(vertices, faces), torch.zeros(1, 1).int()
    fragments = rasterize(meshes, index, torch.eye(4)[None, None], torch.eye(3)[None], 40, 40, backend)
    assert bool((fragments.face >= 0).all())
    assert torch.allclose(fragments.barycentric.sum(-1), torch.tensor(1.0))


def test_normals_face_the_camera_whatever_the_winding(shapes, generator, backend):
    index, T, K = torch.tensor([[1], [0]]), poses(2, 1, generator), cameras(2, generator)
    rendering = render(shapes, index, T, K, HEIGHT, WIDTH, backend)
    mask = rendering.mask
    assert torch.allclose(rendering.normals.norm(dim=1)[mask], torch.tensor(1.0), atol=1e-5)
    assert not bool(rendering.normals.movedim(1, -1)[~mask].any())
    T = T[:, 0]
    positions = T[:, :3, :3] @ rendering.coordinates.flatten(2) + T[:, :3, 3:]
    leaving = (positions / positions.norm(dim=1, keepdim=True) * rendering.normals.flatten(2)).sum(1)
    assert leaving[mask.flatten(1)].max() < 1e-5
    radial = torch.nn.functional.normalize(T[0, :3, :3] @ rendering.coordinates[0].flatten(1), dim=0)
    assert (radial * rendering.normals[0].flatten(1)).sum(0)[mask[0].flatten()].min() > 0.98
    for changed in (replace(shapes, faces=shapes.faces[:, [0, 2, 1]]), replace(shapes, normals=-shapes.normals)):
        again = render(changed, index, T[:, None], K, HEIGHT, WIDTH, backend)
        assert (again.normals - rendering.normals).abs().amax(1)[mask].quantile(0.99) < 1e-4


def test_images_of_a_batch_do_not_mix_and_threads_may_share(shapes, generator):
    index = torch.randint(0, 3, (4, 2), generator=generator)
    T, K = poses(4, 2, generator), cameras(4, generator)
    whole = rasterize(shapes, index, T, K, HEIGHT, WIDTH, "numba")
    single: list[Fragments | None] = [None] * 4

    def draw(i: int) -> None:
        single[i] = rasterize(shapes, index[i : i + 1], T[i : i + 1], K[i : i + 1], HEIGHT, WIDTH, "numba")

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, one in enumerate(single):
        assert one is not None
        assert torch.equal(one.face[0], whole.face[i])
        assert torch.equal(one.barycentric[0], whole.barycentric[i])


def test_mesh_set_packs_meshes_and_paints_the_plain_ones_gray(shapes):
    assert len(shapes) == 3
    assert int(shapes.vertex_start[-1]) == len(shapes.vertices)
    assert int(shapes.face_start[-1]) == len(shapes.faces)
    for mesh in range(3):
        faces = shapes.faces[int(shapes.face_start[mesh]) : int(shapes.face_start[mesh + 1])]
        assert int(faces.min()) == int(shapes.vertex_start[mesh])
        assert int(faces.max()) == int(shapes.vertex_start[mesh + 1]) - 1
    gray = shapes.colors[: int(shapes.vertex_start[1])]
    assert torch.equal(gray, torch.full_like(gray, 0.6))
    with pytest.raises(ValueError, match="at least one mesh"):
        MeshSet.from_meshes([])


def test_what_cannot_be_drawn_is_refused(shapes, generator):
    T, K = poses(1, 1, generator), cameras(1, generator)
    with pytest.raises(ValueError, match="image size must be positive"):
        rasterize(shapes, torch.zeros(1, 1).int(), T, K, 0, 10)
    with pytest.raises(ValueError, match="draws on the CPU"):
        rasterize(shapes.to("meta"), torch.zeros(1, 1).int(), T, K, 10, 10, "numba")


def test_kernels_compile_where_no_cache_can_be_written(monkeypatch):
    from cad2pose.cpu_kernels import compiled

    compile_in_memory = numba.njit

    def njit(cache: bool = False, **options):
        if cache:
            raise RuntimeError("no locator available")
        return compile_in_memory(**options)

    monkeypatch.setattr(numba, "njit", njit)
    assert compiled(eval("lambda x: x + 1"))(1) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu(shapes, generator):
    index = torch.randint(-1, 3, (5, 4), generator=generator)
    T, K = poses(5, 4, generator), cameras(5, generator)
    cpu = render(shapes, index, T, K, HEIGHT, WIDTH)
    cuda = render(shapes.to("cuda"), index.cuda(), T.cuda(), K.cuda(), HEIGHT, WIDTH)
    same = cpu.slot == cuda.slot.cpu()
    assert same.double().mean() > 0.999
    close = (cpu.coordinates - cuda.coordinates.cpu()).abs().amax(1) < 1e-2
    assert close.double().mean() > 0.999
