"""A writer of 7z archives: one folder, packed by one method."""

import bz2
import struct
import zlib
from collections.abc import Mapping

#: How 7-Zip names the methods, and who packs by them.
METHODS = {"bzip2": b"\x04\x02\x02", "deflate": b"\x04\x01\x08"}


def seven_zip(files: Mapping[str, bytes], method: str = "bzip2") -> bytes:
    """Return an archive of these files."""
    content = b"".join(files.values())
    if method == "bzip2":
        data = bz2.compress(content)
    else:
        packer = zlib.compressobj(wbits=-15)
        data = packer.compress(content) + packer.flush()
    *sizes, _ = map(len, files.values())
    names = b"".join(name.encode("utf-16-le") + b"\0\0" for name in files)
    header = b"".join(
        (
            b"\x01\x04",
            b"\x06" + _number(0) + _number(1) + b"\x09" + _number(len(data)) + b"\0",
            b"\x07\x0b" + _number(1) + b"\0\x01\x03" + METHODS[method],
            b"\x0c" + _number(len(content)) + b"\0",
            b"\x08\x0d" + _number(len(files)) + (b"\x09" if sizes else b"") + b"".join(map(_number, sizes)),
            b"\x0a\x01" + b"".join(struct.pack("<I", zlib.crc32(file)) for file in files.values()) + b"\0\0",
            b"\x05" + _number(len(files)) + b"\x11" + _number(len(names) + 1) + b"\0" + names + b"\0\0",
        )
    )
    return framed(data, header)


def framed(data: bytes, header: bytes) -> bytes:
    """Return an archive of packed data and a list of contents."""
    start = struct.pack("<QQI", len(data), len(header), zlib.crc32(header))
    return b"7z\xbc\xaf\x27\x1c\0\4" + struct.pack("<I", zlib.crc32(start)) + start + data + header


def _number(value: int) -> bytes:
    return b"\xff" + struct.pack("<Q", value)
