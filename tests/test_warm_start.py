from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cad2pose.data import SyntheticConfig, SyntheticCrops
from cad2pose.model_file import Model
from cad2pose.parts import builtin_part
from cad2pose.training.warm_start import warm_start
from small_models import SMALL, SMALL_GDRNET, SMALL_SURFEMB, wedge

METHODS = {"query": SMALL, "surfemb": SMALL_SURFEMB, "gdrnet": replace(SMALL_GDRNET, class_aware=True)}


def _tensors(output):
    """All maps and poses of an output, by names."""
    found = {}
    for name, value in vars(output).items():
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif hasattr(value, "__dict__"):
            found |= {f"{name}.{inner}": one for inner, one in _tensors(value).items()}
    return found


@pytest.mark.parametrize("name", METHODS)
def test_parts_of_another_model_are_taken_over_wherever_they_stand_in_it(name):
    torch.manual_seed(0)
    nut, disc, shape = builtin_part("nut"), builtin_part("disc"), wedge()
    lender = Model(METHODS[name].build([shape, nut]).eval(), (shape, nut), {})
    for weight in lender.method.parameters():  # what begins at 0 would be equal in any case
        weight.data += 0.01 * torch.randn_like(weight)
    method = METHODS[name].build([nut, disc, shape]).eval()
    left = warm_start(method, [nut, disc, shape], lender)
    assert left, "the disc's own weights stay random"
    batch = SyntheticCrops([nut], SyntheticConfig(crop_size=32, pictures=2), "cpu", 0).batch(0, 2)
    with torch.no_grad():
        for there, here, part in ((1, 0, nut), (0, 2, shape)):
            was = _tensors(lender.method(replace(batch, part_index=torch.full((2,), there))))
            now = _tensors(method(replace(batch, part_index=torch.full((2,), here))))
            assert was.keys() == now.keys()
            assert len(was) >= 2
            for key, value in was.items():
                torch.testing.assert_close(now[key], value, rtol=1e-4, atol=1e-5, msg=f"{part.name}: {key}")


@pytest.mark.parametrize("name", METHODS)
def test_one_part_taken_out_of_a_model_lacks_nothing(name):
    parts = [wedge(), builtin_part("nut")]
    lender = Model(METHODS[name].build(parts).eval(), tuple(parts), {})
    method = METHODS[name].build(parts[1:])
    assert warm_start(method, parts[1:], lender) == []


@pytest.mark.parametrize("places", [[1, 0], [1], [1, 0, 2]])
def test_maps_that_all_parts_share_stay_as_they_are(places):
    torch.manual_seed(0)
    known = [wedge(), builtin_part("nut"), builtin_part("disc")]
    lender = Model(SMALL_GDRNET.build(known[:2]).eval(), tuple(known[:2]), {})
    parts = [known[place] for place in places]
    method = SMALL_GDRNET.build(parts)
    left = warm_start(method, parts, lender)
    last = {name: value for name, value in method.state_dict().items() if name.startswith("decoder.last.")}
    assert len(last) == 2
    for name, value in last.items():
        assert name not in left
        assert torch.equal(value, lender.method.state_dict()[name])


def test_keys_of_parts_in_common_are_the_same():
    parts = [wedge(), builtin_part("nut")]
    lender = Model(SMALL.build(parts[:1]).eval(), (parts[0],), {})
    method = SMALL.build(parts[::-1])
    left = warm_start(method, parts[::-1], lender)
    assert any(name.startswith("keys.") for name in left)
    for name, value in lender.method.state_dict().items():
        if name.startswith("keys."):
            assert torch.equal(method.state_dict()[name][1], value[0])
            assert not torch.equal(method.state_dict()[name][0], value[0])
