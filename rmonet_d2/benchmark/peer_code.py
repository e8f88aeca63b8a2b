"""Training steps and inference of the public codes of SPACE, IODINE and MONet, beside ours.

Nothing of these codes is part of this project: a user clones them into one folder, and this module
imports them from there. Each is set up for the image size, K, widths and batch of one of our
configs, on the CPU in float32, with its own optimizer and without its data loader.
"""

import contextlib
import importlib
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from rmonet_d2.benchmark.timing import side_by_side
from rmonet_d2.benchmark.training import FP32, Step, config_of, count_parameters
from rmonet_d2.utils.errors import MissingFileError

# A training iteration after all of SPACE's annealings.
_LATE = 10**6


class _AttrDict(dict):
    """A dict whose keys are attributes, as in the package attrdict, which Python 3.10 broke."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


class _Nothing(types.ModuleType):
    """A module whose every attribute can be called and does nothing."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


def _stand_ins() -> dict[str, types.ModuleType]:
    """Modules that the codes import but that their models do not need."""
    names = ("forge", "forge.flags", "forge.experiment_tools", "tensorflow", "simplejson")
    modules: dict[str, types.ModuleType] = {name: _Nothing(name) for name in names}
    modules["forge"].flags = modules["forge.flags"]  # type: ignore[attr-defined]
    modules["attrdict"] = types.ModuleType("attrdict")
    modules["attrdict"].AttrDict = _AttrDict  # type: ignore[attr-defined]
    return modules


@contextlib.contextmanager
def imported_from(folder: Path) -> Iterator[None]:
    """Import from ``folder`` inside, and forget its modules afterwards: their names collide."""
    before = dict(sys.modules)
    for name, module in _stand_ins().items():
        sys.modules.setdefault(name, module)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None) or ""
            is_theirs = file.startswith(str(folder)) or isinstance(module, _Nothing)
            if name not in before and (is_theirs or name == "attrdict"):
                del sys.modules[name]


def _space(folder: Path, cfg: CfgNode) -> tuple[torch.nn.Module, Callable]:
    with imported_from(folder / "src"):
        arch = importlib.import_module("model.space.arch").arch
        arch.img_shape = tuple(cfg.INPUT.IMAGE_SIZE)
        arch.G = cfg.MODEL.SPACE.GRID_SIZE
        arch.K = cfg.MODEL.SPACE.BACKGROUND_COMPONENTS
        arch.glimpse_size = cfg.MODEL.SPACE.GLIMPSE_SIZE
        model = importlib.import_module("model.space.space").Space()
    return model, lambda model, x: model(x, _LATE)[0]


def _iodine(folder: Path, cfg: CfgNode) -> tuple[torch.nn.Module, Callable]:
    with imported_from(folder):
        arch = importlib.import_module("lib.config").cfg.clone()
        arch.merge_from_file(str(folder / "configs" / "clevr6_prop.yaml"))
        arch, ours = arch.ARCH, cfg.MODEL.IODINE
        arch.ITERS, arch.SIGMA = ours.ITERATIONS, ours.SIGMA
        arch.SLOTS, arch.IMG_SIZE = cfg.MODEL.SCENE.NUM_COMPONENTS, cfg.INPUT.IMAGE_SIZE[0]
        arch.DIM_LATENT = cfg.MODEL.VAE.LATENT_DIM
        arch.REF.CONV_CHAN, arch.REF.MLP_UNITS = ours.REFINE_CHANNELS[0], ours.REFINE_HIDDEN
        arch.REF.CONV_LAYERS = len(ours.REFINE_CHANNELS)
        arch.DEC.CONV_CHAN = cfg.MODEL.VAE.DECODER_CHANNELS[0]
        arch.DEC.CONV_LAYERS = len(cfg.MODEL.VAE.DECODER_CHANNELS)
        model = importlib.import_module("lib.modeling.iodine").IODINE(arch)
    return model, lambda model, x: model(x)


