"""The program render_clevr.py. Most of these tests need Blender's module bpy.

It may be in another Python than the one that runs the tests: name that one in BPY_PYTHON.
"""

import functools
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from small_model import ROOT
from stopped import stopped

PROGRAM = ROOT / "datasets" / "render_clevr.py"
PYTHON = os.environ.get("BPY_PYTHON", sys.executable)
FILES = ["test.json", "test_images.npy", "train.json", "train_images.npy"]
SMALL = ("--size", 64, "--samples", 2)


@functools.cache
def bpy_is_there():
    return subprocess.run([PYTHON, "-c", "import bpy"], capture_output=True).returncode == 0


@pytest.fixture
def bpy():
    if not bpy_is_there():
        pytest.skip("Blender's module bpy cannot be imported (extra [render]), nor in BPY_PYTHON")


def command(output, *arguments):
    return [PYTHON, str(PROGRAM), "--output", str(output), *map(str, arguments)]


def render(output, *arguments, **options):
    return subprocess.run(
        command(output, *arguments), capture_output=True, text=True, timeout=1800, **options
    )


def contents(root):
    return {name: (root / "clevr" / name).read_bytes() for name in FILES}


def test_without_bpy_there_is_one_error_and_no_folder(tmp_path):
    (tmp_path / "bpy.py").write_text("raise ModuleNotFoundError('No module named bpy')")
    done = render(tmp_path / "out", "--num", 2, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert "pip install rmonet_d2[render]" in done.stderr and "Python 3.11" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--min-objects", 5, "--max-objects", 4), "objects 5 to 4"),
        (("--size", 8), "size is 8"),
        (("--num", -1), "--num: -1 must be at least 0"),
        (("--workers", 0), "--workers: 0 must be at least 1"),
    ],
)
def test_bad_options_are_one_line(tmp_path, arguments, message):
    done = render(tmp_path, *arguments)
    assert done.returncode != 0 and message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and not (tmp_path / "clevr").exists()


