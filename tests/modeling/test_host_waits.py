"""A training step does not wait for the device, but for one read of its scalars and in the hook."""

from collections import Counter

import pytest
from detectron2.utils.events import EventStorage
from host_waits import HostWaits
from training_steps import MODELS, batch

from rmonet_d2.engine import SceneTrainer
from rmonet_d2.solver.build import build_optimizer

# Detectron2's ROIPooler sorts the regions by their level: one wait a level, and two for all.
POOLER = {"aten.nonzero": 4, "aten.repeat_interleave": 1, "aten.lift_fresh": 1}
# The numbers of the pseudo boxes in each image: copied, but not waited for.
COUNTS = {"aten.lift_fresh": 1}
WITH_LABELS = ("rmonet_unet", "rmonet_lite", "rmonet_roialign")


def waits_of_a_step(small_cfg, name, count):
    """Waits of a second training step with so many images: those of the hook, and the others."""
    build, opts, _ = MODELS[name]
    # What runs on a GPU: the hook in torch operations, and the mask head without windows.
    opts = (*opts, "MODEL.PSEUDO_LABELS.NAME", "BatchedMultiOtsu")
    opts = (*opts, "MODEL.ROI_MASK_HEAD.WINDOWED", False)
    model = build(small_cfg, *opts)
    cfg = small_cfg(*opts)
    trainer = SceneTrainer(model, [batch(count)] * 2, build_optimizer(cfg, model), cfg)
    # These are on the host already.
    trainer._write_metrics = lambda losses, data_time: None
    in_hook = HostWaits()
    if hasattr(model, "pseudo_labels"):
        label = model.pseudo_labels._label

        def watched(*args):
            with in_hook:
                return label(*args)

        model.pseudo_labels._label = watched
    with EventStorage(0):
        trainer.iter = 0
        trainer.run_step()
        in_hook.found.clear()
        trainer.iter = 1
        with HostWaits() as waits:
            trainer.run_step()
    return in_hook.found, waits.found - in_hook.found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [2, 5])
def test_a_step_reads_its_scalars_once(small_cfg, name, count):
    in_hook, others = waits_of_a_step(small_cfg, name, count)
    # Each loss becomes a tensor of the host again, for Detectron2's metrics.
    expected = Counter({"tolist": 1, "aten.lift_fresh": len(MODELS[name][2])})
    expected.update(COUNTS if name in WITH_LABELS else {})
    expected.update(POOLER if name == "rmonet_roialign" else {})
    assert others == expected
    # Rounds that join runs depend on the masks; nothing goes image by image, 5 masks in each.
    assert sum(in_hook.values()) < 60
    assert bool(in_hook) == (name in WITH_LABELS)


def test_what_waits_is_counted(small_cfg):
    """Detectron2's own labels and losses wait in every image."""
    model = MODELS["rmonet_unet"][0](
        small_cfg, "MODEL.META_ARCHITECTURE", "PlainRMONet", "VIS_PERIOD", 0
    )
    found = []
    for count in (2, 5):
        with EventStorage(0), HostWaits() as waits:
            model(batch(count))
        found.append(sum(waits.found.values()))
    assert found[1] > found[0] + 3 * 2
