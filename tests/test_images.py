from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from cad2pose.data.images import image_size, read_depth, read_image, read_mask

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def expected(pixels: np.ndarray) -> torch.Tensor:
    channels = np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels[..., :3]
    return torch.from_numpy(channels.astype(np.float32) / 255).permute(2, 0, 1)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("pixels", [GRAY, COLOR], ids=["gray", "rgb"])
def test_eight_bit_images_are_read_exactly(tmp_path, pixels, suffix):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(pixels).save(path)
    assert torch.equal(read_image(path), expected(pixels))
    assert image_size(path) == (7, 5)


def test_jpeg_is_read(tmp_path):
    smooth = np.linspace(0, 255, 16 * 16).reshape(16, 16).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "image.jpg", quality=95)
    assert float((read_image(tmp_path / "image.jpg") - expected(smooth)).abs().max()) < 0.03


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_by_their_range(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    Image.fromarray(GRAY.astype(np.uint16) * 257).save(path)
    torch.testing.assert_close(read_image(path), expected(GRAY))


def test_alpha_and_palette(tmp_path):
    Image.fromarray(np.dstack((COLOR, GRAY))).save(tmp_path / "alpha.png")
    assert torch.equal(read_image(tmp_path / "alpha.png"), expected(COLOR))
    few = COLOR // 64 * 64
    Image.fromarray(few).quantize(64).save(tmp_path / "palette.png")
    assert torch.equal(read_image(tmp_path / "palette.png"), expected(few))


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    Image.fromarray(COLOR).save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "turned.png"), torch.rot90(expected(COLOR), -1, (1, 2)))
    assert image_size(tmp_path / "turned.png") == (5, 7)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_orientation_is_that_of_pillow(tmp_path, orientation, suffix):
    """The size that the header tells is the picture's, in formats that Pillow turns and in those that it does not."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOR).save(tmp_path / f"turned{suffix}", exif=exif)
    with Image.open(tmp_path / f"turned{suffix}") as image:
        image.load()
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = read_image(tmp_path / f"turned{suffix}")
    assert torch.equal(found, expected(upright))
    assert image_size(tmp_path / f"turned{suffix}") == (found.shape[2], found.shape[1])


def test_depth_and_mask(tmp_path):
    Image.fromarray(np.array([[0, 1000], [65535, 2]], np.uint16)).save(tmp_path / "depth.png")
    assert read_depth(tmp_path / "depth.png", 0.1).tolist() == [[0, 100], [pytest.approx(6553.5), pytest.approx(0.2)]]
    Image.fromarray(np.array([[0, 255], [1, 0]], np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[False, True], [True, False]]
    fractions = np.array([[np.nan, 1.5], [-2.0, np.inf]], np.float32)
    Image.fromarray(fractions).save(tmp_path / "depth.tif")
    assert read_depth(tmp_path / "depth.tif", 2.0).tolist() == [[0, 3], [0, 0]], "NaN is nothing measured"
    Image.fromarray(COLOR).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match="3 channels"):
        read_depth(tmp_path / "rgb.png")


@pytest.mark.parametrize("reader", [read_image, image_size, read_depth, read_mask])
def test_what_is_no_image_is_named(tmp_path, reader):
    text = tmp_path / "notes.png"
    text.write_text("not an image")
    with pytest.raises(ValueError, match=r"notes\.png cannot be read as an image"):
        reader(text)
    with pytest.raises(FileNotFoundError, match=r"absent\.png does not exist"):
        reader(tmp_path / "absent.png")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_a_cut_off_image_is_an_error(tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    for share in (0.0, 0.01, 0.5, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError, match=rf"cut{suffix} cannot be read as an image"):
            read_image(path)
        with suppress(ValueError):  # a header may be whole
            assert image_size(path) == (50, 40)


def test_floating_point_images_must_lie_in_their_range(tmp_path):
    Image.fromarray(np.array([[0.25, 1.0]], np.float32)).save(tmp_path / "fine.tif")
    assert read_image(tmp_path / "fine.tif")[0].tolist() == [[0.25, 1.0]]
    Image.fromarray(np.array([[0.25, 300.0]], np.float32)).save(tmp_path / "wide.tif")
    with pytest.raises(ValueError, match="outside its range"):
        read_image(tmp_path / "wide.tif")


def test_the_size_of_a_png_is_told_without_decoding_it(tmp_path, monkeypatch):
    """A chunk that says how the pixels lie may follow them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "first.png", exif=exif)
    data = (tmp_path / "first.png").read_bytes()
    begin = data.index(b"eXIf") - 4
    chunk = data[begin : begin + 12 + int.from_bytes(data[begin : begin + 4], "big")]
    rest = data.replace(chunk, b"")
    (tmp_path / "last.png").write_bytes(rest[:-12] + chunk + rest[-12:])
    Image.new("RGB", (6, 4)).save(tmp_path / "plain.png")
    for name in ("first", "last"):
        assert image_size(tmp_path / f"{name}.png") == (4, 6)
        assert read_image(tmp_path / f"{name}.png").shape == (3, 6, 4)

    def refuse(self):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(PngImageFile, "load", refuse)
    assert image_size(tmp_path / "plain.png") == (6, 4)
    assert image_size(tmp_path / "first.png") == (4, 6)
