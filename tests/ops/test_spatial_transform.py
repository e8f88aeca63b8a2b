"""Glimpses by matrix products against grid_sample, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from rmonet_d2.ops.spatial_transform import cut_glimpses, paste_glimpses, paste_weights

SIZE, SIDE = (24, 32), 8


@pytest.fixture
def boxes():
    """Centres and scales of (2, 5) boxes: small, large, and half outside the image."""
    centre = torch.rand(2, 5, 2) * 2.4 - 1.2
    scale = torch.rand(2, 5, 2) * 0.8 + 0.05
    return centre.requires_grad_(), scale.requires_grad_()


def sampled(image, centre, scale, size):
    """grid_sample of one image (C, H, W) in one box, to ``size``."""
    theta = torch.diag_embed(scale)
    grid = F.affine_grid(
        torch.cat([theta, centre[:, None]], dim=1)[None], [1, len(image), *size],
        align_corners=False,
    )  # fmt: skip
    return F.grid_sample(image[None], grid, padding_mode="zeros", align_corners=False)[0]


def gradients(result, weights, *inputs):
    return torch.autograd.grad((result * weights).sum(), inputs)


def test_cutting_is_grid_sample(boxes):
    x = torch.rand(2, 3, *SIZE, requires_grad=True)
    fast = cut_glimpses(x, *boxes, SIDE)
    slow = torch.stack(
        [
            torch.stack([sampled(x[i], boxes[0][i, n], boxes[1][i, n], (SIDE, SIDE))
                         for n in range(5)])
            for i in range(2)
        ]
    )  # fmt: skip
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)
    weights = torch.randn_like(fast)
    for a, b in zip(
        gradients(fast, weights, x, *boxes), gradients(slow, weights, x, *boxes), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_pasting_is_grid_sample_with_the_inverse_box(boxes):
    maps = torch.rand(2, 5, 4, SIDE, SIDE, requires_grad=True)
    centre, scale = boxes
    fast = paste_glimpses(maps, *paste_weights(centre, scale, SIDE, SIZE))
    slow = torch.stack(
        [
            torch.stack([sampled(maps[i, n], -centre[i, n] / scale[i, n], 1 / scale[i, n], SIZE)
                         for n in range(5)])
            for i in range(2)
        ]
    )  # fmt: skip
    assert fast.shape == (2, 5, 4, *SIZE)
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-3)
    weights = torch.randn_like(fast)
    for a, b in zip(
        gradients(fast, weights, maps, *boxes), gradients(slow, weights, maps, *boxes), strict=True
    ):
        torch.testing.assert_close(a, b, atol=2e-2, rtol=2e-3)


def test_a_glimpse_of_the_whole_image_is_the_image():
    x = torch.rand(1, 3, SIDE, SIDE)
    centre, scale = torch.zeros(1, 1, 2), torch.ones(1, 1, 2)
    torch.testing.assert_close(cut_glimpses(x, centre, scale, SIDE)[:, 0], x)
    weights = paste_weights(centre, scale, SIDE, (SIDE, SIDE))
    torch.testing.assert_close(paste_glimpses(x[:, None], *weights)[:, 0], x)


def test_x_is_the_first_coordinate():
    maps = torch.ones(1, 1, 1, SIDE, SIDE)
    centre, scale = torch.tensor([[[0.5, 0.0]]]), torch.tensor([[[0.5, 1.0]]])
    pasted = paste_glimpses(maps, *paste_weights(centre, scale, SIDE, SIZE))[0, 0, 0]
    assert (pasted[2:-2, 18:-2] == 1).all() and (pasted[:, :14] == 0).all()


def test_autocast_keeps_float32(boxes):
    x = torch.rand(2, 3, *SIZE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = cut_glimpses(x, *boxes, SIDE)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast, cut_glimpses(x, *boxes, SIDE))
