"""IODINE: its inputs beside their definitions, iterations, and evaluation without gradients."""

import functools

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from training_steps import batch, small_iodine, train_losses

from rmonet_d2.modeling.iodine.refinement import (
    SPATIAL_CHANNELS,
    RefinementNetwork,
    keep_variance,
    normalized,
    spatial_inputs,
)
from rmonet_d2.modeling.vae import SpatialBroadcastDecoder
from rmonet_d2.ops.mixture import gaussian_log_prob


@pytest.fixture
def make(small_cfg):
    """(KEY, VALUE, ...) -> a small IODINE."""
    return functools.partial(small_iodine, small_cfg)


def test_spatial_inputs_are_what_their_names_say():
    batch_size, components, side = 2, 3, 6
    x = torch.rand(batch_size, 3, side, side, dtype=torch.float64)
    x_k = torch.rand(batch_size, components, 3, side, side, dtype=torch.float64)
    logits = torch.randn(batch_size, components, side, side, dtype=torch.float64)
    sigma = torch.full((components,), 0.3, dtype=torch.float64)
    gradient = torch.randn_like(x_k)
    maps = spatial_inputs(x, x_k, logits, sigma, gradient).unflatten(0, (batch_size, components))
    assert maps.shape == (batch_size, components, SPATIAL_CHANNELS, side, side)

    masks = logits.softmax(dim=1).requires_grad_()
    density = gaussian_log_prob(x, x_k, sigma).sum(dim=2).double().exp()
    likelihood = (masks * density).sum(dim=1)
    (of_masks,) = torch.autograd.grad(-likelihood.log().sum(), masks)
    for k in range(components):
        others = [i for i in range(components) if i != k]
        without = (masks * density)[:, others].sum(dim=1)
        expected = [
            x, x_k[:, k], masks[:, k, None], logits[:, k, None], normalized(gradient, 3)[:, k],
            normalized(of_masks, 2)[:, k, None], (density[:, k] / density.sum(dim=1))[:, None],
            normalized(likelihood.log(), 2)[:, None], normalized(without.log(), 2)[:, None],
        ]  # fmt: skip
        expected = torch.cat([e.float() for e in expected], dim=1)
        torch.testing.assert_close(maps[:, k, :-2], expected.detach(), rtol=1e-3, atol=1e-3)
        assert maps[0, k, -2, 2].tolist() == pytest.approx([-1, -0.6, -0.2, 0.2, 0.6, 1])
        assert maps[0, k, -1, :, 2].tolist() == pytest.approx([-1, -0.6, -0.2, 0.2, 0.6, 1])


def test_the_change_comes_from_the_hidden_state():
    network = RefinementNetwork([4], 8, 3)
    maps, posterior = torch.randn(5, SPATIAL_CHANNELS, 8, 8), torch.randn(5, 6)
    change, (hidden, cell) = network(maps, posterior, posterior, None)
    torch.testing.assert_close(change, network.head(hidden))
    assert not torch.allclose(change, network.head(cell))


def test_signals_keep_their_scale_at_first():
    """Masks of different z differ, and from place to place: not so with torch's weights."""
    spreads = []
    for prepare in (lambda *networks: None, keep_variance):
        decoder = SpatialBroadcastDecoder(16, [32] * 5, (64, 64), 4, torch.nn.ELU)
        refinement = RefinementNetwork([32, 32, 32], 128, 16)
        prepare(decoder, refinement)
        with torch.no_grad():
            of_z = decoder.first.weight[:, :16].flatten(1).norm(dim=1).mean()
            logits = decoder(torch.randn(64, 16))[1]
            spreads.append((logits.mean(dim=(2, 3)).std(), logits.flatten(1).std(dim=1).mean()))
    assert of_z == pytest.approx(1.0, rel=0.1)
    assert all(0.1 < spread < 2.0 for spread in spreads[1])
    assert all(5 * before < after for before, after in zip(*spreads, strict=True))


