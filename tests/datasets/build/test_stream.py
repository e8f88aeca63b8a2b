import json

import numpy as np
import pytest

from rmonet_d2.datasets.build.job import PackedJob, chunk_size, finish_job, prepare_job
from rmonet_d2.datasets.build.stream import StreamedJobs


def make(items, start):
    images = np.array(items, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    rows = range(start, start + len(items))
    return images, [{"id": n} for n in rows], [{"id": n, "image_id": n} for n in rows]


class Stream:
    """0, 1, 2, ... and what of it was prepared."""

    def __init__(self, length, error=None):
        self.length, self.error, self.read, self.prepared = length, error, 0, []

    def __iter__(self):
        for item in range(self.length):
            self.read += 1
            yield item
        if self.error:
            raise self.error

    def prepare(self, item):
        self.prepared.append(item)
        return item


def run(folder, stream, test=3, train=8, chunk=2):
    jobs = [
        PackedJob(folder, n, c, (2, 2), {}, [], None, chunk)
        for n, c in (("test", test), ("train", train))
    ]
    plans = [(job, prepare_job(job), chunk_size(job)) for job in jobs]
    work = StreamedJobs(plans, stream.prepare, make)
    made = sum(work.run(iter(stream), 1))
    for job in jobs:
        finish_job(job, work.found[job.name])
    return made, work.found


def pixels(folder, name):
    data = json.loads((folder / f"{name}.json").read_text())
    images = np.load(folder / f"{name}_images.npy")
    assert [i["id"] for i in data["images"]] == list(range(len(images)))
    assert len(data["annotations"]) == len(images) == data["info"]["count"]
    return images[:, 0, 0, 0].tolist()


def test_splits_take_their_items_in_order_and_no_more(tmp_path):
    stream = Stream(100)
    assert run(tmp_path, stream) == (11, {"test": 3, "train": 8})
    assert pixels(tmp_path, "test") == [0, 1, 2]
    assert pixels(tmp_path, "train") == [3, 4, 5, 6, 7, 8, 9, 10]
    assert stream.read == 11


@pytest.mark.parametrize("length", [4, 5, 6, 9, 10])
def test_a_stream_that_ends_early(tmp_path, length):
    assert run(tmp_path, Stream(length)) == (length, {"test": 3, "train": length - 3})
    assert pixels(tmp_path, "train") == list(range(3, length))
    assert json.loads((tmp_path / "train.json").read_text())["info"]["asked"] == 8


def test_an_error_keeps_the_chunks_before_it_and_resuming_makes_only_the_rest(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, Stream(6, ZeroDivisionError()))
    assert [p.name for p in sorted((tmp_path / ".train_parts").glob("0*"))] == ["00000000.json"]
    stream = Stream(100)
    # Another chunk size goes on with that of the first run.
    assert run(tmp_path, stream, chunk=5) == (6, {"test": 3, "train": 8})
    assert stream.prepared == [5, 6, 7, 8, 9, 10]
    assert pixels(tmp_path, "train") == list(range(3, 11))


def test_chunks_made_before_count_where_the_stream_is_shorter_now(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, Stream(9, ZeroDivisionError()))
    assert run(tmp_path, Stream(6)) == (0, {"test": 3, "train": 6})
    assert pixels(tmp_path, "train") == [3, 4, 5, 6, 7, 8]


def test_no_more_is_read_than_is_left_to_make(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, Stream(11, ZeroDivisionError()), train=20)
    (tmp_path / ".test_parts" / "00000000.json").unlink()
    for part in (tmp_path / ".train_parts").glob("0*.json"):
        assert json.loads(part.read_text())
    stream = Stream(11)
    assert run(tmp_path, stream, train=20)[1] == {"test": 3, "train": 8}
    assert stream.prepared == [0, 1]
