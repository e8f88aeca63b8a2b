import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from stopped import stopped

from rmonet_d2.datasets.generate.multi_dsprites import SceneSettings, make_scenes

FILES = ("train.json", "train_images.npy", "test.json", "test_images.npy")


def contents(root):
    return {name: (root / "multi_dsprites" / name).read_bytes() for name in FILES}


def test_files_do_not_depend_on_workers_or_chunks(tmp_path, sprites_root, prepare):
    sizes = ("--num-train", 120, "--num-test", 40)
    done = prepare(tmp_path, *sizes, "--workers", 2, "--chunk", 17)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == contents(sprites_root)
    assert sorted(os.listdir(tmp_path / "multi_dsprites")) == sorted(FILES)


def test_images_are_the_generators(sprites_root):
    scenes = make_scenes(SceneSettings(), "test", np.arange(40))
    images = np.load(sprites_root / "multi_dsprites" / "test_images.npy")
    assert np.array_equal(images, scenes.images)
    data = json.loads((sprites_root / "multi_dsprites" / "test.json").read_text())
    assert data["info"]["seed"] == 1 and data["info"]["count"] == 40
    assert [c["name"] for c in data["categories"]] == ["object"]


def test_a_second_run_says_so_and_changes_nothing(tmp_path, prepare):
    assert prepare(tmp_path, "--num-train", 8, "--num-test", 4).returncode == 0
    before = contents(tmp_path)
    again = prepare(tmp_path, "--num-train", 8, "--num-test", 4)
    assert again.returncode == 0 and "complete, 8 scenes" in again.stdout
    other = prepare(tmp_path, "--num-train", 9, "--num-test", 4)
    assert other.returncode == 1 and "Traceback" not in other.stderr
    assert "count is 8 instead of 9" in other.stderr and "--overwrite" in other.stderr
    seed = prepare(tmp_path, "--num-train", 8, "--num-test", 4, "--seed", 5)
    assert seed.returncode == 1 and "seed is 1 instead of 5" in seed.stderr
    assert contents(tmp_path) == before
    replaced = prepare(tmp_path, "--num-train", 9, "--num-test", 4, "--overwrite")
    assert replaced.returncode == 0, replaced.stderr
    assert len(np.load(tmp_path / "multi_dsprites" / "train_images.npy")) == 9


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path, prepare, program, how):
    sizes = ["--num-train", "240", "--num-test", "8", "--chunk", "20", "--workers", "2"]
    assert prepare(tmp_path / "whole", *sizes).returncode == 0
    process = subprocess.Popen(
        [*stopped(program, 3, how), "--output", str(tmp_path / "cut"), *sizes],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background of a shell inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    _, errors = process.communicate(timeout=1800)
    parts = tmp_path / "cut" / "multi_dsprites" / ".train_parts"
    assert process.returncode != 0
    if how == signal.SIGINT:
        assert "run the same command again" in errors and "Traceback" not in errors
    assert not (tmp_path / "cut" / "multi_dsprites" / "train.json").exists()
    done = list(parts.glob("0*.json"))
    assert 3 <= len(done) <= 12
    stamps = {p.name: p.stat().st_mtime_ns for p in done}
    refused = prepare(tmp_path / "cut", *sizes, "--seed", 3)
    assert (
        refused.returncode == 1 and "unfinished data set: seed is 1 instead of 3" in refused.stderr
    )
    assert {p.name: p.stat().st_mtime_ns for p in done} == stamps
    # Another chunk size goes on with the chunks that are there.
    assert prepare(tmp_path / "cut", *sizes, "--chunk", 100).returncode == 0
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.parametrize("stage", ["joined", "images moved", "json moved"])
def test_a_kill_while_finishing_is_healed(tmp_path, sprites_root, stage):
    from rmonet_d2.datasets.build.job import PackedJob, finish_job, prepare_job, run_chunks

    def make_chunk(start, stop):
        images = np.full((stop - start, 4, 4, 3), start, np.uint8)
        return images, [{"id": i} for i in range(start, stop)], []

    job = PackedJob(tmp_path, "train", 5, (4, 4), {"a": 1}, [], make_chunk, 2)
    chunks = prepare_job(job)
    assert chunks == [(0, 2), (2, 4), (4, 5)]
    assert sum(run_chunks(job, chunks, 1)) == 5
    real, calls = os.replace, []

    def dies(source, target):
        calls.append(target)
        if len(calls) > ["joined", "images moved", "json moved"].index(stage) + 1:
            raise KeyboardInterrupt
        real(source, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", dies)
        patch.setattr("shutil.rmtree", lambda *a, **k: dies("", ""))
        finish_job(job)
    left = prepare_job(job)
    assert left == (None if stage == "json moved" else [])
    if left is not None:
        finish_job(job)
    assert sorted(os.listdir(tmp_path)) == ["train.json", "train_images.npy"]
    data = json.loads(job.json_file.read_text())
    assert [i["id"] for i in data["images"]] == [0, 1, 2, 3, 4]
    assert np.load(job.images_file)[:, 0, 0, 0].tolist() == [0, 0, 2, 2, 4]
    assert prepare_job(job) is None


def test_a_truncated_finished_file_is_noticed_and_replaced(tmp_path, prepare):
    sizes = ("--num-train", 8, "--num-test", 4)
    assert prepare(tmp_path, *sizes).returncode == 0
    before = contents(tmp_path)
    os.truncate(tmp_path / "multi_dsprites" / "train_images.npy", 5000)
    refused = prepare(tmp_path, *sizes)
    assert refused.returncode == 1 and "train_images.npy: truncated" in refused.stderr
    assert prepare(tmp_path, *sizes, "--overwrite").returncode == 0
    assert contents(tmp_path) == before


def test_two_runs_do_not_work_in_one_folder(tmp_path):
    from rmonet_d2.datasets.build.job import JobError, exclusive

    with (
        exclusive(tmp_path / "a"),
        pytest.raises(JobError, match="another run"),
        exclusive(tmp_path / "a"),
    ):
        pass
    with exclusive(tmp_path / "a"):
        pass
    assert os.listdir(tmp_path / "a") == []


def test_a_killed_run_leaves_no_lock(tmp_path):
    from rmonet_d2.datasets.build.job import JobError, exclusive

    code = (
        "import pathlib, sys, time; from rmonet_d2.datasets.build.job import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(JobError, match="another run is working here"), exclusive(tmp_path):
            pass
        process.kill()
    with exclusive(tmp_path):
        pass


def test_the_program_needs_neither_torch_nor_detectron2(program):
    code = (
        "import os, runpy, sys; sys.path.insert(0, os.path.dirname(sys.argv[1]));"
        "runpy.run_path(sys.argv[1], run_name='not_main');"
        "print([m for m in ('torch', 'detectron2') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(program)], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
