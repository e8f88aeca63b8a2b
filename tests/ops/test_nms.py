"""Non-maximum suppression of many groups against a plain loop and torchvision's."""

import pytest
import torch
from torchvision.ops import nms

from rmonet_d2.ops.nms import grouped_nms, keep_in_rounds, padded_nms


def plain_nms(boxes: list, group: list, threshold: float) -> list[bool]:
    kept: list[int] = []
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        for j in kept:
            a0, b0, a1, b1 = boxes[j]
            shared = max(0, min(x1, a1) - max(x0, a0)) * max(0, min(y1, b1) - max(y0, b0))
            union = (x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - shared
            if group[i] == group[j] and shared / union > threshold:
                break
        else:
            kept.append(i)
    return [i in kept for i in range(len(boxes))]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_grouped_nms(threshold):
    generator = torch.Generator().manual_seed(5)
    corner = torch.randint(0, 12, (400, 2), generator=generator)
    boxes = torch.cat([corner, corner + torch.randint(1, 12, (400, 2), generator=generator)], 1)
    group = torch.randint(0, 9, (400,), generator=generator).sort().values * 2
    kept = grouped_nms(boxes, group, threshold)
    assert kept.tolist() == plain_nms(boxes.tolist(), group.tolist(), threshold)
    one = grouped_nms(boxes, torch.zeros_like(group), threshold).nonzero().squeeze(1)
    ranks = torch.arange(400, 0, -1).double()
    assert one.tolist() == nms(boxes.double(), ranks, threshold).tolist()


def test_grouped_nms_in_parts(monkeypatch):
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 9, 4], [0, 0, 4, 4]])
    group = torch.tensor([0, 0, 3, 3, 5])
    whole = grouped_nms(boxes, group, 0.7).tolist()
    monkeypatch.setattr("rmonet_d2.ops.nms._MAX_PAIRS", 1)
    assert whole == grouped_nms(boxes, group, 0.7).tolist() == [True, False, True, True, True]
    assert grouped_nms(boxes[:0], group[:0], 0.7).shape == (0,)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7])
def test_padded_nms_is_torchvisions_in_each_group(threshold):
    corner = torch.rand(7, 60, 2) * 30
    boxes = torch.cat([corner, corner + 1 + torch.rand(7, 60, 2) * 20], dim=2)
    valid = torch.rand(7, 60) < 0.8
    valid[3] = False
    kept = padded_nms(boxes, valid, threshold)
    ranks = torch.arange(60.0, 0, -1)
    for group in range(7):
        there = valid[group].nonzero().squeeze(1)
        expected = there[nms(boxes[group, there], ranks[there], threshold)]
        assert kept[group].nonzero().squeeze(1).tolist() == expected.tolist()


def test_padded_nms_of_a_chain_and_of_nothing():
    """Each box meets the next one only: every other one stays, after as many rounds."""
    start = torch.arange(40.0)[:, None] * 2
    boxes = torch.cat([start, torch.zeros(40, 1), start + 3, torch.ones(40, 1)], dim=1)[None]
    kept = padded_nms(boxes, torch.ones(1, 40, dtype=torch.bool), 0.1)
    assert kept[0].tolist() == [True, False] * 20
    assert padded_nms(boxes[:, :0], kept[:, :0], 0.1).shape == (1, 0)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7])
def test_the_rounds_of_an_exported_graph_are_greedy(threshold):
    corner = torch.rand(5, 40, 2) * 20
    boxes = torch.cat([corner, corner + 1 + torch.rand(5, 40, 2) * 20], dim=2)
    # A chain, in which each box suppresses the next one: it settles one box per round.
    boxes[4] = torch.arange(40.0)[:, None] * 0.5 + torch.tensor([0.0, 0.0, 10.0, 10.0])
    valid = torch.rand(5, 40) < 0.8
    kept = keep_in_rounds(boxes, valid, threshold)
    assert torch.equal(kept, padded_nms(boxes, valid, threshold))
    assert 0 < kept.sum() < valid.sum()
