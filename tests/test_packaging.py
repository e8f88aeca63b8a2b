"""The package as users get it: a wheel in an empty folder, and programs that answer at once."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("rmonet_d2", "configs", "weights")
# Suffixes of the files that a wheel must hold besides Python's.
DATA = {".css", ".html", ".js", ".pth", ".typed", ".yaml"}
SHIPPED = sorted((ROOT / "weights").glob("*.pth"))


def run_python(code: str, cwd: Path, **environment: str) -> str:
    """Run code in a process of its own; return its output."""
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the unpacked wheel of this tree.

    The wheel is built from a copy, so that what an earlier build left in the tree has no part in
    it, and without a compiler, as the library is not what is tested here.
    """
    folder = tmp_path_factory.mktemp("packaging")
    source, wheels, target = folder / "source", folder / "wheels", folder / "installed"
    source.mkdir()
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != "requirements.lock":
            shutil.copy(path, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(wheels), str(source)]
    process = subprocess.run(
        command,
        env={**os.environ, "CC": "false", "CXX": "false"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_wheel_holds_every_data_file(installed):
    expected = set()
    for name in SOURCES:
        for path in (ROOT / name).rglob("*"):
            if path.suffix in DATA:
                within = path.relative_to(ROOT)
                expected.add(
                    within if name == "rmonet_d2" else Path("rmonet_d2", "model_zoo") / within
                )
    assert len(expected) > 50
    missing = [str(path) for path in sorted(expected) if not (installed / path).is_file()]
    assert not missing
    licenses = {path.name for path in installed.glob("*.dist-info/licenses/*")}
    assert licenses == {"LICENSE", "NOTICE"}
    scripts = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    assert "rmonet = rmonet_d2.cli.main:main" in scripts


def test_wheel_works_in_an_empty_folder(installed, tmp_path):
    names = [path.stem for path in SHIPPED]
    output = run_python(
        f"""
        import subprocess, sys
        import rmonet_d2
        from rmonet_d2 import model_zoo
        print(rmonet_d2.__file__)
        print(model_zoo.get_config_file("clevr_rmonet_unet"))
        print(model_zoo.get_config_file("configs/quick/rmonet_unet.yaml".removeprefix("configs/")))
        for name in {names}:
            print(model_zoo.get_checkpoint_url(name))
        sys.exit(subprocess.call([sys.executable, "-m", "rmonet_d2", "--help"]))
        """,
        tmp_path,
        PYTHONPATH=str(installed),
    )
    lines = output.splitlines()
    for line in lines[: 3 + len(names)]:
        assert Path(line).is_file()
        assert installed in Path(line).parents
    assert lines[3 + len(names)] == "usage: rmonet COMMAND [OPTIONS]"


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What every command and script prints for --help, all in one process without torch."""
    program = ROOT / "tests" / "helpers" / "program_help.py"
    code = f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')"
    return json.loads(run_python(code, tmp_path_factory.mktemp("help"), COLUMNS="100"))


def test_help_of_every_command_imports_nothing_heavy(answers):
    assert {"discover", "train", "evaluate", "compare", "benchmark"} <= set(answers["commands"])
    for name, found in answers["commands"].items():
        assert found["status"] == 0, name
        assert found["heavy"] == [], name
        assert found["help"].startswith("usage: PROGRAM"), name
        for part in ("\nexample:\n", "\nexit status:\n"):
            assert part in found["help"], name


def test_scripts_answer_as_their_commands(answers):
    scripts = answers["scripts"]
    assert {"train_net.py", "discover.py", "prepare_clevr.py"} <= set(scripts)
    for name, found in scripts.items():
        command = answers["commands"][found["command"]]
        # The usage is wrapped by the length of the program's name.
        assert found["help"].split() == command["help"].split(), name
        assert (found["status"], found["heavy"]) == (0, []), name


def test_scripts_that_are_no_commands_serve_the_checkout_alone(answers):
    scripts = {path.name for path in (ROOT / "tools").glob("*.py")}
    scripts |= {path.name for path in (ROOT / "datasets").glob("*.py")}
    others = {"config_reference.py", "detectron2_fixes.py", "install_detectron2.py"}
    assert scripts - set(answers["scripts"]) == others


def test_importing_the_package_imports_neither_torch_nor_detectron2(tmp_path):
    run_python(
        """
        import sys
        import rmonet_d2
        rmonet_d2.model_zoo.get_config_file("clevr_rmonet_unet")
        assert not {"torch", "detectron2"} & set(sys.modules)
        """,
        tmp_path,
    )


@pytest.mark.parametrize("order", ["rmonet_d2, detectron2", "detectron2, rmonet_d2"])
def test_import_registers_models_and_data_in_either_order(tmp_path, order):
    run_python(
        f"""
        import {order}
        from detectron2.data import DatasetCatalog
        from detectron2.modeling import META_ARCH_REGISTRY
        for name in ("RMONet", "MONet", "IODINE", "SPACE"):
            assert name in META_ARCH_REGISTRY, name
        for name in ("multi_dsprites_train", "clevr_test", "clevr_sample_train"):
            assert name in DatasetCatalog.list(), name
        """,
        tmp_path,
        OMP_NUM_THREADS="1",
    )
