"""The attention networks against slow references, and the recurrence against nested loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from rmonet_d2.modeling.monet.attention import (
    FPNAttention,
    FPNUNetAttention,
    UNetAttention,
    build_attention,
    build_attention_backbone,
    recurrent_log_masks,
)

SMALL_MONET = ("MODEL.MONET.UNET_CHANNELS", [4, 4, 8, 8, 8], "MODEL.MONET.UNET_MLP_DIM", 16,
               "MODEL.ROI_MASK_HEAD.NUM_CONV", 2)  # fmt: skip
NETWORKS = ("UNetAttention", "FPNAttention", "FPNUNetAttention")


class Constant(torch.nn.Module):
    """A network whose steps give these logits everywhere, and which keeps its inputs."""

    def __init__(self, *logits):
        super().__init__()
        self.logits, self.inputs = logits, []

    def forward(self, inputs):
        self.inputs.append(inputs)
        return torch.full_like(inputs[:, :1], self.logits[len(self.inputs) - 1])


def test_recurrence_is_alpha_composition():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(4, 1, 3, padding=1).double()
    torch.nn.init.normal_(network.weight, std=0.4)
    x = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        ours = recurrent_log_masks(network, x, 4).exp()
        scope = torch.ones(2, 1, 5, 4, dtype=torch.float64)
        expected = torch.zeros(2, 4, 5, 4, dtype=torch.float64)
        for k in range(3):
            logits = network(torch.cat([x, scope.log()], dim=1))
            for b in range(2):
                for i in range(5):
                    for j in range(4):
                        alpha = 1 / (1 + math.exp(-logits[b, 0, i, j].item()))
                        expected[b, k, i, j] = scope[b, 0, i, j] * alpha
                        scope[b, 0, i, j] *= 1 - alpha
        expected[:, 3] = scope[:, 0]
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)


def test_later_steps_see_what_is_left():
    network = Constant(0.0, 2.0, -1.0)
    recurrent_log_masks(network, torch.rand(1, 3, 2, 2), 4)
    left = [1.0, 0.5, 0.5 * (1 - 1 / (1 + math.exp(-2.0)))]
    for inputs, scope in zip(network.inputs, left, strict=True):
        torch.testing.assert_close(inputs[:, 3:], torch.full((1, 1, 2, 2), math.log(scope)))


@pytest.mark.parametrize(
    ("logits", "winner"), [((-1e4, -1e4), 2), ((1e4, 0.0), 0), ((-1e4, 1e4), 1), ((1e4,), 0)]
)
def test_extreme_alphas(logits, winner):
    """alpha of 0 and of 1: masks are finite in log space, sum to 1, and one takes all."""
    network = Constant(*logits)
    log_masks = recurrent_log_masks(network, torch.rand(2, 3, 4, 4), len(logits) + 1)
    assert log_masks.isfinite().all() and log_masks.dtype == torch.float32
    expected = F.one_hot(torch.tensor(winner), len(logits) + 1).float().view(1, -1, 1, 1)
    torch.testing.assert_close(log_masks.exp(), expected.expand_as(log_masks))
    assert all((inputs[:, 3] >= math.log(1e-5) - 1e-3).all() for inputs in network.inputs)


def plain_block(block, y):
    """relu(instance norm(conv)), one channel of one image at a time."""
    y = F.conv2d(y, block.conv.weight, padding=1)
    out = torch.empty_like(y)
    for b in range(y.shape[0]):
        for c in range(y.shape[1]):
            values = y[b, c]
            variance = ((values - values.mean()) ** 2).mean()
            normal = (values - values.mean()) / (variance + 1e-5).sqrt()
            out[b, c] = (normal * block.norm.weight[c] + block.norm.bias[c]).clamp(min=0)
    return out


def plain_unet(network, x):
    """Down and up by indices; skips looked up by their size."""
    maps = {}
    y = x
    for n, block in enumerate(network.down):
        y = plain_block(block, y)
        maps[y.shape[-1]] = y
        if n < len(network.down) - 1:
            y = torch.stack([y[..., 2 * i, :] for i in range(y.shape[-2] // 2)], dim=-2)
            y = torch.stack([y[..., 2 * j] for j in range(y.shape[-1] // 2)], dim=-1)
    hidden = y.flatten(1)
    for layer in network.mlp:
        if isinstance(layer, torch.nn.Linear):
            hidden = (hidden @ layer.weight.T + layer.bias).clamp(min=0)
    y = hidden.view(y.shape)
    for n, block in enumerate(network.up):
        y = plain_block(block, torch.cat([y, maps[y.shape[-1]]], dim=1))
        if n < len(network.up) - 1:
            y = y.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
    weight = network.predictor.weight[:, :, 0, 0]
    return torch.einsum("oc,bchw->bohw", weight, y) + network.predictor.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize(
    ("size", "channels"), [((32, 32), [4, 6, 8]), ((16, 16), [4]), ((64, 64), [4, 4, 8, 8, 8])]
)
def test_unet_is_the_plain_one(size, channels):
    torch.manual_seed(0)
    network = UNetAttention(image_size=size, channels=channels, mlp_dim=16).double()
    for name, parameter in network.named_parameters():
        if ".norm." in name:
            torch.nn.init.normal_(parameter)
    x = torch.rand(2, 4, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), plain_unet(network, x))


@pytest.mark.parametrize(("side", "channels"), [(64, [4] * 5), (128, [4] * 6)])
def test_unet_goes_down_to_4_by_4(side, channels):
    network = UNetAttention(image_size=(side, side), channels=channels, mlp_dim=128)
    sides = []
    for block in (*network.down, *network.up):
        block.register_forward_hook(lambda module, args, y: sides.append(y.shape[-1]))
    assert network(torch.rand(1, 4, side, side)).shape == (1, 1, side, side)
    half = [side >> n for n in range(len(channels))]
    assert half[-1] == 4 and sides == half + half[::-1]
    widths = [layer.weight.shape for layer in network.mlp if isinstance(layer, torch.nn.Linear)]
    assert widths == [(128, 64), (128, 128), (64, 128)]
    assert all(block.conv.bias is None for block in (*network.down, *network.up))


def test_default_channels_fit_the_papers_sizes(small_cfg):
    network = build_attention(small_cfg())
    assert [block.conv.out_channels for block in network.down] == [32, 32, 64, 64, 64]
    assert [block.conv.out_channels for block in network.up] == [64, 64, 32, 32, 32]
    assert [block.conv.in_channels for block in network.up] == [128, 128, 128, 64, 64]


@pytest.mark.parametrize("channels", [[], [4] * 8])
def test_blocks_that_do_not_fit_name_the_key(small_cfg, channels):
    with pytest.raises(ValueError, match="MODEL.MONET.UNET_CHANNELS"):
        build_attention(small_cfg("MODEL.MONET.UNET_CHANNELS", channels))


def test_instance_norm_takes_each_image_by_itself():
    """Another contrast of the features, or another image beside it, changes nothing."""
    block = UNetAttention(image_size=(16, 16), channels=[8], mlp_dim=4).down[0]
    y = torch.rand(3, 4, 16, 16)
    scaled = y * torch.tensor([1.0, 5.0, 0.5]).view(3, 1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(block(scaled), block(y), rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(block(y[1:2]), block(y)[1:2])


def full_backbone(cfg):
    """The backbone of R-MONet, with all levels, for 4 channels."""
    return build_backbone(cfg, ShapeSpec(channels=4))


@pytest.mark.parametrize("used", [["p3"], ["stem", "res4", "p5"], ["p2", "p4"]])
def test_what_is_left_out_of_the_fpn_changes_nothing(small_cfg, used):
    cfg = small_cfg()
    backbone, full = build_attention_backbone(cfg, used).eval(), full_backbone(cfg).eval()
    own, all_weights = backbone.state_dict(), full.state_dict()
    assert own.keys() < all_weights.keys()
    assert all(own[name].shape == all_weights[name].shape for name in own)
    backbone.load_state_dict({name: all_weights[name] for name in own})
    x = torch.rand(2, 4, 64, 64)
    ours, theirs = backbone(x), full(x)
    for name in used:
        torch.testing.assert_close(ours[name], theirs[name])
    sum(ours[name].square().sum() for name in used).backward()
    unused = [n for n, p in backbone.named_parameters() if p.grad is None]
    assert unused == []
    assert backbone.bottom_up.stem.conv1.weight.shape[1] == 4


def test_a_level_of_the_fpn_is_needed(small_cfg):
    opts = ("MODEL.MONET.ATTENTION", "FPNUNetAttention", "MODEL.ROI_MASK_HEAD.GLOBAL_FEATURES",
            ["res4", "res5"])  # fmt: skip
    with pytest.raises(ValueError, match="GLOBAL_FEATURES"):
        build_attention(small_cfg(*opts))


def unmasked_unet_head(head, features):
    """The UNet head of Fig. 22 with plain skips: no regions, no masks, no sharing."""
    top = features[head.global_features[-1]]
    y = head.mlp(top.flatten(1)).view(len(top), -1, *top.shape[-2:])

    def grow(y, skip):
        factor = skip.shape[-1] // y.shape[-1]
        return y.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)

    for name in reversed(head.global_features[:-1]):
        skip = features[name]
        y = F.relu(head.global_stages[name](torch.cat([grow(y, skip), skip], dim=1)))
    for name in reversed(head.masked_features):
        stage, skip = head.masked_stages[name], features[name]
        if name == "image":
            y = F.relu(stage.conv(grow(y, skip)) + stage.lateral(skip))
        else:
            y = F.relu(stage.conv(torch.cat([grow(y, skip), stage.lateral(skip)], dim=1)))
    return head.predictor(grow(y, features["image"]))


@pytest.mark.parametrize("skips", [["stem", "res2", "res3"], ["image", "stem", "res2", "res3"]])
def test_the_unet_head_on_the_whole_image_has_plain_skips(small_cfg, skips):
    cfg = small_cfg(*SMALL_MONET, "MODEL.ROI_MASK_HEAD.MASKED_FEATURES", skips)
    network = FPNUNetAttention(cfg).eval().double()
    torch.nn.init.normal_(network.head.predictor.weight, std=0.5)
    inputs = torch.rand(3, 4, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        features = {"image": inputs, **network.backbone(inputs)}
        expected = unmasked_unet_head(network.head, features)
        torch.testing.assert_close(network(inputs), expected)


def test_fpn_attention_sees_p3_and_upsamples_bilinearly(small_cfg):
    network = FPNAttention(small_cfg(*SMALL_MONET)).eval()
    inputs = torch.rand(2, 4, 64, 64)
    with torch.no_grad():
        y = network.backbone(inputs)["p3"]
        assert y.shape[-2:] == (8, 8)
        layers = network.head.head
        assert len(layers.conv_norm_relus) == 2
        for conv in layers.conv_norm_relus:
            y = F.conv2d(y, conv.weight, conv.bias, padding=1).clamp(min=0)
        y = F.conv_transpose2d(y, layers.deconv.weight, layers.deconv.bias, stride=2)
        small = layers.predictor(y.clamp(min=0))
        assert small.shape == (2, 1, 16, 16)
        logits = network(inputs)
    assert logits.shape == (2, 1, 64, 64)
    # Bilinear, pixel (i, j) of the result lies at ((i + 0.5) / 4 - 0.5, ...) of the small map.
    for i, j in ((10, 20), (33, 47), (61, 5)):
        v, u = (i + 0.5) / 4 - 0.5, (j + 0.5) / 4 - 0.5
        v0, u0 = int(v), int(u)
        v1, u1 = v0 + 1, u0 + 1
        rows = small[..., v0, :] * (v1 - v) + small[..., min(v1, 15), :] * (v - v0)
        value = rows[..., u0] * (u1 - u) + rows[..., min(u1, 15)] * (u - u0)
        torch.testing.assert_close(logits[..., i, j], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_of_a_network_gets_a_gradient(small_cfg, name):
    network = build_attention(small_cfg(*SMALL_MONET, "MODEL.MONET.ATTENTION", name))
    log_masks = recurrent_log_masks(network, torch.rand(2, 3, 64, 64), 4)
    (log_masks * torch.rand_like(log_masks)).sum().backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def without_bessels_correction(norm, inputs, output):
    """Divide the running variance by n, as a batch's own is."""
    if norm.training:
        num_values = inputs[0].numel() // inputs[0].shape[1]
        norm.running_var.mul_((num_values - 1) / num_values)


@pytest.mark.parametrize("name", NETWORKS)
def test_evaluation_sees_what_training_saw(small_cfg, name):
    """Once running statistics are those of a batch, its masks are the same in both modes."""
    network = build_attention(small_cfg(*SMALL_MONET, "MODEL.MONET.ATTENTION", name))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.3)  # later steps see a scope that is far from 1
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
                module.register_forward_hook(without_bessels_correction)
        x = torch.rand(8, 3, 64, 64)
        training = recurrent_log_masks(network, x, 4)
        evaluation = recurrent_log_masks(network.eval(), x, 4)
    torch.testing.assert_close(evaluation, training, rtol=1e-3, atol=1e-3)


def test_an_unknown_network_is_named(small_cfg):
    with pytest.raises(KeyError, match="Nonsense"):
        build_attention(small_cfg("MODEL.MONET.ATTENTION", "Nonsense"))
