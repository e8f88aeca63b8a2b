"""Prints what every command and every script answers to --help, as JSON; see test_packaging.py.

A program of its own, so that it can tell which modules the answers import.
"""

import contextlib
import io
import json
import re
import runpy
import sys
from pathlib import Path

from rmonet_d2.cli import main as rmonet

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "torchvision", "detectron2", "cv2", "matplotlib", "skimage"}


def answer(call) -> dict:
    """The status, the help and the heavy modules that are loaded after it."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            status = call()
        except SystemExit as error:
            status = error.code
    text = re.sub(r"^usage: (rmonet [a-z-]+|\w+\.py)", "usage: PROGRAM", output.getvalue())
    return {"status": status, "help": text, "heavy": sorted(HEAVY & set(sys.modules))}


def run_script(path: Path) -> None:
    sys.argv = [str(path), "--help"]
    runpy.run_path(str(path), run_name="__main__")


def main() -> None:
    commands = {
        name: answer(lambda name=name: rmonet.main([name, "--help"])) for name in rmonet.COMMANDS
    }
    scripts = {}
    for path in sorted([*ROOT.glob("tools/*.py"), *ROOT.glob("datasets/*.py")]):
        found = re.search(r'^"""The same as `rmonet ([a-z-]+)`', path.read_text(), re.MULTILINE)
        if found:
            scripts[path.name] = {
                "command": found[1],
                **answer(lambda path=path: run_script(path)),
            }
    print(json.dumps({"commands": commands, "scripts": scripts}))


if __name__ == "__main__":
    main()
