"""Every effect keeps shape and range, does what it says, and is off at zero."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import fields, replace

import pytest
import torch

from cad2pose.data.augmentation import AugmentationConfig, augment
from cad2pose.data.backgrounds import BackgroundPool, check_photos, photo_pieces, procedural_pictures, random_stencil
from cad2pose.data.color import hue_rotation, saturation_matrix, tone_curve
from cad2pose.data.compression import compress_blocks, cosine_basis
from cad2pose.data.draws import Draws
from cad2pose.data.resampling import apply_separable, gaussian_matrix, reading, resampling
from cad2pose.data.sensor import line_kernels, noisy
from cad2pose.pictures import save_png

OFF = AugmentationConfig.off()
EFFECTS = {
    "native": replace(OFF, native=True),
    "auto_exposure": replace(OFF, auto_exposure=True),
    "resolution": replace(OFF, resolution=1.0, resolution_share=1.0),
    "blur": replace(OFF, blur=2.0, blur_share=1.0),
    "motion": replace(OFF, motion=7.0, motion_share=1.0),
    "noise": replace(OFF, noise=0.1, noise_share=1.0),
    "compression": replace(OFF, compression=0.2, compression_share=1.0),
    "sharpen": replace(OFF, sharpen=2.0, sharpen_share=1.0),
    "defocus": replace(OFF, defocus=2.5, defocus_share=1.0),
    "bayer": replace(OFF, bayer=1.0, bayer_share=1.0),
    "equalise": replace(OFF, equalise=3.0, equalise_share=1.0),
    "vignette": replace(OFF, vignette=0.5, vignette_share=1.0),
    "shade": replace(OFF, shade=0.5, shade_share=1.0),
    "color": replace(OFF, brightness=0.2, contrast=0.3, gain=0.2, tone=0.3, saturation=0.5, hue=0.3, color_share=1.0),
    "gray": replace(OFF, gray_share=1.0),
    "invert": replace(OFF, invert_share=1.0),
    "holes": replace(OFF, holes=4, holes_share=1.0),
    "all": AugmentationConfig(),
    "modest": AugmentationConfig.modest(),
}


def pictures(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Smooth pictures with detail, some of it at black and white."""
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    return (smooth + 0.2 * torch.rand(count, 3, size, size, generator=generator) - 0.1).clamp(0, 1)


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("size", [33, 64])
def test_effects_keep_shape_and_range_and_change_something(name: str, size: int, generator: torch.Generator) -> None:
    image = pictures(6, size, generator)
    scale = torch.tensor([0.4, 0.9, 1.0, 1.3, 2.0, 3.5])
    before = image.clone()
    changed = augment(image, scale, EFFECTS[name], Draws(1))
    assert torch.equal(image, before), "the input must stay as it is"
    assert changed.shape == image.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert torch.isfinite(changed).all()
    assert not torch.equal(changed, image)
    assert torch.equal(changed, augment(image, scale, EFFECTS[name], Draws(1)))
    assert not torch.equal(changed, augment(image, scale, EFFECTS[name], Draws(2))) or name == "gray"


@pytest.mark.parametrize("field", [f.name for f in fields(AugmentationConfig) if f.name.endswith("_share")])
def test_no_share_no_change(field: str, generator: torch.Generator) -> None:
    image = pictures(3, 32, generator)
    strongest = {f.name: 0.9 for f in fields(AugmentationConfig) if isinstance(f.default, float)}
    shares = {name: 0.0 for name in strongest if name.endswith("_share")}
    config = replace(OFF, holes=6, **strongest | shares)
    assert torch.equal(augment(image, torch.ones(3), config, Draws(0)), image)
    touched = augment(image, torch.ones(3), replace(config, **{field: 1.0}), Draws(0))
    assert not torch.equal(touched, image)


