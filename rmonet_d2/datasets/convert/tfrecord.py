"""Read TFRecord files of ``tf.train.Example`` as streams of NumPy arrays, without TensorFlow.

A TFRecord file is a row of records, usually as one GZIP stream; each is::

    uint64 length, uint32 masked CRC32C of these 8 bytes, data, uint32 masked CRC32C of the data

(little-endian; format as in TensorFlow's documentation of TFRecord). Both checksums of every
record are checked. Memory holds one record at a time, however long the file.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from gzip import BadGzipFile
from typing import BinaryIO

import google_crc32c
import numpy as np
from isal import igzip, isal_zlib

from rmonet_d2.datasets.convert.tf_example import ExampleError, Schema, parse_example
from rmonet_d2.utils.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8
# isal's stub declares an instance where the module has a class.
_DeflateError: type[Exception] = isal_zlib.error  # type: ignore[assignment]

_FETCH_AGAIN = "fetch the file again (a download that broke off or was damaged does this)"
_OTHER_FILE = "check that this is the file you meant, and fetch it again if it is"


class TFRecordError(UserError, RuntimeError):
    """A file that cannot be read to its end; names the file, the record and what to do.

    Records before the one it names were sound.
    """


class _BadRecordError(Exception):
    """What is wrong with a record, and what to do."""


def _error(path: str | os.PathLike, record: int | None, problem: str, advice: str) -> TFRecordError:
    where = f"{os.fspath(path)}: " + ("" if record is None else f"record {record:,}: ")
    return TFRecordError(f"{where}{problem}; {advice}")


def masked_crc32c(data: bytes) -> int:
    """The checksum that TFRecord stores: CRC32C, turned right by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """The stream of a file, decompressed if it begins as GZIP does."""
    with open(path, "rb") as raw:
        begin = raw.read(len(_GZIP_MAGIC))
        raw.seek(0)
        if not begin:
            raise _error(path, None, "the file is empty", _FETCH_AGAIN)
        if begin != _GZIP_MAGIC:
            yield raw
            return
        with igzip.open(raw, "rb") as stream:
            yield stream


def _next_record(stream: BinaryIO, first: bool) -> bytes | None:
    """The next record's data, None at the end of the file.

    Raises:
        _BadRecordError: a damaged record.
        EOFError: the file ends within the record.
    """
    header = stream.read(_HEADER.size)
    if not header:
        return None
    if len(header) < _HEADER.size:
        raise EOFError
    length, checksum = _HEADER.unpack(header)
    if masked_crc32c(header[:8]) != checksum:
        if first:
            found = "a web page" if header.lstrip().startswith(b"<") else "some other file"
            raise _BadRecordError(f"this is {found}, not TFRecords", _OTHER_FILE)
        raise _BadRecordError("corrupted: the checksum of its length is wrong", _FETCH_AGAIN)
    data = stream.read(length)
    end = stream.read(_CHECKSUM.size)
    if len(data) < length or len(end) < _CHECKSUM.size:
        raise EOFError
    if masked_crc32c(data) != _CHECKSUM.unpack(end)[0]:
        raise _BadRecordError("corrupted: the checksum of its data is wrong", _FETCH_AGAIN)
    return data


def read_records(path: str | os.PathLike) -> Iterator[bytes]:
    """Yield the data of each record, decompressed and with both checksums checked.

    Args:
        path: a TFRecord file, compressed with GZIP or not (told by its first bytes).

    Raises:
        OSError: the file cannot be opened or read.
        TFRecordError: empty, truncated or corrupted, or not a TFRecord file.
    """
    number = 0
    with _opened(path) as stream:
        while True:
            try:
                data = _next_record(stream, number == 0)
            except EOFError:
                raise _error(path, number, "truncated: the file ends here", _FETCH_AGAIN) from None
            except (BadGzipFile, _DeflateError) as error:
                problem = f"corrupted: the GZIP data cannot be decompressed ({error})"
                raise _error(path, number, problem, _FETCH_AGAIN) from None
            except _BadRecordError as error:
                raise _error(path, number, *error.args) from None
            if data is None:
                break
            yield data
            # Freed before the next one is read, or each would go to memory that is new.
            del data
            number += 1
    if not number:
        raise _error(path, None, "the file holds no records", _OTHER_FILE)


@contextlib.contextmanager
def naming_record(path: str | os.PathLike, number: int) -> Iterator[None]:
    """Turn an ``ExampleError`` of record ``number`` into a ``TFRecordError`` that names it."""
    try:
        yield
    except ExampleError as error:
        raise _error(path, number, f"not what the schema describes: {error}", _OTHER_FILE) from None


def read_examples(path: str | os.PathLike, schema: Schema) -> Iterator[dict[str, np.ndarray]]:
    """Read a TFRecord file of ``tf.train.Example`` records, one by one.

    Schemas of the Multi-Object Datasets are in ``multi_object.py``.

    Args:
        path: the file, compressed with GZIP or not.
        schema: name -> ``Feature``; features of the file that it does not name are passed over.

    Yields:
        name -> array, for each record; see ``parse_example`` (arrays of kind "bytes" are
        read-only views of the record).

    Raises:
        OSError: the file cannot be opened or read.
        TFRecordError: empty, truncated, corrupted, or not what the schema describes.
    """
    for number, data in enumerate(read_records(path)):
        with naming_record(path, number):
            values = parse_example(data, schema)
        yield values
