import numpy as np
import pytest
from tfrecord_files import example, example_class

from rmonet_d2.datasets.convert.tf_example import ExampleError, Feature, parse_example


@pytest.mark.parametrize("count", [1, 2, 11, 127, 128, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("packed", [True, False])
def test_values_equal_those_the_protobuf_runtime_wrote(count, packed):
    rng = np.random.default_rng(count)
    shapes = [(count,), (1, count, 1)]
    values = {
        "bytes": rng.integers(0, 256, count, dtype=np.uint8),
        "plain": rng.integers(0, 256, count, dtype=np.uint8),
        "floats": rng.normal(size=count).astype(np.float32),
        "ints": rng.integers(-(2**63), 2**63, count) >> rng.integers(0, 64, count),
    }
    data = example({**values, "plain": values["plain"].tobytes(), "other": b"xyz"}, packed)
    for shape in shapes:
        kinds = {"bytes": "bytes", "plain": "bytes", "floats": "float", "ints": "int64"}
        found = parse_example(data, {n: Feature(shape, k) for n, k in kinds.items()})
        assert list(found) == list(kinds)
        for name, value in values.items():
            assert found[name].dtype == value.dtype and found[name].shape == shape
            assert np.array_equal(found[name].ravel(), value)


def test_extreme_integers():
    values = np.array([0, 1, -1, 127, 128, 2**63 - 1, -(2**63)])
    found = parse_example(example({"a": values}), {"a": Feature((7,), "int64")})["a"]
    assert np.array_equal(found, values)


@pytest.mark.parametrize("count", [4, 1024, 3000])
def test_strings_of_other_lengths_never_pass_as_bytes(count):
    rng = np.random.default_rng(0)
    schema = {"a": Feature((count,))}
    for place in {0, 1, count // 2, count - 2}:
        strings = [bytes([b]) for b in rng.integers(0, 256, count).tolist()]
        # As long on the wire as the strings of one byte that they replace.
        strings[place : place + 2] = [b"xy", b""]
        data = example({"a": strings})
        assert len(data) == len(example({"a": [b"x"] * count}))
        with pytest.raises(ExampleError, match="strings of up to 2 bytes instead of 1 byte"):
            parse_example(data, schema)


def test_every_marker_byte_is_looked_at():
    count = 2 * 1024 + 5
    data = bytearray(example({"a": np.zeros(count, np.uint8)}))
    schema = {"a": Feature((count,))}
    start = len(data) - 3 * count
    for place in np.random.default_rng(1).permutation(3 * count)[:400].tolist():
        changed = bytearray(data)
        changed[start + place] ^= 0x10
        if place % 3 == 2:
            assert parse_example(bytes(changed), schema)["a"][place // 3] == 0x10
        else:
            with pytest.raises(ExampleError):
                parse_example(bytes(changed), schema)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"b": Feature((4,))}, "no feature 'b'; it holds a, f, i$"),
        ({"a": Feature((5,))}, "'a' holds 4 bytes in 4 strings instead of 5 strings of 1 byte"),
        ({"a": Feature((3,))}, "'a' holds 4 bytes in 4 strings instead of 3"),
        ({"a": Feature((4,), "float")}, "'a' holds bytes values instead of float"),
        ({"f": Feature((4,), "int64")}, "'f' holds float values instead of int64"),
        ({"f": Feature((4,))}, "'f' holds float values instead of bytes"),
        ({"f": Feature((2, 3), "float")}, "'f' holds 4 values instead of 6"),
        ({"i": Feature((3,), "int64")}, "'i' holds 4 values instead of 3"),
    ],
)
def test_what_does_not_fit_the_schema_is_named(schema, message):
    values = {"a": np.zeros(4, np.uint8), "f": np.zeros(4, np.float32), "i": np.arange(4)}
    with pytest.raises(ExampleError, match=message):
        parse_example(example(values), schema)


def test_an_empty_feature_and_an_unknown_kind():
    made = example_class()()
    made.features.feature["a"].SetInParent()
    for kind in ("float", "int64"):
        with pytest.raises(ExampleError, match="'a' holds 0 values instead of 2"):
            parse_example(made.SerializeToString(), {"a": Feature((2,), kind)})
    with pytest.raises(ValueError, match="kind is 'uint8'"):
        Feature((2,), "uint8")


def test_damaged_messages_are_clear_errors_or_read_without_harm():
    rng = np.random.default_rng(2)
    values = {"a": rng.integers(0, 256, 20, dtype=np.uint8), "f": rng.random(3), "i": np.arange(9)}
    whole = example(values)
    schema = {"a": Feature((20,)), "f": Feature((3,), "float"), "i": Feature((9,), "int64")}
    refused = 0
    for _ in range(3000):
        data = bytearray(whole[: rng.integers(len(whole))] if rng.random() < 0.3 else whole)
        for place in rng.integers(0, len(data), rng.integers(0, 4)) if data else []:
            data[place] = rng.integers(256)
        try:
            found = parse_example(bytes(data), schema)
            assert {n: v.shape for n, v in found.items()} == {"a": (20,), "f": (3,), "i": (9,)}
        except ExampleError:
            refused += 1
    assert refused > 500
