"""Configs, the trainer, and its faults: each is one clear error and loses nothing."""

import json
import os
import signal

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.modeling import build_model

from rmonet_d2.checkpoint import CheckpointError, SceneCheckpointer
from rmonet_d2.data import register_multi_dsprites
from rmonet_d2.engine import ConfigError, Trainer, load_config, non_finite_loss

TRAINING = (
    "SOLVER.IMS_PER_BATCH", 4, "DATALOADER.NUM_WORKERS", 0, "SOLVER.MAX_ITER", 6,
    "SOLVER.CHECKPOINT_PERIOD", 3, "TEST.MAX_IMAGES", 4, "DATASETS.TEST", (),
    "MODEL.REGION_WARMUP.RANDOM_ITERS", 100, "MODEL.REGION_WARMUP.END_ITERS", 100,
)  # fmt: skip


class Record(HookBase):
    """Keeps the raw losses of every iteration."""

    def __init__(self):
        self.losses = {}

    def after_step(self):
        storage = self.trainer.storage
        self.losses[self.trainer.iter] = {
            name: history.latest()
            for name, history in storage.histories().items()
            if "loss" in name
        }


@pytest.fixture
def make_trainer(small_cfg, sprites_root, tmp_path):
    register_multi_dsprites(sprites_root)

    def make(folder, *opts, resume=False):
        cfg = small_cfg(*TRAINING, "OUTPUT_DIR", str(tmp_path / folder), *opts)
        (tmp_path / folder).mkdir(exist_ok=True)
        torch.manual_seed(cfg.SEED)
        trainer = Trainer(cfg)
        record = Record()
        # Before the writers, which are the last hook.
        trainer._hooks.insert(0, record)
        record.trainer = trainer._hooks[1].trainer
        trainer.resume_or_load(resume=resume)
        return trainer, record

    yield make
    register_multi_dsprites()


def test_two_runs_with_one_seed_are_equal(make_trainer):
    losses = []
    for folder in ("a", "b"):
        trainer, record = make_trainer(folder)
        trainer.train()
        losses.append(record.losses)
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_resumed_run_has_the_losses_of_an_uninterrupted_one(make_trainer):
    whole, record = make_trainer("whole")
    whole.train()
    first, _ = make_trainer("parts")

    class Stop(HookBase):
        def after_step(self):
            # As a kill does: after iteration 4, with the checkpoint of iteration 2 on disk.
            if self.trainer.iter == 4:
                raise SystemExit

    first.register_hooks([Stop()])
    with pytest.raises(SystemExit):
        first.train()
    resumed, later = make_trainer("parts", resume=True)
    assert resumed.start_iter == 3
    resumed.train()
    assert later.losses == {i: record.losses[i] for i in (3, 4, 5)}
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("max_iter", [6, 4])
def test_a_run_with_nothing_left_to_train_says_so(make_trainer, tmp_path, caplog, max_iter):
    trainer, _ = make_trainer("run")
    trainer.train()
    trained = trainer.model.state_dict()
    # As where a kill came after the last periodic checkpoint and before the final one.
    (tmp_path / "run" / "model_final.pth").unlink()
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000005.pth")
    again, record = make_trainer("run", "SOLVER.MAX_ITER", max_iter, resume=True)
    again.train()
    assert record.losses == {}
    (message,) = [r.getMessage() for r in caplog.records if "nothing left" in r.getMessage()]
    assert f"has 6 iterations and SOLVER.MAX_ITER is {max_iter}" in message
    final = torch.load(tmp_path / "run" / "model_final.pth", weights_only=False)
    assert final["iteration"] == 5
    for name, value in trained.items():
        assert torch.equal(value, final["model"][name]), name
    # Another run finds the final checkpoint, and writes nothing.
    time_written = (tmp_path / "run" / "model_final.pth").stat().st_mtime_ns
    third, _ = make_trainer("run", "SOLVER.MAX_ITER", max_iter, resume=True)
    third.train()
    assert (tmp_path / "run" / "model_final.pth").stat().st_mtime_ns == time_written
    # From there, a longer run continues as usual.
    longer, record = make_trainer("run", "SOLVER.MAX_ITER", 7, resume=True)
    longer.train()
    assert list(record.losses) == [6]


def test_parts_of_a_batch_add_up_to_it(make_trainer):
    # Batch norm sees the images of one part.
    same = ("MODEL.RESNETS.NORM", "FrozenBN")
    # Adam's first steps are the gradients' signs, those of rounding noise too: keep them small.
    same += ("SOLVER.BASE_LR", 1e-5, "SOLVER.MAX_ITER", 3)
    losses = []
    for parts in (1, 2, 4):
        trainer, record = make_trainer(f"{parts}", *same, "SOLVER.ACCUMULATE_PARTS", parts)
        trainer.train()
        losses.append(record.losses)
    for found in losses[1:]:
        for iteration, expected in losses[0].items():
            assert found[iteration] == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("parts", [0, 3])
def test_a_batch_is_not_cut_into_unequal_parts(parts):
    with pytest.raises(ConfigError, match=f"ACCUMULATE_PARTS is {parts}"):
        load_config("", ["SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATE_PARTS", parts])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_that_goes_on(make_trainer, number):
    whole, record = make_trainer("whole")
    whole.train()
    first, _ = make_trainer("parts", "SOLVER.CHECKPOINT_PERIOD", 100)
    before = signal.getsignal(number)

    class Signal(HookBase):
        def before_step(self):
            if self.trainer.iter == 3:
                os.kill(os.getpid(), number)

    first.register_hooks([Signal()])
    with pytest.raises(KeyboardInterrupt):
        first.train()
    assert signal.getsignal(number) is before
    resumed, later = make_trainer("parts", resume=True)
    assert resumed.start_iter == 4
    resumed.train()
    assert later.losses == {i: record.losses[i] for i in (4, 5)}


