"""SPACE: losses against a slow reference, gradients, the output contract, and its limits."""

import functools

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from scene_fakes import register_scenes, square_scene
from torch.distributions import Bernoulli, Normal, kl_divergence
from training_steps import SPACE, batch, small_space, train_losses, values

from rmonet_d2.data.mapper import UnlabelledMapper
from rmonet_d2.evaluation import build_evaluator

KINDS = ("nll", "kl_pres", "kl_where", "kl_depth", "kl_what", "kl_mask", "kl_component", "boundary")
LOSSES = {f"loss_{kind}" for kind in KINDS}


@pytest.fixture
def space(small_cfg):
    """(KEY, VALUE, ...) -> a small SPACE whose cells differ."""
    return functools.partial(small_space, small_cfg)


def parts(model, inputs, iteration):
    """The latents and images of a training step with seed 0."""
    torch.manual_seed(0)
    model.train()
    with torch.no_grad():
        x = model.preprocess(inputs)
        cells = model.foreground(x, model.annealings.tau(iteration))
        foreground = model.foreground.render(cells, True)
        return x, cells, foreground, model.background(x)


@pytest.mark.parametrize("iteration", [0, 600])
def test_losses_are_those_of_the_elbo(space, iteration):
    """In float64, image by image and cell by cell."""
    model = space(
        "MODEL.SPACE.PRES_PRIOR", [0.2, 0.05, 400, 800], "MODEL.SPACE.TAU", [2.5, 0.5, 0, 1200],
        "MODEL.SPACE.SCALE_MEAN", [-1.0, -2.0, 0, 1200], "MODEL.SPACE.SCALE_STD", 0.2,
    )  # fmt: skip
    prior, scale_mean = (0.2, -1.0) if iteration == 0 else (0.125, -1.5)
    inputs = batch()
    losses = train_losses(model, inputs, iteration=iteration)
    x, cells, foreground, background = parts(model, inputs, iteration)
    expected = {kind: [] for kind in KINDS}
    for i in range(len(inputs)):
        image, alpha = x[i].double(), foreground.layers.alpha[i].double().clamp(1e-5, 1 - 1e-5)
        normal = Normal(foreground.layers.mean[i].double(), 0.11)
        likelihood = alpha * normal.log_prob(image).sum(0).exp()
        for k in range(3):
            share = (1 - alpha) * background.log_masks[i, k].double().exp()
            normal = Normal(background.x_k[i, k].double(), 0.09)
            likelihood += share * normal.log_prob(image).sum(0).exp()
        expected["nll"].append(-likelihood.clamp(min=1e-300).log().sum())
        sums = dict.fromkeys(("pres", "where", "depth", "what"), 0.0)
        for n in range(16):
            present = cells.pres[i, n].double()
            q = Bernoulli(logits=cells.pres_logits[i, n].double())
            sums["pres"] += kl_divergence(q, Bernoulli(torch.tensor(prior).double()))
            for name, kind, mean, std in (
                ("z_scale", "where", scale_mean, 0.2), ("z_shift", "where", 0.0, 1.0),
                ("z_depth", "depth", 0.0, 1.0), ("z_what", "what", 0.0, 1.0),
            ):  # fmt: skip
                latent = getattr(cells, name)
                q = Normal(latent.mean[i, n].double(), latent.std[i, n].double())
                sums[kind] += present * kl_divergence(q, Normal(mean, std)).sum()
        for kind, value in sums.items():
            expected[f"kl_{kind}"].append(value)
        expected["kl_mask"].append(background.kl_mask[i].double())
        expected["kl_component"].append(background.kl_component[i].double())
        expected["boundary"].append(foreground.boundary_loss[i].double())
    for kind, terms in expected.items():
        value = torch.stack(terms).mean().float()
        torch.testing.assert_close(losses[f"loss_{kind}"], value, rtol=1e-3, atol=1e-2)