def test_off_is_the_identity(generator: torch.Generator) -> None:
    image = pictures(4, 40, generator)
    assert torch.equal(augment(image, torch.tensor([0.5, 1.0, 2.0, 4.0]), OFF, Draws(0)), image)


def test_native_resolution_touches_enlarged_crops_only(generator: torch.Generator) -> None:
    image = pictures(3, 48, generator)
    changed = augment(image, torch.tensor([0.5, 1.0, 3.0]), EFFECTS["native"], Draws(0))
    assert torch.equal(changed[:2], image[:2])
    detail = torch.diff(image[2]).abs().mean()
    assert torch.diff(changed[2]).abs().mean() < 0.6 * detail


def test_resampling_keeps_constants_and_ramps() -> None:
    cell = torch.tensor([1.1, 2.0, 3.7])
    down, up = resampling(cell, torch.tensor([0.0, 0.5, 0.9]), 64, 60)
    ones = torch.ones(3, 64, 1)
    assert torch.allclose(up @ (down @ ones), ones, atol=1e-5)
    ramp = torch.arange(64.0)[None, :, None].expand(3, 64, 1)
    inner = slice(8, 56)
    assert torch.allclose((up @ (down @ ramp))[:, inner], ramp[:, inner], atol=0.12)


def test_resampling_by_two_is_the_mean_of_pairs(generator: torch.Generator) -> None:
    down, _ = resampling(torch.tensor([2.0]), torch.tensor([0.0]), 16, 9)
    row = torch.rand(1, 16, 1, generator=generator)
    assert torch.allclose((down @ row)[0, :8, 0], row[0, :, 0].view(8, 2).mean(1), atol=1e-6)


def test_coarse_pixels_beyond_the_ends_show_the_last_fine_ones(generator: torch.Generator) -> None:
    row = torch.rand(1, 16, 1, generator=generator)
    down, up = resampling(torch.tensor([2.0]), torch.tensor([3.0]), 16, 14)
    coarse = (down @ row)[0, :, 0]
    assert torch.allclose(coarse[:3], row[0, 0, 0].expand(3))
    assert torch.allclose(coarse[3:11], row[0, :, 0].view(8, 2).mean(1), atol=1e-6)
    assert torch.allclose(coarse[11:], row[0, -1, 0].expand(3))
    assert not up[0][:, [0, 1, 2, 11, 12, 13]].any(), "what is not seen must not show"


@pytest.mark.parametrize("cell", [1.5, 2.0, 3.0, 4.3])
def test_what_was_enlarged_is_read_off_again(cell: float, generator: torch.Generator) -> None:
    width, phase, cells = torch.tensor([cell]), torch.tensor([0.3]), math.ceil(96 / cell) + 1
    up, read = resampling(width, phase, 96, cells)[1], reading(width, phase, 96, cells)
    coarse = torch.rand(1, cells, 1, generator=generator)
    inner = slice(1, -3)
    error = (read @ (up @ coarse) - coarse)[:, inner].abs().mean()
    assert float(error) < (0.09 if cell < 2 else 0.05), "an even choice of other values is off by 0.33"


def test_gaussian_matrix_has_unit_sums_and_the_stated_width() -> None:
    sigma = torch.tensor([0.0, 0.8, 2.0, 4.0])
    weights = gaussian_matrix(sigma, 65)
    assert torch.allclose(weights.sum(-1), torch.ones(4, 65))
    assert torch.equal(weights[0], torch.eye(65))
    steps = torch.arange(65.0) - 32
    measured = (weights[:, 32] * steps.square()).sum(-1).sqrt()
    assert torch.allclose(measured[1:], sigma[1:], rtol=0.02)


def test_separable_filter_equals_two_products(generator: torch.Generator) -> None:
    image = torch.rand(2, 3, 5, 7, generator=generator)
    vertical, horizontal = torch.rand(2, 4, 5, generator=generator), torch.rand(2, 6, 7, generator=generator)
    expected = torch.einsum("bmh,bchw,bnw->bcmn", vertical, image, horizontal)
    assert torch.allclose(apply_separable(image, vertical, horizontal), expected, atol=1e-5)


