"""Constants on devices are made once, and serve with and without gradients."""

from __future__ import annotations

import torch

from cad2pose.devices import constant


def test_a_constant_is_made_once_and_may_be_part_of_a_graph():
    cpu = torch.device("cpu")
    with torch.inference_mode():
        first = constant(((1.0, 2), (3, 4)), cpu)
    assert first.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert constant(((1.0, 2), (3, 4)), cpu) is first
    assert constant(((1.0, 2), (3, 5)), cpu) is not first
    values = torch.ones(2, requires_grad=True)
    (first @ values).sum().backward()  # an inference tensor would be refused
    assert values.grad is not None
    assert values.grad.tolist() == [4.0, 6.0]
