"""Networks: shapes, per-object outputs, initialisation, pretrained weights."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cad2pose.networks import KeyNetwork, PatchPnP, ResNetEncoder, UNetDecoder, unet


def test_encoder_taps_have_the_strides_of_resnet():
    encoder = ResNetEncoder(width=8)
    taps = encoder(torch.rand(2, 3, 64, 96))
    assert [tuple(t.shape[1:]) for t in taps] == [(8, 32, 48), (8, 16, 24), (16, 8, 12), (32, 4, 6), (64, 2, 3)]
    assert encoder.tap_channels == tuple(t.shape[1] for t in taps)


def test_resnet18_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in ResNetEncoder().parameters()) == 11_176_512


def test_pretrained_weights_load_into_a_four_channel_stem(tmp_path):
    source = ResNetEncoder(width=64)
    for suffix in ("safetensors", "pth"):
        path = tmp_path / f"weights.{suffix}"
        state = {**source.state_dict(), "fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
        save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
        encoder = ResNetEncoder(width=64, channels_in=4)
        encoder.load_pretrained(path)
        image = torch.rand(1, 3, 32, 32)
        with_extra = torch.cat((image, torch.rand(1, 1, 32, 32)), dim=1)
        torch.testing.assert_close(encoder.eval()(with_extra)[4], source.eval()(image)[4])


def test_pretrained_weights_that_do_not_fit_are_refused(tmp_path):
    state = ResNetEncoder(width=64).state_dict()
    save_file(state, tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match="needs"):
        ResNetEncoder(width=32).load_pretrained(tmp_path / "wide.safetensors")
    del state["layer3.0.conv1.weight"]
    save_file(state, tmp_path / "torn.safetensors")
    with pytest.raises(ValueError, match=r"layer3\.0\.conv1\.weight"):
        ResNetEncoder(width=64).load_pretrained(tmp_path / "torn.safetensors")
    for suffix in ("safetensors", "pth"):
        (tmp_path / f"damaged.{suffix}").write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match="holds no weights that can be read"):
            ResNetEncoder(width=64).load_pretrained(tmp_path / f"damaged.{suffix}")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no names with weights"):
        ResNetEncoder(width=64).load_pretrained(tmp_path / "list.pth")


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_decoder_gives_every_object_its_own_map(stride):
    encoder = ResNetEncoder(width=8)
    decoder = UNetDecoder(encoder.tap_channels, stride, outputs=5, objects=3)
    taps = encoder(torch.rand(1, 3, 64, 64).expand(3, -1, -1, -1))
    maps = decoder(taps, torch.tensor([0, 1, 2]))
    assert maps.shape == (3, 5, 64 // stride, 64 // stride)
    every = decoder.last.weight.unflatten(0, (3, 5))
    assert not torch.allclose(maps[0], maps[1])
    decoder.last.weight.data = every[:1].expand(3, -1, -1, -1, -1).flatten(0, 1).clone()
    assert decoder.last.bias is not None
    decoder.last.bias.data = decoder.last.bias.data[:5].repeat(3)
    same = decoder(taps, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(same[0], same[1])


def test_a_slim_decoder_is_slim_where_maps_are_fine_and_the_same_elsewhere():
    encoder = ResNetEncoder(width=8)
    plain, slim = (UNetDecoder(encoder.tap_channels, 1, outputs=5, slim=slim) for slim in (False, True))
    widths = [[convolution.in_channels for convolution in decoder.convolutions] for decoder in (plain, slim)]
    assert widths == [[96, 80, 40, 40, 16], [96, 80, 40, 16, 8]]
    taps = encoder(torch.rand(1, 3, 64, 64))
    assert slim(taps, torch.tensor([0])).shape == plain(taps, torch.tensor([0])).shape
    coarse = [UNetDecoder(encoder.tap_channels, 4, outputs=5, slim=slim) for slim in (False, True)]
    coarse[1].load_state_dict(coarse[0].state_dict())  # models made before there were slim decoders are still read


def test_a_decoder_of_one_object_is_the_first_of_several():
    encoder = ResNetEncoder(width=8)
    one, several = (UNetDecoder(encoder.tap_channels, 4, outputs=5, objects=objects) for objects in (1, 2))
    state = several.state_dict()
    one.load_state_dict(state | {name: state[name][:5] for name in ("last.weight", "last.bias")})
    taps, first = encoder(torch.rand(2, 3, 64, 64)), torch.zeros(2, dtype=torch.long)
    torch.testing.assert_close(one(taps, first), several(taps, first))


def test_gradients_of_a_decoder_are_dense_where_doubling_takes_them(monkeypatch):
    """Only the path is another: what `cat` gives back is a slice, and values stay what they are."""
    encoder = ResNetEncoder(width=8)
    decoder = UNetDecoder(encoder.tap_channels, 2, outputs=5)
    taps = [
        tap.detach().to(memory_format=torch.channels_last).requires_grad_() for tap in encoder(torch.rand(2, 3, 64, 64))
    ]
    index, dense, seen = torch.zeros(2, dtype=torch.long), unet._dense, []

    def watched(gradient):
        seen.append(dense(gradient))
        return seen[-1]

    def gradients():
        return torch.autograd.grad(decoder(taps, index).square().sum(), [*taps, *decoder.parameters()])

    monkeypatch.setattr(unet, "_dense", watched)
    found = gradients()
    assert len(seen) == 4
    assert all(gradient.is_contiguous(memory_format=torch.channels_last) for gradient in seen)
    monkeypatch.setattr(unet, "_dense", lambda gradient: gradient)
    torch.testing.assert_close(found, gradients())


def test_keys_of_many_objects_equal_those_of_each_alone():
    network = KeyNetwork(objects=3, embedding=4, width=16)
    points = torch.rand(3, 7, 3)
    together = network(points, torch.arange(3))
    for i in (2, 0, 1):
        torch.testing.assert_close(network(points[i : i + 1], torch.tensor([i]))[0], together[i])


def test_key_network_is_initialised_as_siren():
    network = KeyNetwork(objects=1, embedding=12, width=256).requires_grad_(False)
    bound = math.sqrt(6 / 256) / 30
    assert network.weights[0].abs().max() <= 1 / 3
    assert network.weights[0].abs().max() > 0.3
    for weight, gain in zip(list(network.weights)[1:], (1, 1, 15), strict=True):
        assert 0.95 * bound * gain < weight.abs().max() <= bound * gain
    keys = network(torch.rand(1, 4096, 3) * 2 - 1, torch.tensor([0]))
    assert 0.3 < float(keys.std()) < 3.0
    # Sitzmann et al.: activations before each sine keep a spread of about 1
    x = torch.rand(1, 4096, 3) * 2 - 1
    hidden = torch.sin(30 * torch.baddbmm(network.biases[0], x, network.weights[0]))
    before = 30 * torch.baddbmm(network.biases[1], hidden, network.weights[1])
    assert 0.5 < float(before.std()) < 2.0


def test_keys_stay_in_single_precision_under_autocast():
    network = KeyNetwork(objects=1, embedding=4, width=16)
    points = torch.rand(1, 7, 3)
    with torch.autocast("cpu", torch.bfloat16):
        keys = network(points, torch.tensor([0]))
    torch.testing.assert_close(keys, network(points, torch.tensor([0])))


def test_patch_pnp_separates_objects():
    head = PatchPnP(channels=6, map_size=16, outputs=9, objects=2, width=8, hidden=(16, 8))
    maps = torch.rand(1, 6, 16, 16).expand(2, -1, -1, -1)
    numbers = head(maps, torch.tensor([0, 1]))
    assert numbers.shape == (2, 9)
    assert not torch.allclose(numbers[0], numbers[1])


def test_patch_pnp_normalises_in_single_precision_under_autocast():
    head = PatchPnP(6, 32, 9, width=16, hidden=(32, 16))
    seen: list[torch.dtype] = []
    for layer in head.features:
        if isinstance(layer, torch.nn.GroupNorm):
            layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    maps, index = torch.randn(3, 6, 32, 32), torch.zeros(3, dtype=torch.long)
    plain = head(maps, index)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = head(maps, index)
    assert seen == [torch.float32] * 3 + [torch.bfloat16] * 3  # what comes out has the type of what went in
    torch.testing.assert_close(half, plain, rtol=0, atol=0.05)


@pytest.mark.parametrize("width", range(8, 264, 8))
def test_heads_of_any_width_can_be_built(width):
    head = PatchPnP(2, 8, 9, width=width, hidden=(8, 8))
    norm = next(layer for layer in head.features if isinstance(layer, nn.GroupNorm))
    assert width % norm.num_groups == 0
    if width % 32 == 0 or width < 128:
        assert norm.num_groups == min(32, width // 4), "as models have it that are there"
