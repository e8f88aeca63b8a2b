"""The component VAE: the fast first layer, its inputs, and what the decoder covers."""

import pytest
import torch

from rmonet_d2.modeling import vae
from rmonet_d2.modeling.reference import plain_decoder
from rmonet_d2.modeling.vae import (
    ComponentVAE,
    SpatialBroadcastDecoder,
    log_mask_input,
    peak_mask_input,
)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("channels", [[8], [8, 8], [32, 32, 32, 32]])
def test_decoder_equals_tiling(stride, channels):
    decoder = SpatialBroadcastDecoder(16, channels, (64, 32), stride)
    z = torch.randn(5, 16)
    with torch.no_grad():
        for ours, plain in zip(decoder(z), plain_decoder(decoder, z), strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    assert decoder(z)[0].shape == (5, 3, 64, 32)
    assert decoder(z)[1].shape == (5, 1, 64, 32)


def test_decoding_in_parts_changes_nothing(monkeypatch):
    decoder = SpatialBroadcastDecoder(16, [8, 8], (64, 32), 1)
    z = torch.randn(7, 16)
    whole = decoder(z)
    monkeypatch.setattr(vae, "CPU_MAP_BYTES", 3 * 4 * 8 * 68 * 36)
    for part, one in zip(decoder(z), whole, strict=True):
        torch.testing.assert_close(part, one)


def test_coordinates_are_x_then_y_in_minus_one_to_one():
    grid = SpatialBroadcastDecoder(4, [8], (4, 6), 1).coordinates[0]
    assert grid.shape == (2, 6, 8)
    torch.testing.assert_close(grid[0, 0], torch.linspace(-1, 1, 8))
    torch.testing.assert_close(grid[1, :, 0], torch.linspace(-1, 1, 6))


def masks_with_zeros():
    masks = torch.rand(2, 3, 8, 8)
    masks[0, 1] = 0
    masks[:, 2] *= 0.01
    return masks / masks.sum(dim=1, keepdim=True)


def test_log_mask_input_is_finite_and_bounded():
    x, masks = torch.rand(2, 3, 8, 8), masks_with_zeros()
    inputs = log_mask_input(x, masks.log())
    assert inputs.shape == (6, 4, 8, 8)
    torch.testing.assert_close(inputs[4, :3], x[1])
    torch.testing.assert_close(inputs[:, 3], masks.clamp(min=1e-5).log().flatten(0, 1))


def test_peak_mask_input_scales_each_mask_to_one():
    x, masks = torch.rand(2, 3, 8, 8), masks_with_zeros()
    inputs = peak_mask_input(x, masks.log())
    assert inputs.shape == (6, 7, 8, 8) and torch.isfinite(inputs).all()
    peaks = inputs[:, 6].amax(dim=(1, 2))
    torch.testing.assert_close(peaks, torch.tensor([1.0, 0, 1, 1, 1, 1]))
    torch.testing.assert_close(inputs[:, 3:6], inputs[:, :3] * inputs[:, 6:])


def test_samples_in_training_and_not_in_evaluation(small_cfg):
    vae = ComponentVAE(small_cfg())
    x, log_masks = torch.rand(2, 3, 64, 64), torch.randn(2, 6, 64, 64).log_softmax(dim=1)
    first, second = vae(x, log_masks), vae(x, log_masks)
    torch.testing.assert_close(first.mu, second.mu)
    assert not torch.allclose(first.x_k, second.x_k)
    vae.eval()
    torch.testing.assert_close(vae(x, log_masks).x_k, vae(x, log_masks).x_k)
    out = vae(x, log_masks)
    assert out.mu.shape == out.log_var.shape == (2, 6, 16)
    assert out.x_k.shape == (2, 6, 3, 64, 64) and out.mask_logits.shape == (2, 6, 64, 64)
    assert out.x_k.min() >= 0 and out.x_k.max() <= 1


@pytest.mark.parametrize(
    ("opts", "key"),
    [
        (("MODEL.VAE.ENCODER_INPUT", "masked"), "MODEL.VAE.ENCODER_INPUT"),
        (("MODEL.VAE.DECODER_STRIDE", 3), "MODEL.VAE.DECODER_STRIDE"),
    ],
)
def test_bad_values_name_the_key(small_cfg, opts, key):
    with pytest.raises(ValueError, match=key):
        ComponentVAE(small_cfg(*opts))


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("map_bytes", [vae.CPU_MAP_BYTES, 4096])
def test_decoding_inside_the_masks_changes_nothing_there(small_cfg, monkeypatch, stride, map_bytes):
    """x_k, mask logits and gradients where m_k > 0, and nothing elsewhere."""
    monkeypatch.setattr(vae, "CPU_MAP_BYTES", map_bytes)
    model = ComponentVAE(small_cfg("MODEL.VAE.DECODER_STRIDE", stride)).eval()
    log_masks = torch.full((2, 4, 64, 64), -torch.inf)
    log_masks[:, 3] = 0.0
    log_masks[0, 0, 5:16, 40:64] = -1.0
    log_masks[0, 1, 0:3, 0:2] = -90.0
    log_masks[1, 2, 30:50, 21:33] = -2.0
    inside = (log_masks > -torch.inf)[:, :, None]
    x, results = torch.rand(2, 3, 64, 64), []
    for only_inside in (True, False):
        model.zero_grad()
        out = model(x, log_masks, only_inside)
        outputs = torch.cat([out.x_k, out.mask_logits[:, :, None]], dim=2).where(inside, 0)
        (outputs * torch.linspace(-1, 1, 64)).sum().backward()
        results.append((out, outputs, {n: p.grad.clone() for n, p in model.named_parameters()}))
    (ours, windowed, gradients), (full, whole, expected) = results
    torch.testing.assert_close(windowed, whole, rtol=1e-5, atol=1e-5)
    # The windows are not the whole image.
    assert not ours.x_k[0, 1, :, 20:, 20:].any() and full.x_k[0, 1, :, 20:, 20:].all()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5 * scale)


def test_decoding_everywhere_unless_windows_save_much(small_cfg):
    everywhere = torch.zeros(1, 3, 64, 64)
    assert ComponentVAE(small_cfg())._windows(everywhere) == []
    everywhere[:, :2, 8:] = -torch.inf
    assert ComponentVAE(small_cfg())._windows(everywhere) != []
    assert ComponentVAE(small_cfg("MODEL.VAE.WINDOWED", False))._windows(everywhere) == []


@pytest.mark.parametrize("encoder_input", ["log_mask", "peak_mask"])
def test_components_without_a_mask_share_a_posterior(small_cfg, monkeypatch, encoder_input):
    model = ComponentVAE(small_cfg("MODEL.VAE.ENCODER_INPUT", encoder_input)).eval()
    x = torch.rand(3, 3, 64, 64)
    log_masks = torch.rand(3, 5, 64, 64).log()
    log_masks[0, [1, 3]] = log_masks[2, :4] = -torch.inf
    expected = model.encode(x, log_masks)
    encoded, encode = [], model.encoder.forward
    monkeypatch.setattr(
        model.encoder, "forward", lambda inputs: encoded.append(len(inputs)) or encode(inputs)
    )
    with torch.no_grad():
        found = model.encode(x, log_masks)
    assert encoded == [3 + 1 + 5 + 1 + 1]
    for ours, full in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, full, rtol=1e-4, atol=1e-5)