def test_the_backgrounds_kl_is_that_of_its_chains(space):
    """q(z_mask) and p(z_mask) step by step, p(z_comp) from z_mask."""
    background = space().background.train()
    x = torch.rand(2, 3, 64, 64)
    seen = []
    for network in (background.posterior, background.prior):
        network.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output[0])))
    torch.manual_seed(0)
    with torch.no_grad():
        result = background(x)
    assert len(seen) == 6
    kl = torch.zeros(2)
    assert not seen[0][0][0].any()
    for q, p in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(q[0][0], p[0][0])
        terms = kl_divergence(Normal(q[1].mean, q[1].std), Normal(p[1].mean, p[1].std))
        kl += terms.sum(dim=1)
    torch.testing.assert_close(result.kl_mask, kl)
    assert (result.log_masks.exp().sum(dim=1) - 1).abs().max() < 1e-5
    assert (result.kl_component > 0).all()


def test_the_boundary_loss_ends(space):
    model = space("MODEL.SPACE.BOUNDARY_END_ITERS", 10)
    assert set(train_losses(model, batch(), iteration=9)) == LOSSES
    assert set(train_losses(model, batch(), iteration=10)) == LOSSES - {"loss_boundary"}
    model = space("MODEL.SPACE.BOUNDARY_END_ITERS", 0)
    assert set(train_losses(model, batch(), iteration=10**7)) == LOSSES
    model = space("MODEL.SPACE.BOUNDARY_LOSS", False)
    assert set(train_losses(model, batch())) == LOSSES - {"loss_boundary"}


@pytest.mark.parametrize("source", ["proposal", "mask"])
def test_output_contract(space, source):
    model = space("MODEL.SCENE.BOX_SOURCE", source).eval()
    inputs = batch()
    inputs[1].update(height=100, width=150)
    with torch.no_grad():
        outputs = model(inputs)
        again = [model([item])[0] for item in inputs]
    for item, output, alone in zip(inputs, outputs, again, strict=True):
        size = (item["height"], item["width"])
        found = output["instances"]
        assert output["box_source"] == source
        assert found.image_size == size
        assert found.pred_masks.shape == (len(found), *size)
        assert found.pred_masks.dtype == torch.bool and (found.pred_masks.sum(dim=0) <= 1).all()
        assert (found.pred_classes == 0).all()
        assert (found.scores.diff() <= 0).all()
        assert (found.scores > 0.5).all() and (found.scores <= 1).all()
        returned = found.proposal_boxes if source == "proposal" else found.mask_boxes
        assert torch.equal(found.pred_boxes.tensor, returned.tensor)
        assert output["masks"].shape == (6, 64, 64) and (output["masks"] >= 0).all()
        assert (output["masks"].sum(dim=0) - 1).abs().max() < 1e-5
        assert output["components"].shape == (6, 3, 64, 64)
        assert output["components"].min() >= 0 and output["components"].max() <= 1
        mixed = (output["masks"][:, None] * output["components"]).sum(dim=0)
        torch.testing.assert_close(output["reconstruction"], mixed, atol=2e-3, rtol=0)
        assert output["latents"].shape == (6, 16)
        torch.testing.assert_close(output["masks"], alone["masks"], atol=1e-4, rtol=1e-3)


def draws_one_object(model):
    """The model, with one red object in the cell of row 1 and column 2 instead of what it finds."""
    model.eval()
    for parameter in model.foreground.cell_parameters.parameters():
        torch.nn.init.zeros_(parameter)
    forward, grid = model.foreground.forward, model.foreground.grid_size

    def forced(x, temperature):
        cells = forward(x, temperature)
        cells.pres_logits = torch.full_like(cells.pres_logits, -8.0)
        cells.pres_logits[:, grid + 2] = 3.0
        cells.pres = (cells.pres_logits > 0).float()
        cells.scale = torch.full_like(cells.scale, 1 / grid)
        cells.glimpses = torch.zeros_like(cells.glimpses)
        cells.glimpses[:, :, 0] = 0.9
        cells.glimpses[:, :, 3, 4:12, 4:12] = 1.0
        return cells

    model.foreground.forward = forced
    return model