def test_photographs_keep_their_detail_and_get_noise_as_coarse_as_their_pixels(generator: torch.Generator) -> None:
    image = torch.rand(6, 3, 48, 48, generator=generator) * 0.2 + 0.4
    scale = torch.full((6,), 3.0)
    quiet = replace(OFF, native=True)
    kept, reduced = (augment(image, scale, quiet, Draws(1), photographs=taken) for taken in (True, False))
    base = augment(image, torch.ones(6), quiet, Draws(1))
    torch.testing.assert_close(kept, base, atol=1e-5, rtol=0)
    assert float((reduced - base).std()) > 0.02
    grainy = replace(quiet, noise=0.1, noise_share=1.0)
    grain = augment(image, scale, grainy, Draws(1), photographs=True) - kept
    like = augment(image, scale, grainy, Draws(1)) - reduced
    torch.testing.assert_close(grain, like, atol=1e-5, rtol=0)
    neighbours = (grain[..., 1:] * grain[..., :-1]).mean() / grain.square().mean()
    assert float(neighbours) > 0.6


def test_line_kernels_average_along_their_direction() -> None:
    kernel = line_kernels(torch.tensor([6.0, 6.0]), torch.tensor([0.0, math.pi / 2]), 11)
    assert torch.allclose(kernel.sum((1, 2)), torch.ones(2))
    assert torch.allclose(kernel[0], kernel[1].T, atol=1e-5)
    assert kernel[0, 5].sum() > 0.999


def test_compression_with_tiny_steps_is_the_identity_and_basis_is_orthonormal(generator: torch.Generator) -> None:
    basis = cosine_basis(8)
    assert torch.allclose(basis @ basis.T, torch.eye(8), atol=1e-6)
    image = torch.rand(2, 3, 19, 24, generator=generator)
    assert torch.allclose(compress_blocks(image, torch.tensor([1e-5, 1e-5])), image, atol=1e-3)
    rough = compress_blocks(image, torch.tensor([0.05, 0.5]))
    error = (rough - image).abs().mean((1, 2, 3))
    assert error[0] < error[1]


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_compression_comes_after_the_colours(scale: float, generator: torch.Generator) -> None:
    image = 0.3 + 0.4 * pictures(8, 48, generator)
    steps_beyond_everything = replace(OFF, native=True, compression=1e6, compression_share=1.0)
    brighter = replace(steps_beyond_everything, brightness=0.3, contrast=0.3, color_share=1.0)
    left = augment(image, torch.full((8,), scale), brighter, Draws(2))
    assert float(left.mean()) < 0.01, "nothing is brightened once compression has made black of it"


def test_blocks_of_compression_are_of_source_pixels_and_begin_anywhere(generator: torch.Generator) -> None:
    ramp = torch.linspace(0.45, 0.55, 96).expand(64, 3, 96, 96)
    config = replace(OFF, native=True, compression=0.4, compression_share=1.0)
    for scale, width in ((1.0, 8), (3.0, 24)):
        changed = augment(ramp, torch.full((64,), scale), config, Draws(5))
        jumps = torch.diff(changed.mean((1, 2)), dim=-1).abs()
        first = [row.argmax().item() % width for row in jumps if row.max() > 3 * row.mean()]
        assert len(first) > 10
        assert len(set(first)) > 4
    assert torch.unique(jumps.argmax(-1) % 8).numel() > 4


@pytest.mark.parametrize("tilt", [-1.4, 0.0, 0.8])
def test_noise_is_as_strong_as_stated_on_gray_and_tilts(tilt: float, generator: torch.Generator) -> None:
    image = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 128, 128)
    grain = torch.randn(3, 3, 128, 128, generator=generator)
    even = torch.full((3,), 0.05)
    for common in (0.0, 1.0):
        found = noisy(image, grain, even, torch.full((3,), tilt), torch.full((3,), common)) - image
        expected = 0.05 * torch.tensor([1 - tilt / 2, 1, 1 + tilt / 2])
        torch.testing.assert_close(found.std((1, 2, 3)), expected, rtol=0.03, atol=0)
        assert torch.equal(found[:, 0], found[:, 1]) == bool(common)


