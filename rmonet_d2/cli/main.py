"""Unsupervised object discovery: boxes, masks, latents and COCO files from unlabeled images."""

import importlib
import sys

import rmonet_d2

# Command -> (module, what it does), in the order of the help.
COMMANDS = {
    "discover": ("discover", "find objects in your own images, without labels"),
    "train": ("train", "train or evaluate a model"),
    "evaluate": ("evaluate", "evaluate weights on a data set with annotations"),
    "visualize": ("visualize", "draw what a model finds in scenes of a data set"),
    "report": ("report", "write the HTML report of a training run"),
    "compare": ("compare", "train the paper's systems with equal budgets, and compare them"),
    "ablation": ("ablation", "train without single ingredients of the training recipe"),
    "benchmark": ("benchmark", "measure speed and memory"),
    "demo": ("demo", "make scenes, train, evaluate and write a report"),
    "probe": ("probe", "measure what the latents tell about the objects"),
    "traverse": ("traverse", "vary the latents of an object, and edit scenes"),
    "relabel": ("relabel", "turn discovered objects into labels for a detector"),
    "student": ("student", "train Detectron2's Mask R-CNN on such labels"),
    "export": ("export_model", "write a model as ONNX or TorchScript"),
    "export-weights": ("export_weights", "write only the weights of a checkpoint"),
    "prepare-multi-dsprites": ("prepare_multi_dsprites", "generate or convert Multi-dSprites"),
    "prepare-clevr": ("prepare_clevr", "convert the published CLEVR (with masks)"),
    "render-clevr": ("render_clevr", "render CLEVR scenes with Blender"),
    "fuzz": ("fuzz", "test the readers with damaged files"),
    "unpack-images": ("unpack_images", "write a packed data set as PNG files"),
}


def usage() -> str:
    """Return the help text of ``rmonet``."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items())
    return f"""usage: rmonet COMMAND [OPTIONS]

{__doc__}

commands:
{commands}

options:
  -h, --help  show this help; `rmonet COMMAND --help` describes a command
  --version   show the version

example:
  rmonet discover datasets/clevr_sample/test --weights clevr_rmonet_unet_cpu --output output/found

exit status:
  0    success
  1    error; a message on standard error says what to do
  2    unknown command, or invalid option or argument
  130  interrupted (Ctrl-C)
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"rmonet_d2 {rmonet_d2.__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        print(f"rmonet: unknown command {name!r}; see rmonet --help", file=sys.stderr)
        return 2
    module = importlib.import_module(f"rmonet_d2.cli.{COMMANDS[name][0]}")
    return module.main(rest, prog=f"rmonet {name}")
