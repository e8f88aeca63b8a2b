"""Reads TFRecord files of ``tf.train.Example`` as streams of NumPy arrays, without TensorFlow.

A TFRecord file is a sequence of records, usually compressed as one GZIP stream. Each record is::

    uint64 length, uint32 masked CRC32C of these 8 bytes, data, uint32 masked CRC32C of the data

(little-endian; see TensorFlow's documentation of TFRecord). Both checksums of every record are
verified. Only one record at a time is in memory, however long the file is.
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
# Longest record that is read, in bytes. One of CLEVR takes 3.3 million. A length is checked before
# memory is allocated for it, because a small compressed file can hold a huge record.
MAX_RECORD = 64 * 2**20
# isal's stub declares an instance where the module has a class.
_DeflateError: type[Exception] = isal_zlib.error  # type: ignore[assignment]

_FETCH_AGAIN = "download the file again (the download may have been incomplete or damaged)"
_OTHER_FILE = "check that this is the right file, and download it again if it is"


class TFRecordError(UserError, RuntimeError):
    """A file cannot be read to its end; the message names the record and says what to do.

    All records before that one were sound.
    """


class _BadRecordError(Exception):
    """A record is damaged; the arguments are the problem and what to do about it."""


def _error(path: str | os.PathLike, record: int | None, problem: str, advice: str) -> TFRecordError:
    where = f"{os.fspath(path)}: " + ("" if record is None else f"record {record:,}: ")
    return TFRecordError(f"{where}{problem}; {advice}")


def masked_crc32c(data: bytes) -> int:
    """Return the checksum of TFRecord: CRC32C, rotated right by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a file as a stream, which is decompressed if the file begins like GZIP."""
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
    """Return the data of the next record, or None at the end of the file.

    Raises:
        _BadRecordError: the record is damaged.
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
    if length > MAX_RECORD:
        raise _BadRecordError(
            f"claims to be {length:,} bytes long, and at most {MAX_RECORD:,} are read", _OTHER_FILE
        )
    data = stream.read(length)
    end = stream.read(_CHECKSUM.size)
    if len(data) < length or len(end) < _CHECKSUM.size:
        raise EOFError
    if masked_crc32c(data) != _CHECKSUM.unpack(end)[0]:
        raise _BadRecordError("corrupted: the checksum of its data is wrong", _FETCH_AGAIN)
    return data


def read_records(path: str | os.PathLike) -> Iterator[bytes]:
    """Yield the data of each record, decompressed and with both checksums verified.

    Args:
        path: a TFRecord file, with or without GZIP compression, which its first bytes tell.

    Raises:
        OSError: the file cannot be opened or read.
        TFRecordError: the file is empty, truncated, corrupted, or not a TFRecord file.
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
            # Free the record before reading the next one, so that its memory is reused.
            del data
            number += 1
    if not number:
        raise _error(path, None, "the file holds no records", _OTHER_FILE)


@contextlib.contextmanager
def naming_record(path: str | os.PathLike, number: int) -> Iterator[None]:
    """Convert an ``ExampleError`` in record ``number`` to a ``TFRecordError`` that names it."""
    try:
        yield
    except ExampleError as error:
        raise _error(path, number, f"not what the schema describes: {error}", _OTHER_FILE) from None


def read_examples(path: str | os.PathLike, schema: Schema) -> Iterator[dict[str, np.ndarray]]:
    """Read a TFRecord file of ``tf.train.Example`` records, one by one.

    The schemas of the Multi-Object Datasets are in ``schemas.py``.

    Args:
        path: the file, with or without GZIP compression.
        schema: {name: ``Feature``}; features that it does not name are skipped.

    Yields:
        {name: array} for each record, see ``parse_example``. Arrays of kind "bytes" are read-only
        views of the record.

    Raises:
        OSError: the file cannot be opened or read.
        TFRecordError: the file is empty, truncated, corrupted, or does not match the schema.
    """
    for number, data in enumerate(read_records(path)):
        with naming_record(path, number):
            values = parse_example(data, schema)
        yield values
