"""The foreground of SPACE against loops over cells and pixels."""

import pytest
import torch
import torch.nn.functional as F

from rmonet_d2.ops.compositing import boundary_loss, composite
from rmonet_d2.ops.spatial_transform import paste_weights

SIZE, SIDE = (12, 16), 8


@pytest.fixture
def layers():
    cover = torch.rand(2, 4, *SIZE) * (torch.rand(2, 4, *SIZE) > 0.4)
    colours = torch.rand(2, 4, 3, *SIZE)
    return cover, colours, torch.randn(2, 4)


def test_composite_is_the_softmax_of_each_pixel(layers):
    cover, colours, depth = layers
    result = composite(cover, cover[:, :, None] * colours, depth)
    for i in range(2):
        for row, column in ((0, 0), (5, 7), (11, 15)):
            alpha, mean = 0.0, torch.zeros(3)
            at = cover[i, :, row, column]
            nearness = [100 / (1 + depth[i, n].exp()) * at[n] for n in range(4)]
            total = sum(value.exp() for value in nearness)
            for n in range(4):
                mask = nearness[n].exp() / total * at[n]
                torch.testing.assert_close(result.masks[i, n, row, column], mask)
                alpha += mask
                mean += mask * colours[i, n, :, row, column]
            torch.testing.assert_close(result.alpha[i, row, column], alpha)
            torch.testing.assert_close(result.mean[i, :, row, column], mean)


def test_the_nearest_object_hides_the_others():
    cover = torch.ones(1, 3, *SIZE)
    paint = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1, 1).expand(1, 3, 3, *SIZE)
    result = composite(cover, paint, torch.tensor([[1.0, -1.0, 0.0]]))
    torch.testing.assert_close(result.mean, torch.full((1, 3, *SIZE), 0.5), atol=1e-4, rtol=0)
    assert (result.masks[:, 1] > 0.999).all()


def test_masks_are_shares(layers):
    cover, colours, depth = layers
    result = composite(cover, cover[:, :, None] * colours, depth)
    assert (result.masks >= 0).all() and (result.masks.sum(dim=1) <= 1 + 1e-6).all()
    assert (result.masks[cover == 0] == 0).all()


@pytest.mark.parametrize("width", [1, 3])
def test_boundary_loss_is_that_of_pasted_frames(width):
    centre, scale = torch.rand(2, 4, 2) * 2 - 1, torch.rand(2, 4, 2) * 0.6 + 0.1
    pres, alpha = torch.rand(2, 4), torch.rand(2, *SIZE)
    fast = boundary_loss(pres, *paste_weights(centre, scale, SIDE, SIZE), alpha, width)
    frame = torch.full((1, 1, SIDE, SIDE), 1.0 / SIDE**2)
    frame[..., width:-width, width:-width] = 0.0
    for i in range(2):
        frames = torch.zeros(SIZE)
        for n in range(4):
            theta = torch.cat(
                [torch.diag(1 / scale[i, n]), (-centre[i, n] / scale[i, n])[:, None]], dim=1
            )
            grid = F.affine_grid(theta[None], [1, 1, *SIZE], align_corners=False)
            pasted = F.grid_sample(frame, grid, padding_mode="zeros", align_corners=False)
            frames += pres[i, n] * pasted[0, 0]
        normal = torch.distributions.Normal(0.0, 0.7)
        zero = normal.log_prob(torch.zeros(1))
        expected = (zero - normal.log_prob(1000.0 * frames * alpha[i])).sum()
        torch.testing.assert_close(fast[i], expected, rtol=1e-4, atol=1e-2)