def test_colour_maps_keep_gray(generator: torch.Generator) -> None:
    gray = torch.full((3,), 0.4)
    angle = torch.rand(5, generator=generator)
    assert torch.allclose(hue_rotation(angle) @ gray, gray.expand(5, 3), atol=1e-6)
    assert torch.allclose(saturation_matrix(3 * angle) @ gray, gray.expand(5, 3), atol=1e-6)
    assert torch.allclose(saturation_matrix(torch.zeros(1))[0, 0], saturation_matrix(torch.zeros(1))[0, 2])
    ramp = torch.linspace(0, 1, 50).view(1, 1, 1, 50).expand(2, 3, 1, 50)
    bent = tone_curve(ramp, torch.tensor([-0.9, 0.9]))
    assert (torch.diff(bent) > 0).all()
    assert torch.equal(bent[..., [0, -1]], ramp[..., [0, -1]])


def test_heavier_colours_change_colours_more(generator: torch.Generator) -> None:
    image = torch.rand(1, 3, 16, 16, generator=generator).expand(256, -1, -1, -1)
    spread = []
    for config in (AugmentationConfig.modest(), AugmentationConfig(), AugmentationConfig.colourful()):
        changed = augment(image, torch.ones(256), config, Draws(3))
        spread.append(float(changed.mean((2, 3)).std(0).mean()))
    assert spread[0] < spread[1] < spread[2]


def test_impossible_strengths_are_refused() -> None:
    for name, value in (("blur", -1.0), ("noise_share", 1.2), ("contrast", 1.0)):
        with pytest.raises(ValueError, match=name):
            replace(OFF, **{name: value})


def test_procedural_pictures_differ_and_repeat() -> None:
    pictures = procedural_pictures(Draws(5), 5, 32)
    assert pictures.shape == (5, 3, 32, 32)
    assert pictures.dtype == torch.uint8
    assert torch.equal(pictures, procedural_pictures(Draws(5), 5, 32))
    assert pictures.flatten(1).float().std(dim=1).min() > 1
    assert not torch.equal(pictures[0], pictures[1])


def test_backgrounds_are_endless(tmp_path) -> None:
    from PIL import Image

    Image.new("RGB", (50, 40), (255, 0, 0)).save(tmp_path / "red.png")
    pool = BackgroundPool(0, count=4, photos=tmp_path, photo_share=1.0, side=32)
    assert pool.choose(Draws(0), 3).amax((0, 2, 3)).tolist() == [255, 0, 0]
    backgrounds = pool.sample(Draws(0), 6, 24)
    assert backgrounds.shape == (6, 3, 24, 24)
    assert backgrounds.min() >= 0
    assert backgrounds.max() <= 1
    assert not torch.equal(backgrounds, pool.sample(Draws(1), 6, 24))
    stencil = random_stencil(Draws(0), 8, 24)
    assert stencil.min() == 0
    assert stencil.max() == 1


def test_folder_without_pictures_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        photo_pieces(tmp_path / "nowhere", Draws(0), 3, 16)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="no picture that can be read"):
        photo_pieces(tmp_path, Draws(0), 3, 16)


def test_pictures_that_cannot_be_read_are_counted_and_named(tmp_path) -> None:
    save_png(tmp_path / "good.png", torch.rand(3, 20, 24))
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.warns(UserWarning, match=r"1 of 2 pictures in .* cannot be read and are left out: broken\.png"):
        pieces = photo_pieces(tmp_path, Draws(0), 4, 16)
    assert pieces.shape == (4, 3, 16, 16)


