import contextlib
import functools
import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json
from small_model import ROOT
from stopped import stopped
from tfrecord_files import clevr_scene, example, record, sprites_scene, write

from rmonet_d2.data import register_clevr, register_multi_dsprites
from rmonet_d2.datasets.build.job import JobError
from rmonet_d2.datasets.convert.conversion import convert_tfrecords
from rmonet_d2.datasets.convert.scenes import (
    clevr_with_masks,
    crop_scene,
    make_images,
    multi_dsprites_official,
)

PROGRAMS = {
    "clevr": ROOT / "datasets" / "prepare_clevr.py",
    "multi_dsprites": ROOT / "datasets" / "prepare_multi_dsprites.py",
}
FILES = ("train.json", "train_images.npy", "test.json", "test_images.npy")
# Objects in the records of the CLEVR files below: 5 of 7 are of use.
OBJECTS = (3, 7, 6, 4, 2, 5, 3)
USED = (0, 2, 3, 5, 6)


def command(name, path, output, *arguments):
    named = ["--tfrecords", path, "--output", output, *arguments]
    return [sys.executable, str(PROGRAMS[name]), *map(str, named)]


def prepare(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=1800)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def counts(test, train):
    return ["--num-test", str(test), "--num-train", str(train)]


@functools.cache
def clevr_records():
    return [record(example(clevr_scene(n, objects))) for n, objects in enumerate(OBJECTS)]


@functools.cache
def sprites_records():
    return [record(example(sprites_scene(n, 2 + n % 4))) for n in range(60)]


@pytest.fixture(scope="module")
def clevr_file(tmp_path_factory):
    """14 records, 10 of them with 3 to 6 objects."""
    return write(tmp_path_factory.mktemp("files") / "clevr.tfrecords", clevr_records() * 2)


@pytest.fixture(scope="module")
def sprites_file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("files") / "sprites.tfrecords", sprites_records())


@pytest.fixture(scope="module")
def clevr_root(tmp_path_factory, clevr_file):
    """A folder of data sets, made by one process; not to be changed."""
    root = tmp_path_factory.mktemp("datasets")
    done = prepare("clevr", clevr_file, root, *counts(3, 6), "--workers", 1)
    assert done.returncode == 0, done.stderr
    return root


def test_files_do_not_depend_on_workers_or_chunks(tmp_path, clevr_file, clevr_root):
    sizes = counts(3, 6)
    done = prepare("clevr", clevr_file, tmp_path, *sizes, "--workers", 3, "--chunk", 2)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "clevr") == contents(clevr_root / "clevr")
    assert sorted(os.listdir(tmp_path / "clevr")) == sorted(FILES)
    again = prepare("clevr", clevr_file, tmp_path, *sizes)
    assert again.returncode == 0 and "train.json: complete, 6 scenes" in again.stdout
    other = prepare("clevr", clevr_file, tmp_path, *sizes, "--all")
    assert other.returncode == 1 and "max_objects is 6 instead of 10" in other.stderr
    assert contents(tmp_path / "clevr") == contents(clevr_root / "clevr")


def test_the_first_scenes_accepted_are_the_test_split(clevr_root):
    accepted = [*USED, *(7 + n for n in USED)]
    for split, expected in (("test", accepted[:3]), ("train", accepted[3:9])):
        data = json.loads((clevr_root / "clevr" / f"{split}.json").read_text())
        assert [i["record"] for i in data["images"]] == expected
        assert [i["id"] for i in data["images"]] == list(range(len(expected)))
        assert data["info"]["source"] == "official" and data["info"]["crop"] == [29, 221, 64, 256]
        images = np.load(clevr_root / "clevr" / f"{split}_images.npy")
        assert images.shape == (len(expected), 128, 128, 3)
        for image, number in zip(images, expected, strict=True):
            values = clevr_scene(number % 7, OBJECTS[number % 7])
            scene = crop_scene(number, example(values), [1], clevr_with_masks())
            assert np.array_equal(image, make_images(clevr_with_masks(), [scene], 0)[0][0])


