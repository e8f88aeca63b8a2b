"""The backbone is Detectron2's ResNet18 and FPN, and torchvision's weights fit it."""

import pytest
import torch
import torchvision
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, build_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from rmonet_d2.checkpoint import convert_torchvision_resnet, is_torchvision_resnet
from rmonet_d2.engine import load_config
from rmonet_d2.modeling.backbone import build_resnet18


def test_shapes_and_strides(small_cfg):
    backbone = build_backbone(small_cfg())
    shapes = backbone.output_shape()
    features = backbone(torch.rand(2, 3, 64, 96))
    assert {name: shapes[name].stride for name in ("stem", "res2", "res3", "res4", "res5")} == {
        "stem": 2, "res2": 4, "res3": 8, "res4": 16, "res5": 32,
    }  # fmt: skip
    for name, feature in features.items():
        stride = shapes[name].stride
        assert feature.shape[1] == shapes[name].channels
        assert feature.shape[2:] == ((64 + stride - 1) // stride, (96 + stride - 1) // stride)


def test_fpn_is_detectron2s(small_cfg):
    """The composed FPN gives what Detectron2's FPN on the same bottom-up network gives."""
    backbone = build_backbone(small_cfg()).eval()
    plain = FPN(
        backbone.bottom_up, ["res2", "res3", "res4", "res5"], 16, top_block=LastLevelMaxPool()
    ).eval()
    plain.load_state_dict(backbone.fpn.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 64)
    ours, theirs = backbone(x), plain(x)
    for name in ("p2", "p3", "p4", "p5", "p6"):
        torch.testing.assert_close(ours[name], theirs[name])


def test_resnet_is_torchvisions():
    """Full widths, with torchvision's weights converted: the same maps."""
    reference = torchvision.models.resnet18(weights=None).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    state = reference.state_dict()
    assert is_torchvision_resnet(state)
    ours = build_resnet18(load_config(), ShapeSpec(channels=3)).eval()
    ours.load_state_dict(convert_torchvision_resnet(state, prefix=""))
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = ours(x)
        y = reference.relu(reference.bn1(reference.conv1(x)))
        torch.testing.assert_close(features["stem"], y)
        y = reference.maxpool(y)
        for index in range(1, 5):
            y = getattr(reference, f"layer{index}")(y)
            torch.testing.assert_close(features[f"res{index + 1}"], y)


def test_nothing_is_frozen(small_cfg):
    backbone = build_backbone(small_cfg()).train()
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all(norm.training for norm in norms)
    assert all(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize("width", [16, 64])
def test_widths_double_from_stage_to_stage(width):
    cfg = load_config("", ["MODEL.RESNETS.RES2_OUT_CHANNELS", width])
    shapes = build_resnet18(cfg, ShapeSpec(channels=3)).output_shape()
    assert [shapes[f"res{i}"].channels for i in range(2, 6)] == [width * 2**i for i in range(4)]
