"""Writes TFRecord files of tf.train.Example by other means than the package reads them.

The protobuf runtime makes the messages, Python's gzip the compression, and a loop over bytes the
checksums.
"""

import functools
import gzip
import struct

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

CRC_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = (_byte >> 1) ^ (0x82F63B78 if _byte & 1 else 0)
    CRC_TABLE.append(_byte)
ONE_BYTE = [bytes([b]) for b in range(256)]


def slow_masked_crc32c(data):
    crc, table = 0xFFFFFFFF, CRC_TABLE
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


@functools.cache
def example_class(packed=True):
    """tf.train.Example, declared here. TensorFlow packs numbers; readers must take both."""
    proto = descriptor_pb2.FileDescriptorProto(name=f"e{packed}.proto", package=f"e{packed}")
    proto.syntax = "proto3"
    field = descriptor_pb2.FieldDescriptorProto

    def message(name, *fields):
        made = proto.message_type.add(name=name)
        for number, (key, kind, repeated) in enumerate(fields, 1):
            added = made.field.add(name=key, number=number)
            added.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if isinstance(kind, str):
                added.type, added.type_name = field.TYPE_MESSAGE, f".e{packed}.{kind}"
            else:
                added.type = kind
                if repeated and kind in (field.TYPE_FLOAT, field.TYPE_INT64):
                    added.options.packed = packed
        return made

    message("BytesList", ("value", field.TYPE_BYTES, True))
    message("FloatList", ("value", field.TYPE_FLOAT, True))
    message("Int64List", ("value", field.TYPE_INT64, True))
    feature = message(
        "Feature",
        ("bytes_list", "BytesList", False),
        ("float_list", "FloatList", False),
        ("int64_list", "Int64List", False),
    )
    feature.oneof_decl.add(name="kind")
    for made in feature.field:
        made.oneof_index = 0
    features = message("Features", ("feature", "Features.Entry", True))
    entry = features.nested_type.add(name="Entry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=field.TYPE_STRING)
    entry.field.add(
        name="value", number=2, label=1, type=field.TYPE_MESSAGE, type_name=f".e{packed}.Feature"
    )
    message("Example", ("features", "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(proto)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"e{packed}.Example"))


def example(values, packed=True):
    """name -> uint8 array (one string per byte), float array, int array, bytes (one string) or a
    list of bytes, as a serialised Example."""
    made = example_class(packed)()
    for name, value in values.items():
        feature = made.features.feature[name]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, list):
            feature.bytes_list.value.extend(value)
        elif value.dtype == np.uint8:
            feature.bytes_list.value.extend(map(ONE_BYTE.__getitem__, value.tobytes()))
        elif value.dtype.kind == "f":
            feature.float_list.value.extend(value.ravel().tolist())
        else:
            feature.int64_list.value.extend(value.ravel().tolist())
    return made.SerializeToString(deterministic=True)


def record(data):
    length = struct.pack("<Q", len(data))
    return b"".join(
        [
            length,
            struct.pack("<I", slow_masked_crc32c(length)),
            data,
            struct.pack("<I", slow_masked_crc32c(data)),
        ]
    )


def write(path, records, compressed=True):
    """Write records that ``record`` made, as one GZIP stream or as they are."""
    if compressed:
        with gzip.open(path, "wb", compresslevel=1) as stream:
            stream.writelines(records)
    else:
        path.write_bytes(b"".join(records))
    return path


def clevr_scene(seed, objects, **changes):
    """Features of a CLEVR record with random discs as objects, the later ones in front."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:240, :320]
    owner = np.zeros((240, 320), np.uint8)
    image = np.empty((240, 320, 3), np.uint8)
    image[:] = (rows // 2 + 60)[..., None]
    for k in range(1, objects + 1):
        y, x, r = rng.integers(60, 200), rng.integers(90, 230), rng.integers(12, 36)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < r**2
        owner[disc] = k
        image[disc] = rng.integers(0, 256, 3)
    exists = np.arange(11) <= objects
    values = {
        "image": image,
        "mask": np.uint8(255) * (owner == np.arange(11)[:, None, None])[..., None],
        "visibility": exists.astype(np.float32),
        "pixel_coords": rng.uniform(0, 320, (11, 3)).astype(np.float32),
    }
    for name in ("x", "y", "z", "rotation"):
        values[name] = rng.uniform(-3, 3, 11).astype(np.float32)
    inside = exists & (np.arange(11) > 0)
    for name, codes in (("size", 2), ("material", 2), ("shape", 3), ("color", 8)):
        values[name] = (rng.integers(1, codes + 1, 11) * inside).astype(np.uint8)
    return {**values, **changes}


def sprites_scene(seed, objects):
    """Features of a Multi-dSprites record with random squares."""
    rng = np.random.default_rng(seed)
    owner = np.zeros((64, 64), np.uint8)
    image = np.full((64, 64, 3), rng.integers(0, 256), np.uint8)
    for k in range(1, objects + 1):
        y, x, side = rng.integers(0, 50), rng.integers(0, 50), rng.integers(8, 15)
        owner[y : y + side, x : x + side] = k
        image[y : y + side, x : x + side] = rng.integers(0, 256, 3)
    values = {
        "image": image,
        "mask": np.uint8(255) * (owner[..., None] == np.arange(6))[..., None],
        "visibility": (np.arange(6) <= objects).astype(np.float32),
        "color": rng.random((6, 3)).astype(np.float32),
    }
    for name in ("x", "y", "orientation", "scale"):
        values[name] = rng.random(6).astype(np.float32)
    values["shape"] = rng.integers(1, 4, 6).astype(np.float32)
    return values