def test_the_program_needs_neither_torch_nor_detectron2():
    code = (
        "import os, runpy, sys; sys.path.insert(0, os.path.dirname(sys.argv[1]));"
        "runpy.run_path(sys.argv[1], run_name='not_main');"
        "print([m for m in ('torch', 'detectron2', 'bpy') if m in sys.modules])"
    )
    done = subprocess.run([PYTHON, "-c", code, str(PROGRAM)], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    if not bpy_is_there():
        pytest.skip("Blender's module bpy cannot be imported (extra [render]), nor in BPY_PYTHON")
    root = tmp_path_factory.mktemp("rendered")
    done = render(root, "--num", 5, "--num-test", 2, *SMALL, "--workers", 2, "--chunk", 2)
    assert done.returncode == 0, done.stderr
    # Nothing of Blender's own output.
    assert len(done.stdout.splitlines()) == 2
    return root


def test_scenes_do_not_depend_on_workers_chunks_or_their_number(rendered, tmp_path):
    again = render(tmp_path, "--num", 5, "--num-test", 2, *SMALL, "--workers", 1, "--chunk", 5)
    assert again.returncode == 0, again.stderr
    assert contents(tmp_path) == contents(rendered)
    assert sorted(os.listdir(tmp_path / "clevr")) == FILES
    fewer = render(tmp_path / "fewer", "--num", 2, "--num-test", 1, *SMALL, "--workers", 1)
    assert fewer.returncode == 0
    images = np.load(tmp_path / "fewer" / "clevr" / "train_images.npy")
    assert np.array_equal(images, np.load(rendered / "clevr" / "train_images.npy")[:2])


def test_files(rendered):
    data = json.loads((rendered / "clevr" / "train.json").read_text())
    assert data["info"]["source"] == "rendered" and data["info"]["blender"]
    assert data["info"]["samples"] == 2 and data["info"]["count"] == 5
    images = np.load(rendered / "clevr" / "train_images.npy")
    assert images.shape == (5, 64, 64, 3) and images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 5
    # A grey floor, brighter towards the camera.
    owner = np.zeros((5, 64, 64), bool)
    for entry in data["annotations"]:
        owner[entry["image_id"]] |= mask_utils.decode(entry["segmentation"]) > 0
    floor = np.where(owner[..., None], np.nan, images)
    top, bottom = np.nanmedian(floor[:, :6]), np.nanmedian(floor[:, -6:])
    assert 90 < top < 120 < bottom < 165


FLAT = """
import sys
import numpy as np
sys.argv = ["program"]
import os, runpy, sys
sys.path.insert(0, os.path.dirname({program!r}))
runpy.run_path({program!r}, run_name="not_main")
from rmonet_d2.datasets.generate.clevr_blender import SceneRenderer
from rmonet_d2.datasets.generate.clevr_render import draw_visible_scene
from rmonet_d2.datasets.generate.clevr_scenes import SceneSettings

renderer = SceneRenderer(128, 1)
scene, cycles = renderer.scene, renderer.scene.cycles
cycles.use_denoising = False
cycles.pixel_filter_type = "BOX"
cycles.filter_width = 0.01
scene.view_settings.view_transform = "Raw"
wrong = edges = 0
for index in range(4):
    seen = draw_visible_scene(SceneSettings(), "train", index)
    add, number = renderer._add_objects, iter(range(10))

    def flat(name, **inputs):
        material = renderer.bpy.data.materials.new(name)
        if material.node_tree is None:
            material.use_nodes = True
        material.node_tree.nodes.clear()
        light = material.node_tree.nodes.new("ShaderNodeEmission")
        light.inputs["Color"].default_value = (inputs["value"], 0, 0, 1)
        output = material.node_tree.nodes.new("ShaderNodeOutputMaterial")
        material.node_tree.links.new(light.outputs[0], output.inputs["Surface"])
        return material

    def add_flat(shown):
        items = add(shown)
        for number, item in enumerate(items):
            item.material_slots[0].material = flat("flat", value=(number + 1) / 10)
        return items

    renderer._add_objects = add_flat
    for lamp in [*renderer.lamps.values(), renderer.bpy.data.objects["sun"]]:
        lamp.hide_render = True
    renderer.bpy.data.objects["floor"].hide_render = True
    found = np.rint(renderer.render(seen.scene)[..., 0] / 25.5).astype(int) - 1
    renderer._add_objects = add
    wrong += (found != seen.owner).sum()
    edges += (seen.owner != np.roll(seen.owner, 1, 1)).sum()
print(wrong, edges)
"""


def test_masks_are_what_blender_sees(bpy, tmp_path):
    """Every object in a flat colour of its own, lit by nothing, one ray through pixel centres."""
    done = subprocess.run(
        [PYTHON, "-c", FLAT.format(program=str(PROGRAM))],
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wrong, edges = map(int, done.stdout.split()[-2:])
    assert edges > 500 and wrong <= 4


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_goes_on_and_ends_the_same(rendered, tmp_path, how, workers):
    options = ["--num", 5, "--num-test", 2, *SMALL, "--chunk", 1, "--workers", workers]
    _, program, *arguments = command(tmp_path, *options)
    line = [PYTHON, *stopped(program, 1, how)[1:], *arguments]
    process = subprocess.run(
        line,
        capture_output=True,
        text=True,
        timeout=1800,
        # Tests that run in the background of a shell inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    errors, parts = process.stderr, tmp_path / "clevr" / ".train_parts"
    assert process.returncode != 0
    if how == signal.SIGINT:
        assert "run the same command again" in errors and "Traceback" not in errors
    done = {p.name: p.stat().st_mtime_ns for p in parts.glob("0*.json")}
    # The workers end the chunks that they have begun, or that wait in their queue.
    assert 1 <= len(done) <= 5 and not (tmp_path / "clevr" / "train.json").exists()
    refused = render(tmp_path, *options, "--seed", 3)
    assert refused.returncode == 1 and "seed is 1 instead of 3" in refused.stderr
    assert {p.name: p.stat().st_mtime_ns for p in parts.glob("0*.json")} == done
    assert render(tmp_path, *options).returncode == 0
    assert contents(tmp_path) == contents(rendered)
    complete = render(tmp_path, *options)
    assert complete.returncode == 0 and "complete, 5 scenes" in complete.stdout
