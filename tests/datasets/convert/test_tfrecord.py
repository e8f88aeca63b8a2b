import gzip
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from tfrecord_files import example, record, slow_masked_crc32c, write

from rmonet_d2.datasets.convert import schemas as multi_object
from rmonet_d2.datasets.convert.tf_example import Feature
from rmonet_d2.datasets.convert.tfrecord import (
    MAX_RECORD,
    TFRecordError,
    masked_crc32c,
    read_examples,
    read_records,
)

SCHEMA = {"a": Feature((2, 50)), "f": Feature((3,), "float"), "i": Feature((2,), "int64")}


def values_of(number):
    rng = np.random.default_rng(number)
    return {
        "a": rng.integers(0, 256, (2, 50), dtype=np.uint8),
        "f": rng.normal(size=3).astype(np.float32),
        "i": rng.integers(-(10**12), 10**12, 2),
    }


@pytest.fixture(scope="module")
def records():
    return [record(example(values_of(n))) for n in range(12)]


def test_the_checksum_equals_a_loop_over_bytes():
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 7, 8, 63, 64, 1000):
        data = rng.bytes(size)
        assert masked_crc32c(data) == slow_masked_crc32c(data)
    # RFC 3720, B.4: CRC32C of 32 zero bytes is 8a9136aa.
    assert slow_masked_crc32c(bytes(32)) == ((0x8A9136AA >> 15 | 0x8A9136AA << 17) + 0xA282EAD8) % (
        2**32
    )


@pytest.mark.parametrize("compressed", [True, False])
def test_examples_equal_what_another_writer_wrote(tmp_path, records, compressed):
    path = write(tmp_path / "a.tfrecords", records, compressed)
    found = list(read_examples(path, SCHEMA))
    assert len(found) == 12
    for number, values in enumerate(found):
        for name, value in values_of(number).items():
            assert np.array_equal(values[name], value) and values[name].dtype == value.dtype
    assert list(next(read_examples(str(path), {"i": SCHEMA["i"]}))) == ["i"]


def test_gzip_members_one_after_the_other(tmp_path, records):
    path = tmp_path / "a.tfrecords"
    path.write_bytes(b"".join(gzip.compress(r) for r in records))
    assert len(list(read_records(path))) == 12


def read_until_error(path, schema=SCHEMA):
    """Records read, and the message of the error that ended it."""
    number = 0
    with pytest.raises(TFRecordError) as error:
        for number, values in enumerate(read_examples(path, schema), 1):
            assert np.array_equal(values["a"], values_of(number - 1)["a"])
    message = str(error.value)
    assert str(path) in message and "; " in message
    assert "download" in message or "check that this is the right file" in message
    return number, message


def test_a_file_cut_anywhere(tmp_path, records):
    whole = b"".join(records)
    ends = np.cumsum([len(r) for r in records])
    for cut in np.random.default_rng(0).integers(1, len(whole), 60).tolist():
        path = tmp_path / "cut.tfrecords"
        path.write_bytes(whole[:cut])
        if cut in ends:
            assert len(list(read_records(path))) == np.searchsorted(ends, cut) + 1
            continue
        number, message = read_until_error(path)
        assert number == np.searchsorted(ends, cut)
        assert f"record {number}: truncated" in message


def test_a_gzip_stream_cut_anywhere(tmp_path):
    # Random bytes do not compress, so that places in both streams correspond.
    data = np.random.default_rng(0).integers(0, 256, (30, 30000), dtype=np.uint8)
    made = [record(example({"a": row.tobytes()})) for row in data]
    whole = write(tmp_path / "a.tfrecords", made).read_bytes()
    for share in (0.02, 0.3, 0.77, 0.999):
        path = tmp_path / "cut.tfrecords"
        path.write_bytes(whole[: int(len(whole) * share)])
        number = 0
        with pytest.raises(TFRecordError, match=r"cut\.tfrecords: record \d+: truncated") as error:
            for number, values in enumerate(read_examples(path, {"a": Feature((30000,))}), 1):
                assert np.array_equal(values["a"], data[number - 1])
        assert f"record {number}: " in str(error.value)
        # Nothing that arrived whole is lost.
        assert number >= int(30 * share) - 1