def test_nan_loss_names_the_term_and_keeps_the_checkpoint(make_trainer, tmp_path):
    trainer, _ = make_trainer("nan")
    model = trainer.model
    forward = type(model).generative_losses

    def poisoned(*args):
        losses = forward(model, *args)
        if trainer.iter == 4:
            losses["loss_kl_z"] = losses["loss_kl_z"] * float("nan")
        return losses

    model.generative_losses = poisoned
    with pytest.raises(FloatingPointError, match=r"iteration 4: loss_kl_z = nan is not finite"):
        trainer.train()
    assert (tmp_path / "nan" / "last_checkpoint").read_text() == "model_0000002.pth"
    saved = torch.load(tmp_path / "nan" / "model_0000002.pth", weights_only=False)
    assert all(torch.isfinite(value.float()).all() for value in saved["model"].values())
    # The weights are still those of before the bad step.
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_gradients_of_nan_stop_before_the_weights_change(make_trainer):
    trainer, _ = make_trainer("nan")
    weight = trainer.model.vae.decoder.first.weight
    weight.register_hook(lambda gradient: gradient * float("nan"))
    before = weight.detach().clone()
    with pytest.raises(FloatingPointError, match="iteration 0: grad_norm = nan is not finite"):
        trainer.train()
    assert torch.equal(weight, before)


def test_non_finite_loss_message():
    assert non_finite_loss({"loss_nll": 1.0}, 3) is None
    message = non_finite_loss({"loss_nll": float("inf"), "loss_kl_z": 0.0}, 3)
    assert "iteration 3" in message and "loss_nll = inf" in message and "loss_kl_z" not in message


def test_bfloat16_trains(make_trainer):
    opts = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.EMULATED", True, "SOLVER.MAX_ITER", 2)
    trainer, record = make_trainer("bf16", *opts)
    trainer.train()
    assert len(record.losses) == 2


def test_gradients_are_clipped_over_the_whole_model(make_trainer):
    trainer, _ = make_trainer("clip", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.01)
    norms = []
    step = trainer._trainer.optimizer.step

    def spy(*args, **kwargs):
        gradients = [p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]
        norms.append(torch.stack(gradients).norm().item())
        return step(*args, **kwargs)

    trainer._trainer.optimizer.step = spy
    trainer.train()
    assert len(norms) == 6 and max(norms) <= 0.01 * 1.001


def test_unknown_key_suggests_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"MODEL\.SCENE\.NUM_COMPONENT\b.*NUM_COMPONENTS"):
        load_config("", ["MODEL.SCENE.NUM_COMPONENT", 3])
    file = tmp_path / "bad.yaml"
    file.write_text("MODEL:\n  SCENE:\n    BETTA: 0.5\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml.*MODEL\.SCENE\.BETTA.*BETA"):
        load_config(str(file))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.SCENE.NUM_COMPONENTS", 1),
        ("INPUT.IMAGE_SIZE", [60, 64]),
        ("SOLVER.AMP.DTYPE", "int8"),
        ("SOLVER.BASE_LR", "fast"),
    ],
)
def test_bad_values_name_the_key(key, value):
    with pytest.raises(ConfigError, match=key):
        load_config("", [key, value])


def test_missing_and_broken_config_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load_config("nowhere.yaml")
    file = tmp_path / "broken.yaml"
    file.write_text("MODEL: [unclosed")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(str(file))


def test_checkpoint_of_another_architecture(small_cfg, tmp_path):
    model = build_model(small_cfg())
    path = str(tmp_path / "other.pth")
    other = build_model(small_cfg("MODEL.ROI_MASK_HEAD.CONV_DIM", 12))
    torch.save({"model": other.state_dict()}, path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"other\.pth.*another architecture.*another shape"):
        SceneCheckpointer(model).load(path)
    torch.save({"model": {"layer.weight": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match=r"missing.*not the model's \(the first: layer\.w"):
        SceneCheckpointer(model).load(path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_truncated_checkpoint(small_cfg, tmp_path):
    model = build_model(small_cfg())
    path = tmp_path / "cut.pth"
    torch.save({"model": model.state_dict()}, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"cut\.pth is not a readable checkpoint"):
        SceneCheckpointer(model).load(str(path))


def test_half_precision_weights_load(small_cfg, tmp_path):
    model, other = build_model(small_cfg()), build_model(small_cfg())
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save({"model": state}, tmp_path / "half.pth")
    SceneCheckpointer(other).load(str(tmp_path / "half.pth"))
    for name, value in other.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_imagenet_resnet_goes_into_the_backbone(tmp_path):
    import torchvision

    resnet = torchvision.models.resnet18(weights=None)
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    model = build_model(load_config("", ["MODEL.DEVICE", "cpu"]))
    SceneCheckpointer(model).load(str(tmp_path / "resnet18.pth"))
    bottom_up = model.backbone.bottom_up
    assert torch.equal(bottom_up.res3[0].shortcut.weight, resnet.layer2[0].downsample[0].weight)
    assert torch.equal(bottom_up.stem.conv1.weight, resnet.conv1.weight)


def test_metrics_and_pictures_are_written(make_trainer, tmp_path):
    trainer, _ = make_trainer("run", "VIS_PERIOD", 2)
    trainer.train()
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    last = json.loads(lines[-1])
    assert {"loss_nll", "loss_rpn_loc", "total_loss", "lr", "grad_norm"} <= set(last)
    assert list((tmp_path / "run").glob("visualization/**/*.png"))
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))
