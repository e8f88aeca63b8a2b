"""Windows of maps: what they contain, what they cost, and cutting and pasting with gradients."""

import numpy as np
import pytest
import torch

from rmonet_d2.ops.windows import WindowGroup, crop, paste, plan_windows

SIZE = (48, 64)


def rectangles(count=40):
    generator = np.random.default_rng(0)
    corner = generator.integers(-8, 56, (count, 2))
    return np.concatenate([corner, corner + generator.integers(1, 30, (count, 2))], axis=1)


@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("max_groups", [1, 4])
def test_each_rectangle_inside_the_map_is_in_one_window(align, max_groups):
    boxes = rectangles()
    groups = plan_windows(boxes, SIZE, align, max_groups)
    assert 1 <= len(groups) <= max_groups
    clipped = np.clip(boxes, 0, [SIZE[1], SIZE[0]] * 2)
    there = ((clipped[:, 2:] - clipped[:, :2]) > 0).all(axis=1)
    members = [member for group in groups for member in group.members]
    assert sorted(members) == np.flatnonzero(there).tolist()
    for group in groups:
        height, width = group.size
        for member, top, left in zip(group.members, group.top, group.left, strict=True):
            x0, y0, x1, y1 = clipped[member]
            assert 0 <= left <= x0 and x1 <= left + width <= SIZE[1]
            assert 0 <= top <= y0 and y1 <= top + height <= SIZE[0]
            assert top % align == left % align == height % align == width % align == 0


def test_more_sizes_cost_less_and_the_best_division_is_found():
    # Two clearly different sizes: two groups without waste.
    boxes = np.array([[0, 0, 8, 8]] * 5 + [[0, 0, 32, 16]] * 2)
    groups = plan_windows(boxes, SIZE)
    assert [(g.size, len(g.members)) for g in groups] == [((8, 8), 5), ((16, 32), 2)]
    cost = [sum(g.pixels for g in plan_windows(rectangles(), SIZE, 1, n)) for n in (1, 2, 3, 4)]
    assert cost == sorted(cost, reverse=True) and cost[3] < 0.7 * cost[0]


def test_nothing_to_do():
    assert plan_windows(np.zeros((0, 4)), SIZE) == []
    assert plan_windows([[5, 5, 5, 9], [70, 3, 80, 9]], SIZE) == []


def test_cropped_windows_are_slices_and_their_gradients_add_up():
    maps = torch.rand(2, 3, 6, 8, dtype=torch.float64, requires_grad=True)
    group = WindowGroup([0, 1, 1], [0, 2, 3], [1, 0, 4], (3, 4))
    windows = crop(maps, group)
    assert torch.equal(windows[2], maps[1, :, 3:6, 4:8])
    assert torch.autograd.gradcheck(lambda m: crop(m, group), (maps,))


def test_pasted_windows_replace_the_map_and_pass_gradients():
    group, other = WindowGroup([0], [1], [2], (3, 4)), WindowGroup([2, 1], [0, 2], [0, 1], (2, 2))
    parts = [torch.rand(len(g.members), 2, *g.size, dtype=torch.float64) for g in (group, other)]
    for part in parts:
        part.requires_grad_()

    def pasted(*parts):
        like = torch.full((3, 2, 6, 8), 7.0, dtype=torch.float64)
        return paste(list(parts), [group, other], like)

    out = pasted(*parts)
    assert torch.equal(out[0, :, 1:4, 2:6], parts[0][0])
    assert torch.equal(out[1, :, 2:4, 1:3], parts[1][1])
    assert (out == 7).sum() == out.numel() - sum(part.numel() for part in parts)
    assert torch.autograd.gradcheck(pasted, parts)


def test_windows_in_cells_of_a_coarser_map():
    group = WindowGroup([3], [8], [4], (12, 16)).scaled(4)
    assert (group.top, group.left, group.size, group.members) == ([2], [1], (3, 4), [3])