def test_a_smaller_set_is_the_beginning_of_a_larger_one(tmp_path, sprites_file):
    for name, train in (("small", 11), ("large", 40)):
        done = prepare(
            "multi_dsprites", sprites_file, tmp_path / name, *counts(5, train), "--workers", 1
        )
        assert done.returncode == 0, done.stderr
    small, large = (tmp_path / n / "multi_dsprites" for n in ("small", "large"))
    assert np.array_equal(
        np.load(small / "train_images.npy"), np.load(large / "train_images.npy")[:11]
    )
    a, b = (json.loads((f / "train.json").read_text()) for f in (small, large))
    assert a["images"] == b["images"][:11]
    assert a["annotations"] == [x for x in b["annotations"] if x["image_id"] < 11]
    assert (small / "test_images.npy").read_bytes() == (large / "test_images.npy").read_bytes()


def test_both_loaders_read_the_result(clevr_root):
    register_clevr(clevr_root)
    try:
        records = DatasetCatalog.get("clevr_train")
        metadata = MetadataCatalog.get("clevr_train")
        assert metadata.source == "official"
        stock = load_coco_json(metadata.json_file, metadata.image_root, "clevr_train")
    finally:
        register_clevr()
    assert [len(r["annotations"]) for r in records] == [len(r["annotations"]) for r in stock]
    for found, number in zip(records, (5, 6, 0, 2, 3, 5), strict=True):
        # Discs may hide others.
        masks = clevr_scene(number, OBJECTS[number])["mask"][1:, 29:221, 64:256]
        assert len(found["annotations"]) == masks.any(axis=(1, 2)).sum() >= 3
    assert records[0]["annotations"][0]["attributes"]["shape"] in ("cube", "sphere", "cylinder")


