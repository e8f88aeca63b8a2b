"""Image files that claim to be huge, or are damaged in their header, are unreadable and no more."""

import resource
import struct
import zlib

import pytest

from rmonet_d2.data.image_reader import check_header, read_frames, read_image
from rmonet_d2.utils.errors import UserError


def chunk(kind, data):
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png(width, height, depth=8, color=2, pixels=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def bmp(width, height):
    size = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 60, 0, 0, 54) + size + bytes(6)


def tiff(width, height):
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (262, 3, 1), (273, 4, 8), (279, 4, 9)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


HUGE = {
    "a.png": png(327_680, 327_680),
    "b.png": png(2**31 - 1, 2**31 - 1),
    "c.png": png(50_000, 50_000, 16),
    "d.png": png(2**31, 1),
    "e.bmp": bmp(2**31 - 1, 2**31 - 1),
    "f.bmp": bmp(100_000, -100_000),
    "g.tif": tiff(2**32 - 1, 2**32 - 1),
    "h.tif": tiff(200_000, 200_000),
    "i.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",",
    "j.png": png(64, 64)[:57],
    "k.png": png(0, 0),
    "l.png": png(64, 64, 3, 7),
    "m.jpg": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(40),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_claim_takes_no_memory(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(HUGE[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_image, lambda path: list(read_frames(path))):
        with pytest.raises(UserError, match=name) as error:
            read(path)
        assert "\n" not in str(error.value)
    try:
        check_header(path)
    except UserError as error:
        assert name in str(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2**20
