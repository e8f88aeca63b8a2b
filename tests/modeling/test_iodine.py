"""IODINE: its inputs beside their definitions, iterations, and evaluation without gradients."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from rmonet_d2.modeling.refinement import (
    SPATIAL_CHANNELS,
    RefinementNetwork,
    normalized,
    spatial_inputs,
)
from rmonet_d2.ops.mixture import gaussian_log_prob

SMALL_IODINE = [
    "MODEL.META_ARCHITECTURE", "IODINE", "MODEL.IODINE.REFINE_CHANNELS", [8, 8],
    "MODEL.IODINE.REFINE_HIDDEN", 16, "MODEL.IODINE.ITERATIONS", 3, "MODEL.VAE.LATENT_DIM", 4,
]  # fmt: skip


@pytest.fixture
def make(small_cfg):
    def build(*opts):
        torch.manual_seed(5)
        return build_model(small_cfg(*SMALL_IODINE, *opts))

    return build


def batch(size=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, 64, 64), generator=generator, dtype=torch.uint8)
    return [{"image": x} for x in images]


def losses_of(model, inputs):
    torch.manual_seed(0)
    with EventStorage(0):
        return model.train()(inputs)


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


def test_every_parameter_gets_a_gradient(make):
    model = make()
    losses = losses_of(model, batch())
    assert set(losses) == {"loss_nll", "loss_kl_z"}
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_later_iterations_count_more(make):
    model = make()
    losses = losses_of(model, batch())
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
    losses_of(model, batch())
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
    first = losses_of(model, batch())["loss_nll"].item()
    for _ in range(15):
        losses = losses_of(model, batch())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert losses["loss_nll"].item() < 0.8 * first


def test_no_iterations_is_an_error(make):
    with pytest.raises(ValueError, match="ITERATIONS"):
        make("MODEL.IODINE.ITERATIONS", 0)