def damaged_files() -> dict[str, bytes]:
    """Pictures that decoders stumble over in ways of their own, by the names of their files."""
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.effect_noise((512, 512), 80).save(stream, "PNG")
    whole = stream.getvalue()
    second = whole.index(b"IDAT", whole.index(b"IDAT") + 1)
    size = b"IHDR" + struct.pack(">II", 60_000, 60_000) + b"\x08\x02\x00\x00\x00"
    huge = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + size + struct.pack(">I", zlib.crc32(size))
    bitmap = struct.pack("<2sIII", b"BM", 54, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, *(0,) * 6)
    return {"chunk.png": whole[:second] + b"\xff" + whole[second + 1 :], "huge.png": huge, "huge.bmp": bitmap}


@pytest.mark.parametrize("name", ["chunk.png", "huge.png", "huge.bmp"])
def test_whatever_a_decoder_stumbles_over_is_left_out(tmp_path, name: str) -> None:
    (tmp_path / name).write_bytes(damaged_files()[name])
    with pytest.raises(ValueError, match=r"no picture that can be read; looked for \.png.*give a folder"):
        photo_pieces(tmp_path, Draws(0), 4, 16)
    with pytest.raises(ValueError, match="no picture that can be read"):
        check_photos(tmp_path)
    save_png(tmp_path / "good.png", torch.rand(3, 20, 24))
    check_photos(tmp_path)
    with pytest.warns(UserWarning, match=rf"1 of 2 pictures in .* cannot be read and are left out: {name}"):
        assert photo_pieces(tmp_path, Draws(0), 4, 16).shape == (4, 3, 16, 16)


def test_a_good_picture_is_found_among_many_broken_ones(tmp_path) -> None:
    save_png(tmp_path / "good.png", torch.rand(3, 20, 24))
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(b"not a picture")
    tried = 0
    for seed in range(4):
        with pytest.warns(UserWarning, match="cannot be read") as caught:
            assert photo_pieces(tmp_path, Draws(seed), 2, 16).shape == (2, 3, 16, 16)
        tried = max(tried, int(str(caught[0].message).split(" of ")[1].split()[0]))
    assert tried > 2, "more than the two pieces need"


@pytest.mark.parametrize(("name", "limit"), [("defocus", 2.0), ("motion", 2.0), ("blur", 4.0)])
def test_lengths_grow_with_enlargement_up_to_a_limit(name: str, limit: float, generator: torch.Generator) -> None:
    image = pictures(3, 64, generator)
    below, at, beyond = (
        augment(image, torch.full((3,), scale), EFFECTS[name], Draws(3)) for scale in (limit / 2, limit, 1.5 * limit)
    )
    assert torch.equal(at, beyond)
    assert not torch.equal(below, at)


def test_grain_fades_where_crops_shrink_the_photograph() -> None:
    image = torch.full((64, 3, 32, 32), 0.5)
    config = replace(OFF, native=True, noise=0.1, noise_share=1.0)
    grain = {
        scale: (augment(image, torch.full((64,), scale), config, Draws(0)) - image).std() for scale in (1.0, 0.5, 0.25)
    }
    assert grain[0.5] / grain[1.0] == pytest.approx(0.5, abs=0.02), "the mean of 2 x 2 pixels"
    assert grain[0.25] / grain[1.0] == pytest.approx(0.25, abs=0.02)
    pattern = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).expand(64, 3, 32, 32)
    for config in (
        replace(OFF, native=True, bayer=1.0, bayer_share=1.0),
        replace(OFF, native=True, compression=0.5, compression_share=1.0),
    ):
        change = {
            scale: (augment(pattern, torch.full((64,), scale), config, Draws(0)) - pattern).abs().mean()
            for scale in (1.0, 0.5, 0.25)
        }
        assert change[1.0] > 1.2 * change[0.5]
        assert change[0.5] >= change[0.25]