def test_the_first_posterior_has_the_given_scale(make):
    model = make("MODEL.IODINE.INIT_LOG_SCALE", -2.0)
    assert model.first_posterior.tolist() == [0.0] * 4 + [-2.0] * 4
    assert make().first_posterior.tolist() == [0.0] * 8


def plain_losses(model, inputs):
    """Greff et al. 2019, Algorithm 1: an image after the other, a component after the other."""
    x = model.preprocess(inputs)
    size, components, latents = len(x), model.num_components, len(model.first_posterior) // 2
    torch.manual_seed(0)
    noise = [torch.randn(size, components, latents) for _ in range(model.iterations)]
    nll, kl = [], []
    for i in range(size):
        posterior = model.first_posterior.repeat(components, 1)
        states = [None] * components
        for t in range(model.iterations):
            mu, log_scale = posterior.split(latents, dim=1)
            z = mu + noise[t][i] * log_scale.exp()
            decoded = [model.decoder(z[k : k + 1]) for k in range(components)]
            x_k = torch.cat([mean for mean, _ in decoded])
            logits = torch.cat([logit[:, 0] for _, logit in decoded])
            density = Normal(x_k, 0.1).log_prob(x[i]).sum(dim=1)
            terms = -(logits.log_softmax(dim=0) + density).logsumexp(dim=0).sum()
            divergence = kl_divergence(Normal(mu, log_scale.exp()), Normal(0.0, 1.0)).sum()
            nll.append((t + 1) / model.iterations * terms / size)
            kl.append((t + 1) / model.iterations * divergence / size)
            if t + 1 == model.iterations:
                break
            of_means, of_posterior = torch.autograd.grad(
                terms + divergence, (x_k, posterior), retain_graph=True
            )
            image = x[i : i + 1]
            maps = spatial_inputs(image, x_k[None], logits[None], model.sigma, of_means[None])
            changes = []
            for k in range(components):
                gradient = normalized(of_posterior[k : k + 1], 1)
                change, states[k] = model.refinement(
                    maps[k : k + 1], posterior[k : k + 1], gradient, states[k]
                )
                changes.append(change)
            posterior = posterior + torch.cat(changes)
    return {"loss_nll": sum(nll), "loss_kl_z": sum(kl)}


def test_losses_and_their_gradients_are_those_of_the_algorithm(make):
    model = make("MODEL.SCENE.NUM_COMPONENTS", 3)
    results = []
    for losses in (train_losses(model, batch(2)), plain_losses(model, batch(2))):
        parameters = list(model.parameters())
        results.append((losses, torch.autograd.grad(sum(losses.values()), parameters)))
    (fast, of_fast), (plain, of_plain) = results
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-3)
    for ours, slow in zip(of_fast, of_plain, strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-2, atol=2e-3 * slow.abs().max().item())


def test_loss_unit_is_a_sum_or_a_mean_over_pixels(make):
    whole = train_losses(make(), batch())
    pixel = train_losses(make("MODEL.SCENE.LOSS_UNIT", "pixel"), batch())
    for name, loss in whole.items():
        torch.testing.assert_close(loss, pixel[name] * 64 * 64)


def test_bfloat16_keeps_posteriors_and_likelihood_in_float32(make):
    model = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = train_losses(model, batch())
        found = model.infer(model.preprocess(batch()))
    sum(losses.values()).backward()
    plain = train_losses(model, batch())
    assert all(f.posterior.dtype == f.nll.dtype == torch.float32 for f in found)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, plain[name], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("size", [(128, 128), (64, 96)])
def test_other_image_sizes(make, size):
    model = make("INPUT.IMAGE_SIZE", list(size), "MODEL.SCENE.NUM_COMPONENTS", 2)
    assert all(torch.isfinite(loss) for loss in train_losses(model, batch(2, size)).values())
    with torch.no_grad():
        output = model.eval()(batch(1, size))[0]
    assert output["masks"].shape == (2, *size)


