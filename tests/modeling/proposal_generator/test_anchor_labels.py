"""Labels of all images' anchors against Detectron2's matcher and sampler, image by image."""

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, Instances, pairwise_iou

from rmonet_d2.modeling.proposal_generator.anchor_labels import match_anchors, sample_labels
from rmonet_d2.modeling.sharded_random import part_of_batch


def random_boxes(count: int) -> Boxes:
    corner = torch.rand(count, 2) * 40
    return Boxes(torch.cat([corner, corner + 4 + torch.rand(count, 2) * 20], dim=1))


def targets_of(counts):
    targets = [Instances((64, 64), gt_boxes=random_boxes(count)) for count in counts]
    if counts[0]:
        # Far from all anchors: its best IoU is 0, and Detectron2 takes all anchors for its own.
        targets[0].gt_boxes.tensor[0] = torch.tensor([200.0, 200, 210, 210])
    return targets


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("counts", [(3, 0, 7, 1), (0, 0), (5,)])
def test_matches_are_the_matchers(counts, low_quality):
    matcher = Matcher([0.3, 0.6], [0, -1, 1], allow_low_quality_matches=low_quality)
    anchors, targets = random_boxes(300), targets_of(counts)
    labels, boxes = match_anchors(anchors, targets, matcher)
    assert labels.shape == (len(counts), 300) and boxes.shape == (len(counts), 300, 4)
    for image, target in enumerate(targets):
        index, expected = matcher(pairwise_iou(target.gt_boxes, anchors))
        assert torch.equal(labels[image], expected)
        if len(target):
            assert torch.equal(boxes[image], target.gt_boxes.tensor[index])
        else:
            assert (boxes[image] == 0).all()


@pytest.mark.parametrize("num_samples", [1, 40, 100, 1000])
@pytest.mark.parametrize("positive_fraction", [0.0, 0.25, 1.0])
def test_samples_have_detectron2s_numbers(num_samples, positive_fraction):
    shares = torch.tensor([[0.0], [0.02], [0.3], [1.0]])
    labels = (torch.rand(4, 200) < shares).to(torch.int8)
    labels[torch.rand(4, 200) < 0.1] = -1
    sampled = sample_labels(labels, num_samples, positive_fraction)
    assert ((sampled == labels) | (sampled == -1)).all()
    for ours, all_of_image in zip(sampled, labels, strict=True):
        expected = subsample_labels(all_of_image, num_samples, positive_fraction, 0)
        assert [(ours == label).sum().item() for label in (1, 0)] == list(map(len, expected))


def test_every_label_is_as_likely_as_the_others():
    labels = torch.tensor([[1] * 8 + [0] * 12 + [-1] * 2], dtype=torch.int8).repeat(4000, 1)
    share = (sample_labels(labels, 8, 0.25) >= 0).float().mean(dim=0)
    torch.testing.assert_close(share[:8], torch.full((8,), 2 / 8), atol=0.04, rtol=0)
    torch.testing.assert_close(share[8:20], torch.full((12,), 6 / 12), atol=0.04, rtol=0)
    assert (share[20:] == 0).all()


def test_parts_of_a_batch_have_its_samples():
    labels = (torch.rand(6, 100) < 0.3).to(torch.int8)
    torch.manual_seed(1)
    whole = sample_labels(labels, 20, 0.5)
    for part in range(3):
        torch.manual_seed(1)
        with part_of_batch(part, 3):
            own = sample_labels(labels[2 * part : 2 * part + 2], 20, 0.5)
        assert torch.equal(own, whole[2 * part : 2 * part + 2])
