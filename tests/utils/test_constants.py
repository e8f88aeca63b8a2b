"""Constants that are made once."""

import torch

from rmonet_d2.utils.constants import constant


def test_one_tensor_for_one_constant():
    cpu = torch.device("cpu")
    first = constant((1.0, 2.0), cpu)
    assert first.tolist() == [1.0, 2.0] and first.dtype == torch.float32
    assert constant([1.0, 2.0], "cpu") is first
    assert constant((1.0, 2.0), cpu, torch.float64).dtype == torch.float64


def test_a_constant_of_inference_can_take_part_in_training():
    with torch.inference_mode():
        made = constant((3.0, 4.0), torch.device("cpu"))
    weight = torch.ones(2, requires_grad=True)
    (weight * made).sum().backward()
    assert weight.grad.tolist() == [3.0, 4.0]