def _monet(folder: Path, cfg: CfgNode) -> tuple[torch.nn.Module, Callable]:
    vae, scene = cfg.MODEL.VAE, cfg.MODEL.SCENE
    settings = _AttrDict(
        K_steps=scene.NUM_COMPONENTS,
        prior_mode="softmax",
        montecarlo_kl=False,
        debug=False,
        pixel_bound=True,
        img_size=cfg.INPUT.IMAGE_SIZE[0],
        filter_start=cfg.MODEL.MONET.UNET_CHANNELS[0],
        pixel_std1=scene.SIGMA_BG,
        pixel_std2=scene.SIGMA_FG,
        comp_ldim=vae.LATENT_DIM,
        comp_enc_channels=vae.ENCODER_CHANNELS[0],
        comp_dec_channels=vae.DECODER_CHANNELS[0],
        comp_dec_layers=len(vae.DECODER_CHANNELS),
        input_channels=3,
    )
    with imported_from(folder):
        model = importlib.import_module("models.monet_config").MONet(settings)

    def loss(model, x):
        losses = model(x)[1]
        return (losses["err"] + losses["kl_m"] + torch.stack(losses["kl_l_k"]).sum(dim=0)).mean()

    return model, loss


# System -> (folder of the clone, repository, our config, how the model is built).
PEERS: dict[str, tuple[str, str, str, Callable]] = {
    "SPACE": ("SPACE", "zhixuan-lin/SPACE", "configs/clevr_space.yaml", _space),
    "IODINE": ("IODINE", "zhixuan-lin/IODINE", "configs/multi_dsprites_iodine.yaml", _iodine),
    "MONet": ("genesis", "applied-ai-lab/genesis", "configs/multi_dsprites_monet.yaml", _monet),
}


@dataclass
class PeerStep:
    """A training step, and the inference, of a public code on the images of one of our steps."""

    model: Any
    loss: Callable
    images: torch.Tensor

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-4)

    def __call__(self) -> None:
        self.model.train()
        loss = self.loss(self.model, self.images)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def infer(self) -> None:
        # IODINE infers by gradients.
        refines = hasattr(self.model, "refine")
        self.model.eval()
        with contextlib.nullcontext() if refines else torch.no_grad():
            if refines:
                self.model.reconstruct(self.images)
            else:
                self.loss(self.model, self.images)


def clone_of(folder: str, name: str) -> Path:
    """Return the path of a system's clone.

    Raises:
        MissingFileError: it is not there.
    """
    directory, repository = PEERS[name][:2]
    path = Path(folder) / directory
    if not path.is_dir():
        raise MissingFileError(
            f"{path} does not exist: clone {repository} from GitHub into {folder}, or leave out "
            "--peer-code."
        )
    return path.resolve()


def commit_of(path: Path) -> str:
    """Return the first digits of a clone's commit, or "unknown"."""
    command = ["git", "-C", str(path), "rev-parse", "--short=7", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def compare_with_peers(folder: str, opts: list, repeats: int) -> list[dict]:
    """Time training steps and inference of the public codes and of ours in turn.

    Args:
        folder: holds the clones that are there, at least one.
        opts: overrides for our configs, such as the batch size.
        repeats: timed calls per system.

    Returns:
        One dict per system: "system", "commit", "parameters, million" of both, and how many times
        as long theirs takes as ours in training and inference.

    Raises:
        MissingFileError: there is no clone in ``folder``.
    """
    names = [name for name, (directory, *_) in PEERS.items() if (Path(folder) / directory).is_dir()]
    for name in names or list(PEERS):
        clone_of(folder, name)
    return [_compare(folder, name, opts, repeats) for name in names]


def _compare(folder: str, name: str, opts: list, repeats: int) -> dict:
    path, (_, _, config_file, build) = clone_of(folder, name), PEERS[name]
    cfg = config_of(config_file, [*opts, *FP32, "MODEL.DEVICE", "cpu"])
    ours = Step(cfg)
    images = torch.stack([item["image"] for item in ours.inputs]).float() / 255.0
    torch.manual_seed(0)
    model, loss = build(path, cfg)
    theirs = PeerStep(model, loss, images)
    train = side_by_side({"ours": ours, "theirs": theirs}, repeats, warmup=1)
    ours.model.eval()
    infer = side_by_side({"ours": ours.infer, "theirs": theirs.infer}, repeats, warmup=1)
    theirs_count = sum(p.numel() for p in theirs.model.parameters() if p.requires_grad)
    return {
        "system": name,
        "commit": commit_of(path),
        "parameters, million: ours": count_parameters(ours) / 1e6,
        "theirs": theirs_count / 1e6,
        "training, ours, s": train["ours"].median,
        "training, theirs / ours": train["theirs"].median / train["ours"].median,
        "inference, ours, s": infer["ours"].median,
        "inference, theirs / ours": infer["theirs"].median / infer["ours"].median,
    }
