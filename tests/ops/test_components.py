"""Components against scikit-image and a plain flood fill; box means against a loop."""

import numpy as np
import pytest
import torch
from skimage.measure import label, regionprops

from rmonet_d2.ops.components import (
    Components,
    box_means,
    class_component_boxes,
    label_components,
)
from rmonet_d2.ops.multi_otsu import mask_segments


def boxes_of_planes(binary: torch.Tensor) -> Components:
    """Components of (N, H, W) bool planes, each plane as the only class of a mask."""
    num_planes, height, width = binary.shape
    rows = torch.arange(num_planes * height)
    classes = binary.reshape(-1, width).to(torch.int8)
    return class_component_boxes(rows, classes, 2, (num_planes, height, width))


def flood_fill(plane: np.ndarray) -> np.ndarray:
    """8-connected labels in the order of the first pixels."""
    labels = np.zeros(plane.shape, int)
    count = 0
    for start in zip(*np.nonzero(plane), strict=True):
        if labels[start]:
            continue
        count += 1
        queue = [start]
        labels[start] = count
        while queue:
            y, x = queue.pop()
            for other in ((y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                inside = 0 <= other[0] < plane.shape[0] and 0 <= other[1] < plane.shape[1]
                if inside and plane[other] and not labels[other]:
                    labels[other] = count
                    queue.append(other)
    return labels


def spiral(size: int) -> torch.Tensor:
    """A one pixel wide spiral with one pixel between its arms: a single, very long component."""
    plane = torch.zeros(size, size, dtype=torch.bool)
    y = x = 0
    plane[0, 0] = True
    steps = [size - 1, *(n for k in range(size - 1, 0, -2) for n in (k, k))]
    for turn, length in enumerate(steps):
        dy, dx = ((0, 1), (1, 0), (0, -1), (-1, 0))[turn % 4]
        for _ in range(length):
            y, x = y + dy, x + dx
            plane[y, x] = True
    return plane


def hard_planes() -> torch.Tensor:
    """(N, 33, 33): a spiral and its relatives, combs, stripes, a chessboard, full and empty."""
    size = 33
    grid = torch.arange(size)
    arms = spiral(size)
    comb = (grid % 2 == 0)[None].repeat(size, 1)
    top, bottom, both = comb.clone(), comb.clone(), comb.clone()
    top[0], bottom[-1] = True, True
    both[0, ::4], both[-1, 2::4] = True, True
    both[0, 1::4], both[-1, 3::4] = True, True
    stairs = (grid[None] - grid[:, None]) % 4 == 0
    planes = [arms, ~arms, arms.flip(0), arms.t(), comb, top, bottom, both, top.t(), both.t()]
    planes += [stairs, stairs.flip(1), (grid[None] + grid[:, None]) % 2 == 0]
    planes += [torch.ones_like(arms), torch.zeros_like(arms)]
    return torch.stack(planes)


def expected_components(labels: np.ndarray) -> list[list[int]]:
    found = []
    for n, plane in enumerate(labels):
        for region in regionprops(plane):
            y0, x0, y1, x1 = region.bbox
            found.append([n, x0, y0, x1, y1])
    return found


def as_rows(components) -> list[list[int]]:
    return torch.cat([components.plane[:, None], components.boxes], dim=1).tolist()


@pytest.mark.parametrize("density", [0.05, 0.2, 0.35, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (7, 5), (32, 20), (64, 64)])
def test_random_planes(density, size):
    generator = torch.Generator().manual_seed(size[0])
    binary = torch.rand(40, *size, generator=generator) < density
    labels = np.stack([label(plane) for plane in binary.numpy()])
    assert (label_components(binary).numpy() == labels).all()
    assert as_rows(boxes_of_planes(binary)) == expected_components(labels)


def test_hard_planes():
    binary = hard_planes()
    labels = np.stack([label(plane) for plane in binary.numpy()])
    assert labels[0].max() == 1 and labels[7].max() == 1
    assert (label_components(binary).numpy() == labels).all()
    assert as_rows(boxes_of_planes(binary)) == expected_components(labels)


def test_rounds_between_two_looks_change_nothing(monkeypatch):
    """A GPU's number of rounds, on a CPU."""
    planes = torch.rand(6, 40, 40) < 0.6
    expected = label_components(planes)
    monkeypatch.setattr("rmonet_d2.ops.components._ROUNDS", {})
    assert torch.equal(label_components(planes), expected)


def test_plain_flood_fill():
    generator = torch.Generator().manual_seed(2)
    binary = torch.rand(30, 13, 11, generator=generator) < 0.4
    labels = np.stack([flood_fill(plane) for plane in binary.numpy()])
    assert (label_components(binary).numpy() == labels).all()
    assert as_rows(boxes_of_planes(binary)) == expected_components(labels)


@pytest.mark.parametrize("cumulative", [False, True])
def test_components_of_classes(cumulative):
    generator = torch.Generator().manual_seed(3)
    classes = torch.randint(0, 4, (12, 17, 19), generator=generator, dtype=torch.int8)
    classes[:, 4:9] = 0
    index = torch.cat([torch.arange(17)[[*range(4), *range(9, 17)]] + 17 * n for n in range(12)])
    found = class_component_boxes(index, classes.flatten(0, 1)[index], 4, (12, 17, 19), cumulative)
    planes = [classes >= c if cumulative else classes == c for c in (1, 2, 3)]
    labels = np.stack([label(plane) for plane in torch.cat(planes).numpy()])
    assert as_rows(found) == expected_components(labels)


@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize("length", [1, 8, 32])
def test_components_of_segments(length, cumulative):
    """Runs that cross the bounds of segments, and touch across the ends of rows, which does not
    join them."""
    generator = torch.Generator().manual_seed(3)
    classes = torch.randint(0, 3, (9, 16, 8), generator=generator, dtype=torch.int8)
    classes = classes.repeat_interleave(4, dim=2)
    classes[3, :, 8:16] = 0
    segments = classes.view(-1, length)
    index = segments.any(1).nonzero().squeeze(1)
    assert length == 32 or len(index) < len(segments)
    found = class_component_boxes(index, segments[index], 3, tuple(classes.shape), cumulative)
    planes = [classes >= c if cumulative else classes == c for c in (1, 2)]
    labels = np.stack([label(plane) for plane in torch.cat(planes).numpy()])
    assert as_rows(found) == expected_components(labels)


def test_no_pixels():
    for shape in ((0, 4, 4), (3, 4, 4)):
        binary = torch.zeros(shape, dtype=torch.bool)
        components = boxes_of_planes(binary)
        assert components.plane.shape == (0,) and components.boxes.shape == (0, 4)
        assert label_components(binary).shape == shape and not label_components(binary).any()


@pytest.mark.parametrize("width", [26, 128])
def test_box_means_are_exact(width):
    """Equal to a mean in float64 to the last bit, though summed in another order."""
    generator = torch.Generator().manual_seed(4)
    masks = torch.rand(20, 30, width, generator=generator)
    masks = torch.where(masks < 0.001, 0.0, masks)
    masks[:, :3] = 0
    masks[::3, :, width // 3 :] = 0
    masks[7, 5, 5] = torch.nan
    mask = torch.randint(0, 20, (300,), generator=generator)
    mask[mask == 7] = 8
    ranges = ((0, width - 1), (0, 29))
    low = torch.stack([torch.randint(*pair, (300,), generator=generator) for pair in ranges])
    size = torch.stack([torch.randint(1, 30, (300,), generator=generator) for _ in range(2)])
    high = torch.minimum(low + size, torch.tensor([width, 30])[:, None])
    boxes = torch.cat([low, high]).t()
    means = box_means(mask_segments(masks), mask, boxes)
    expected = [
        masks[n, y0:y1, x0:x1].double().mean().item()
        for n, (x0, y0, x1, y1) in zip(mask.tolist(), boxes.tolist(), strict=True)
    ]
    assert means.tolist() == expected