@pytest.mark.parametrize("name", ["clevr", "multi_dsprites"])
def test_a_killed_run_goes_on_and_ends_the_same(tmp_path, name):
    # One GZIP member after the other: as good as one stream, and quick to make.
    made = clevr_records() * 14 if name == "clevr" else sprites_records() * 5
    members = {data: gzip.compress(data, 1) for data in set(made)}
    path = tmp_path / "file.tfrecords"
    path.write_bytes(b"".join(members[data] for data in made))
    sizes = [*counts(10, 60 if name == "clevr" else 250), "--chunk", "5", "--workers", "2"]
    whole = prepare(name, path, tmp_path / "whole", *sizes)
    assert whole.returncode == 0, whole.stderr
    _, program, *arguments = command(name, path, tmp_path / "cut", *sizes)
    line = [*stopped(program, 8, signal.SIGKILL), *arguments]
    process = subprocess.run(line, capture_output=True, text=True, timeout=1800)
    parts = tmp_path / "cut" / name / ".train_parts"
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / name / "train.json").exists()
    done = {p.name: p.stat().st_mtime_ns for p in parts.glob("0*.json")}
    assert len(done) >= 3
    # Chunks that are there are not made again, whatever chunk size is asked for now.
    removed = parts / sorted(done)[1]
    removed.unlink()
    process = subprocess.Popen(
        command(name, path, tmp_path / "cut", *sizes, "--chunk", "50"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None:
        for part in parts.glob("0*.json"):
            # The run may end, and remove its parts, at any time.
            with contextlib.suppress(FileNotFoundError):
                if part.name in done and part != removed:
                    assert part.stat().st_mtime_ns == done[part.name]
        time.sleep(0.01)
    assert process.communicate()[1].count("Traceback") == process.returncode == 0
    assert contents(tmp_path / "cut" / name) == contents(tmp_path / "whole" / name)


def test_a_bad_record_keeps_what_came_before_it(tmp_path, sprites_file):
    made = list(sprites_records())
    bad = bytearray(made[33])
    bad[1000] ^= 1
    cut = tmp_path / "cut.tfrecords"
    cut.write_bytes(sprites_file.read_bytes()[: sprites_file.stat().st_size * 3 // 4])
    cases = [
        (write(tmp_path / "bad.tfrecords", [*made[:33], bytes(bad), *made[34:]]), "record 33: "),
        (cut, "truncated"),
    ]
    sizes = [*counts(5, 50), "--chunk", "4", "--workers", "2"]
    assert prepare("multi_dsprites", sprites_file, tmp_path / "whole", *sizes).returncode == 0
    for path, message in cases:
        output = tmp_path / path.stem
        failed = prepare("multi_dsprites", path, output, *sizes)
        assert failed.returncode == 1 and "Traceback" not in failed.stderr
        assert str(path) in failed.stderr and message in failed.stderr
        assert "download the file again" in failed.stderr
        parts = sorted((output / "multi_dsprites" / ".train_parts").glob("0*.json"))
        # 33 records are 5 + 28 scenes: seven whole chunks of four.
        assert len(parts) == 7 if path.stem == "bad" else len(parts) >= 7
        if path.stem == "bad":
            assert "33 of 55 scenes are converted and kept" in failed.stderr
        stamps = [p.stat().st_mtime_ns for p in parts]
        again = prepare("multi_dsprites", path, output, *sizes)
        assert again.returncode == 1 and [p.stat().st_mtime_ns for p in parts] == stamps
        healed = prepare("multi_dsprites", sprites_file, output, *sizes)
        assert healed.returncode == 0, healed.stderr
        whole = tmp_path / "whole" / "multi_dsprites"
        assert contents(output / "multi_dsprites") == contents(whole)


def test_another_file_does_not_go_on_with_the_first_ones_scenes(tmp_path, sprites_file):
    sizes = [*counts(2, 20), "--workers", "1", "--chunk", "2"]
    bad = bytearray(sprites_file.read_bytes())
    first = tmp_path / "first.tfrecords"
    first.write_bytes(bad[: len(bad) // 4])
    assert prepare("multi_dsprites", first, tmp_path, *sizes).returncode == 1
    other = write(tmp_path / "other.tfrecords", sprites_records()[1:])
    refused = prepare("multi_dsprites", other, tmp_path, *sizes)
    assert refused.returncode == 1 and "first_record is" in refused.stderr
    replaced = prepare("multi_dsprites", other, tmp_path, *sizes, "--overwrite")
    assert replaced.returncode == 0, replaced.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_with_fewer_scenes_than_asked(tmp_path, clevr_file, workers):
    options = [*counts(4, 50), "--chunk", "5", "--workers", str(workers)]
    done = prepare("clevr", clevr_file, tmp_path, *options)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert "train.json: 6 scenes written" in done.stdout
    assert (
        f"note: {clevr_file} ends after 14 records with 10 scenes of 3 to 6 objects; 54 were "
        "asked for" in done.stderr
    )
    folder = tmp_path / "clevr"
    assert sorted(os.listdir(folder)) == sorted(FILES)
    assert np.load(folder / "train_images.npy").shape == (6, 128, 128, 3)
    data = json.loads((folder / "train.json").read_text())
    assert (data["info"]["count"], data["info"]["asked"]) == (6, 50) and len(data["images"]) == 6
    before = contents(folder)
    again = prepare("clevr", clevr_file, tmp_path, *options)
    assert again.returncode == 0 and "train.json: complete, 6 scenes" in again.stdout
    assert contents(folder) == before
    # The same scenes as where exactly these are asked for.
    assert prepare("clevr", clevr_file, tmp_path / "b", *counts(4, 6)).returncode == 0
    exact = tmp_path / "b" / "clevr"
    assert (exact / "train_images.npy").read_bytes() == before["train_images.npy"]
    assert json.loads((exact / "train.json").read_text())["images"] == data["images"]


def test_a_file_too_short_for_a_training_split(tmp_path, clevr_file):
    done = prepare("clevr", clevr_file, tmp_path, *counts(20, 50), "--workers", 1)
    assert (
        done.returncode == 0
        and "train.json: not written, because no scenes are left" in done.stdout
    )
    assert sorted(os.listdir(tmp_path / "clevr")) == ["test.json", "test_images.npy"]
    none = prepare("clevr", clevr_file, tmp_path / "b", "--min-objects", 9, "--max-objects", 10)
    assert none.returncode == 1 and "with 0 scenes of 9 to 10 objects" in none.stderr


def test_all_scenes_on_request(tmp_path, clevr_file):
    done = prepare("clevr", clevr_file, tmp_path, "--all", "--size", 64, *counts(3, 11))
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "clevr" / "train.json").read_text())
    assert [i["record"] for i in data["images"]] == list(range(3, 14))
    assert np.load(tmp_path / "clevr" / "train_images.npy").shape == (11, 64, 64, 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("clevr", "sprites", "record 0: not what the schema describes: there is no feature"),
        ("multi_dsprites", "clevr", "record 0: not what the schema describes: "),
        ("clevr", b"<html>not found</html>", "this is a web page"),
        ("clevr", b"", "the file is empty"),
        ("clevr", None, "No such file"),
    ],
)
def test_a_wrong_file_is_one_clear_error(
    tmp_path, name, content, message, clevr_file, sprites_file
):
    path = {"sprites": sprites_file, "clevr": clevr_file}.get(content, tmp_path / "x.tfrecords")
    if isinstance(content, bytes):
        path.write_bytes(content)
    failed = prepare(name, path, tmp_path / "out")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert str(path) in failed.stderr and message in failed.stderr
    assert not (tmp_path / "out").exists()


def test_options_of_drawn_scenes_do_not_mix_with_a_file(tmp_path, sprites_file):
    refused = prepare("multi_dsprites", sprites_file, tmp_path, "--seed", 3)
    assert refused.returncode == 2 and "--seed is for scenes that are drawn" in refused.stderr


def test_an_official_set_says_so_where_drawn_scenes_lie_too(tmp_path, sprites_file):
    assert prepare("multi_dsprites", sprites_file, tmp_path, *counts(4, 8)).returncode == 0
    register_multi_dsprites(tmp_path)
    try:
        assert MetadataCatalog.get("multi_dsprites_train").source == "official"
        shapes = {
            a["attributes"]["shape"]
            for r in DatasetCatalog.get("multi_dsprites_test")
            for a in r["annotations"]
        }
    finally:
        register_multi_dsprites()
    assert shapes <= {1.0, 2.0, 3.0}
    drawn = [sys.executable, str(PROGRAMS["multi_dsprites"]), "--output", str(tmp_path)]
    refused = subprocess.run([*drawn, *counts(4, 8)], capture_output=True, text=True)
    assert refused.returncode == 1 and "is another data set" in refused.stderr


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for count in (60, 600):
        members = [gzip.compress(data, 1) for data in sprites_records()]
        path = tmp_path / f"{count}.tfrecords"
        path.write_bytes(b"".join(members * (count // 60)))
        wanted = {"test": 10, "train": count - 10}
        tracemalloc.start()
        convert_tfrecords(path, multi_dsprites_official(), tmp_path / str(count), wanted, chunk=10)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert 600 * len(sprites_records()[0]) > 60e6
    assert peaks[1] < peaks[0] + 1e6


@pytest.mark.parametrize("name", ["clevr", "multi_dsprites"])
def test_converting_needs_neither_torch_nor_detectron2(tmp_path, name, clevr_file, sprites_file):
    path = clevr_file if name == "clevr" else sprites_file
    code = (
        "import os, runpy, sys; p = sys.argv[1]; sys.path.insert(0, os.path.dirname(p));"
        "g = runpy.run_path(p, run_name='not_main');"
        "assert g['main'](sys.argv[2:]) == 0;"
        "print([m for m in ('torch', 'detectron2', 'tensorflow') if m in sys.modules])"
    )
    arguments = command(name, path, tmp_path, *counts(2, 3), "--workers", "1")[1:]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_shards_make_what_the_whole_file_makes(tmp_path, sprites_file):
    records = sprites_records()
    cuts = [0, 7, 8, len(records)]
    shards = [
        write(tmp_path / f"{n}.tfrecords", records[start:stop])
        for n, (start, stop) in enumerate(itertools.pairwise(cuts))
    ]
    settings = multi_dsprites_official(64, 2, 5)
    for folder, files in (("whole", sprites_file), ("shards", shards)):
        convert_tfrecords(files, settings, tmp_path / folder, {"train": 30, "test": 5}, chunk=10)
    assert contents(tmp_path / "whole") == contents(tmp_path / "shards")
    broken = write(tmp_path / "broken.tfrecords", [*records[:3], record(b"\x0a\x01")])
    with pytest.raises(JobError, match=r"broken\.tfrecords: record 3: "):
        convert_tfrecords(
            [shards[0], broken], settings, tmp_path / "bad", {"train": 30, "test": 5}, chunk=2
        )