def test_boxes_masks_and_scores_of_an_object(space):
    """A cell's box is centred on it; the mask is the middle half of the box."""
    inputs = batch(2)
    inputs[1].update(height=32, width=128)
    with torch.no_grad():
        outputs = draws_one_object(space())(inputs)
    for output, scale in zip(outputs, ([1, 1, 1, 1], [2, 0.5, 2, 0.5]), strict=True):
        found, scale = output["instances"], torch.tensor(scale)
        assert found.components.tolist() == [0]
        torch.testing.assert_close(found.scores, torch.tensor([3.0]).sigmoid())
        # Column 2 of 4 is from 32 to 48, row 1 from 16 to 32; the box is 16 pixels wide.
        box = torch.tensor([[32.0, 16, 48, 32]]) * scale
        torch.testing.assert_close(found.pred_boxes.tensor, box)
        tight = torch.tensor([[36.0, 20, 44, 28]]) * scale
        torch.testing.assert_close(found.mask_boxes.tensor, tight)
        red = output["components"][0][:, 20:28, 36:44]
        torch.testing.assert_close(red[0], torch.full((8, 8), 0.9), atol=1e-3, rtol=0)
        assert output["masks"][-1][:16].min() == 1.0


def test_enlarged_images_are_evaluated_at_their_own_size(space, small_cfg, tmp_path):
    """An image of 64x64 that the model sees at 128x128: masks and boxes fit the ground truth."""
    opts = (
        "INPUT.IMAGE_SIZE", [128, 128], "MODEL.SPACE.GRID_SIZE", 8,
        "MODEL.SPACE.MASK_DECODER_CHANNELS", [8] * 7,
    )  # fmt: skip
    cfg = small_cfg(*SPACE, *opts)
    model = draws_one_object(space(*opts))
    name = register_scenes(tmp_path / "scenes", [square_scene([(18, 10, 22, 14)])])
    mapper = UnlabelledMapper(cfg, False)
    inputs = [mapper(record) for record in DatasetCatalog.get(name)]
    assert inputs[0]["image"].shape == (3, 128, 128)
    evaluator = build_evaluator(cfg, name, str(tmp_path))
    evaluator.reset()
    with torch.no_grad():
        outputs = model(inputs)
    evaluator.process(inputs, outputs)
    results = evaluator.evaluate()
    assert outputs[0]["instances"].image_size == (64, 64)
    assert results["bbox_mask"]["AP"] == results["segm"]["AP"] == pytest.approx(100.0)
    assert results["bbox_proposal"]["AP"] == 0.0
    assert results["decomposition"]["ARI_all"] == pytest.approx(1.0)
    # The mask is the middle half of the box.
    assert results["decomposition"]["consistency"] == pytest.approx(0.25)


def test_objects_beyond_the_returned_ones_join_the_background(space):
    """The surest objects are returned; what the others draw stays in the reconstruction."""
    models = [space("MODEL.SCENE.NUM_COMPONENTS", k).eval() for k in (3, 17)]
    models[0].load_state_dict(models[1].state_dict())
    with torch.no_grad():
        few, all_objects = (model(batch())[0] for model in models)
    torch.testing.assert_close(few["reconstruction"], all_objects["reconstruction"])
    for mask in few["masks"][:-1]:
        gaps = (all_objects["masks"][:-1] - mask).abs().amax(dim=(1, 2))
        assert gaps.min() == 0
    rest = 1 - few["masks"][:-1].sum(dim=0)
    torch.testing.assert_close(few["masks"][-1], rest)
    assert (few["masks"][-1] >= all_objects["masks"][-1] - 1e-6).all()


def test_evaluation_is_deterministic_and_ignores_the_annealings(space):
    model = space().eval()
    other = space("MODEL.SPACE.TAU", [0.1, 0.1, 0, 1]).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        first, second, third = model(batch())[0], model(batch())[0], other(batch())[0]
    for output in (second, third):
        assert torch.equal(first["masks"], output["masks"])
        assert torch.equal(first["latents"], output["latents"])