def test_any_byte_changed_in_an_uncompressed_file_is_noticed(tmp_path, records):
    whole = b"".join(records[:3])
    path = tmp_path / "bad.tfrecords"
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        number, message = read_until_error(path)
        assert number == np.searchsorted(np.cumsum([len(r) for r in records]), place, "right")
        assert "corrupted" in message or number == 0


@pytest.mark.parametrize(
    ("place", "what"), [(3, "length"), (9, "length"), (40, "data"), (-2, "data")]
)
def test_wrong_checksums_in_a_sound_gzip_stream(tmp_path, records, place, what):
    changed = bytearray(records[5])
    changed[place] ^= 4
    path = write(tmp_path / "bad.tfrecords", [*records[:5], bytes(changed), *records[6:]])
    number, message = read_until_error(path)
    assert number == 5
    assert f"record 5: corrupted: the checksum of its {what} is wrong" in message


def test_damaged_gzip_data(tmp_path, records):
    whole = bytearray(write(tmp_path / "a.tfrecords", records).read_bytes())
    for place in (len(whole) // 2, len(whole) - 6):
        changed = bytearray(whole)
        changed[place : place + 2] = b"\xff\xff" if changed[place] != 255 else b"\0\0"
        path = tmp_path / "bad.tfrecords"
        path.write_bytes(changed)
        number, message = read_until_error(path)
        assert f"record {number}: corrupted" in message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\n <!DOCTYPE html><html><body>404</body></html>", "record 0: this is a web page"),
        (b"PK\3\4" + bytes(100), "record 0: this is some other file, not TFRecords"),
        (gzip.compress(b"ustar tar archive" * 50), "record 0: this is some other file"),
        (gzip.compress(b"<html>" + b"x" * 600), "record 0: this is a web page"),
        (gzip.compress(b""), "holds no records"),
        (b"\x1f\x8b", "record 0: truncated"),
        (b"\x1f\x8bnot gzip at all, only its magic", "record 0: corrupted"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path, data, message):
    path = tmp_path / "other.tfrecords"
    path.write_bytes(data)
    assert message in read_until_error(path)[1]


def test_a_file_of_another_data_set(tmp_path, records):
    path = write(tmp_path / "a.tfrecords", records)
    _, message = read_until_error(path, multi_object.OBJECTS_ROOM)
    assert "record 0: not what the schema describes: there is no feature 'image'" in message
    assert "it holds a, f, i; check that this is the right file" in message
    _, message = read_until_error(path, {"a": Feature((99,))})
    assert "feature 'a' holds 100 bytes in 100 strings instead of 99" in message


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.tfrecords"):
        next(read_examples(tmp_path / "none.tfrecords", SCHEMA))


@pytest.mark.parametrize("name", ["TETROMINOES", "OBJECTS_ROOM"])
def test_the_other_files_of_the_family_need_a_schema_only(tmp_path, name):
    schema = getattr(multi_object, name)
    rng = np.random.default_rng(0)
    values = {
        key: rng.integers(0, 256, feature.shape, dtype=np.uint8)
        if feature.kind == "bytes"
        else rng.random(feature.shape).astype(np.float32)
        for key, feature in schema.items()
    }
    path = write(tmp_path / "a.tfrecords", [record(example(values))] * 2)
    for found in read_examples(path, schema):
        assert all(np.array_equal(found[key], values[key]) for key in values)


def test_memory_does_not_grow_with_the_file(tmp_path):
    one = record(example({"a": np.zeros(50_000, np.uint8)}))
    peaks = []
    for count in (10, 300):
        path = write(tmp_path / "a.tfrecords", [one] * count)
        tracemalloc.start()
        assert sum(1 for _ in read_examples(path, {"a": Feature((50_000,))})) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(one) * 300 > 40e6
    assert peaks[1] < peaks[0] + len(one)


def test_errors_survive_pickling():
    assert str(pickle.loads(pickle.dumps(TFRecordError("a: record 1")))) == "a: record 1"


@pytest.mark.parametrize("length", [2**64 - 1, 2**40, MAX_RECORD + 1])
def test_a_huge_length_with_a_valid_checksum_takes_no_memory(tmp_path, length):
    number = struct.pack("<Q", length)
    header = number + struct.pack("<I", slow_masked_crc32c(number))
    path = tmp_path / "huge.tfrecords"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(header + bytes(10_000_000))
    tracemalloc.start()
    count, message = read_until_error(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 0 and f"record 0: claims to be {length:,} bytes long" in message
    assert peak < 5e6