def test_instances_are_the_masks_but_the_last(make):
    """Of the wanted size, with the tight boxes of the masks."""
    model = make().eval()
    found = model.infer(model.preprocess(batch(1)))[-1]
    # Background but for two objects of 16 and of 8 columns.
    found.mask_logits = torch.zeros(1, 6, 64, 64)
    found.mask_logits[:, 3] = 10.0
    found.mask_logits[:, 5, 20:30, 8:24] = 20.0
    found.mask_logits[:, 1, 20:40, 24:32] = 20.0
    (output,) = model.decompose(found, batch(1, height=32, width=128))
    instances = output["instances"]
    assert output["box_source"] == "mask" and not instances.has("proposal_boxes")
    assert sorted(instances.components.tolist()) == [1, 4]
    assert (instances.pred_classes == 0).all() and instances.image_size == (32, 128)
    first = instances.components.tolist().index(4)
    assert instances.pred_boxes.tensor[first].tolist() == [16, 10, 48, 15]
    assert instances.pred_masks[first].sum() == 32 * 5
    assert (output["masks"].argmax(dim=0) == 5).sum() == 64 * 64 - 160 - 160


def test_later_iterations_count_more(make):
    model = make()
    losses = train_losses(model, batch())
    torch.manual_seed(0)
    found = model.infer(model.preprocess(batch()))
    expected = sum((t + 1) / 3 * f.nll.mean() for t, f in enumerate(found))
    torch.testing.assert_close(losses["loss_nll"], expected)
    assert len(found) == 3


def test_gradients_of_the_inputs_are_not_differentiated(make, monkeypatch):
    """The loss's gradient is that of the model with its inputs as constants."""
    import rmonet_d2.modeling.meta_arch.iodine as module

    model = make()
    kept = []
    monkeypatch.setattr(
        module, "spatial_inputs", lambda *a: kept.append(spatial_inputs(*a)) or kept[-1]
    )
    train_losses(model, batch())
    assert len(kept) == 2 and not any(maps.requires_grad for maps in kept)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_evaluation_in_any_gradient_mode(make, context):
    model = make().eval()
    with context():
        outputs = model(batch())
    with torch.no_grad():
        again = model(batch())
    for output, other in zip(outputs, again, strict=True):
        assert not output["masks"].requires_grad
        torch.testing.assert_close(output["masks"], other["masks"])
        torch.testing.assert_close(output["masks"].sum(dim=0), torch.ones(64, 64))
        assert output["latents"].shape == (6, 4) and output["components"].shape == (6, 3, 64, 64)
    assert all(p.grad is None for p in model.parameters())


def test_an_image_does_not_depend_on_its_batch(make):
    model = make().eval()
    with torch.no_grad():
        alone, together = model(batch()[1:2])[0], model(batch())[1]
    torch.testing.assert_close(alone["masks"], together["masks"], rtol=1e-4, atol=1e-5)


def test_components_differ_by_their_samples(make):
    with torch.no_grad():
        masks = make().eval()(batch(1))[0]["masks"]
    assert (masks[0] - masks[1]).abs().max() > 1e-6


def test_the_component_on_the_border_is_last(make):
    model = make()
    masks = torch.full((2, 6, 64, 64), 0.01)
    masks[0, 2], masks[0, 4, 20:40, 20:40] = 0.5, 5.0
    masks[1, 5] = 0.5
    assert model._background_last(masks).tolist() == [[0, 1, 3, 4, 5, 2], [0, 1, 2, 3, 4, 5]]


def test_learns_to_explain(make):
    model = make("SOLVER.BASE_LR", 1e-3)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    first = train_losses(model, batch())["loss_nll"].item()
    for _ in range(15):
        losses = train_losses(model, batch())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert losses["loss_nll"].item() < 0.8 * first


@pytest.mark.parametrize(
    ("key", "value"),
    [("MODEL.IODINE.ITERATIONS", 0), ("MODEL.SCENE.LOSS_UNIT", "nonsense")],
)
def test_bad_values_name_the_key(make, key, value):
    with pytest.raises(ValueError, match=key):
        make(key, value)