def test_bfloat16_keeps_masks_and_likelihood_in_float32(space):
    model = space()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = train_losses(model, batch())
    sum(losses.values()).backward()
    plain = train_losses(model, batch())
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, plain[name], rtol=0.1, atol=0.5)
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        masks = model(batch())[0]["masks"]
    assert masks.dtype == torch.float32 and (masks.sum(dim=0) - 1).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("size", "grid", "glimpse"), [((128, 128), 8, 32), ((64, 64), 8, 8), ((64, 64), 32, 16)]
)
def test_other_sizes(space, size, grid, glimpse):
    stages = {8: [8] * 3, 16: [8] * 4, 32: [8] * 5}[glimpse]
    model = space(
        "INPUT.IMAGE_SIZE", list(size), "MODEL.SPACE.GRID_SIZE", grid,
        "MODEL.SPACE.GLIMPSE_SIZE", glimpse, "MODEL.SPACE.GLIMPSE_DECODER_CHANNELS", stages,
        "MODEL.SPACE.MASK_DECODER_CHANNELS", [8] * (size[0].bit_length() - 1),
        "MODEL.SPACE.BACKGROUND_COMPONENTS", 2,
    )  # fmt: skip
    losses = train_losses(model, batch(2, size))
    assert all(torch.isfinite(loss) for loss in losses.values())
    with torch.no_grad():
        output = model.eval()(batch(1, size))[0]
    assert output["masks"].shape == (6, *size)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.SCENE.MIXTURE_OVER", "channel"),
        ("MODEL.SCENE.LOSS_UNIT", "pixel"),
        ("MODEL.SCENE.CHANNELS_LAST", False),
    ],
)
def test_options_train(space, key, value):
    assert set(train_losses(space(key, value), batch())) == LOSSES


def test_pictures_show_the_boxes(space):
    model = space("VIS_PERIOD", 1).train()
    with EventStorage(0) as storage:
        model(batch())
        (name, picture, _), = storage._vis_data  # fmt: skip
    assert name == "rmonet/scenes" and picture.ndim == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.SPACE.GRID_SIZE", 5),
        ("INPUT.IMAGE_SIZE", [64, 96]),
        ("MODEL.SPACE.GLIMPSE_SIZE", 24),
        ("MODEL.SPACE.GLIMPSE_DECODER_CHANNELS", [8, 8]),
        ("MODEL.SPACE.MASK_DECODER_CHANNELS", [8, 8]),
        ("MODEL.SPACE.ENCODER_CHANNELS", [8, 8]),
        ("MODEL.SPACE.BOUNDARY_WIDTH", 8),
        ("MODEL.SPACE.BACKGROUND_COMPONENTS", 1),
        ("MODEL.SPACE.PRES_PRIOR", [0.1, 0.01]),
        ("MODEL.SPACE.PRES_PRIOR", [0.1, 0.0, 0, 100]),
        ("MODEL.SPACE.TAU", [2.5, 0.0, 0, 100]),
        ("MODEL.SPACE.SCALE_STD", 0.0),
        ("MODEL.SCENE.NUM_COMPONENTS", 18),
        ("MODEL.SCENE.BOX_SOURCE", "nonsense"),
        ("MODEL.SCENE.MIXTURE_OVER", "nonsense"),
        ("MODEL.SCENE.LOSS_UNIT", "nonsense"),
    ],
)
def test_bad_values_name_the_key(small_cfg, key, value):
    with pytest.raises(ValueError, match=key):
        build_model(small_cfg(*SPACE, key, value))


def test_alpha_may_be_fixed_at_first(space):
    """The likelihood then has the fixed alpha everywhere; nothing else changes."""
    opts = ("MODEL.SPACE.FIXED_ALPHA_ITERS", 5, "MODEL.SPACE.FIXED_ALPHA", 0.2)
    model, plain = space(*opts), space()
    plain.load_state_dict(model.state_dict())
    fixed, free = train_losses(model, batch()), train_losses(plain, batch())
    same = [name for name in LOSSES if fixed[name].item() == free[name].item()]
    assert set(same) == LOSSES - {"loss_nll"}
    assert values(train_losses(model, batch(), iteration=5)) == values(
        train_losses(plain, batch(), iteration=5)
    )
    sum(fixed.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_cells_start_at_the_prior_of_their_scale(small_cfg):
    model = build_model(
        small_cfg(*SPACE, "MODEL.SPACE.SCALE_MEAN", [-0.7, 0.0, 0, 9], "MODEL.SPACE.SCALE_STD", 0.2)
    )
    torch.nn.init.zeros_(model.foreground.cell_parameters.weight)
    cells = model.foreground(torch.rand(1, 3, 64, 64), 1.0)
    torch.testing.assert_close(cells.z_scale.mean, torch.full((1, 16, 2), -0.7))
    torch.testing.assert_close(cells.z_scale.std, torch.full((1, 16, 2), 0.2), atol=1e-3, rtol=0)
