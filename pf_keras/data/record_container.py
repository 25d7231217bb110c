"""The TFRecord container format: framing records, and finding damaged ones.

A record is its length (8 bytes), a checksum of the length (4), the data, and a checksum of the data (4), all little-endian.
TensorFlow's own reader does not report the file and position of a damaged record; this one does.
"""

import struct
from collections.abc import Iterator

import google_crc32c

from pf_keras.errors import UserError
from pf_keras.filesystem import ReadAt

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
HEADER = _LENGTH.size + _CHECKSUM.size
FOOTER = _CHECKSUM.size
_COMPRESSED = b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"  # first bytes of GZIP and ZLIB files
DECOMPRESS = "Write it again without compression, for GZIP by gzip -dc OLD > NEW."
_MAX_RECORD = 1 << 31  # bytes; TensorFlow cannot parse longer records either


def masked_crc(data: bytes) -> int:
    """The CRC-32C of some bytes, rotated and offset as TFRecord files store it."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> tuple[bytes, bytes, bytes]:
    """A record as three pieces to write one after another. Pieces avoid a copy of the data."""
    length = _LENGTH.pack(len(data))
    return length + _CHECKSUM.pack(masked_crc(length)), data, _CHECKSUM.pack(masked_crc(data))


def spans(read: ReadAt, size: int, path: str) -> Iterator[tuple[int, int]]:
    """Find the records of a file by their lengths alone, without reading or checking the data.

    Args:
        read: reads the file at any offset, from `filesystem.random_access`.
        size: of the file in bytes.
        path: names the file in errors.

    Yields:
        `(offset, length)` of each record's data in bytes.

    Raises:
        UserError: a length fails its checksum, or the file ends inside a record. Names the record and its position.
    """
    position, number = 0, 0
    while position < size:
        header = read(position, HEADER)
        where = f"{path}: record {number} at byte {position}"
        if len(header) < HEADER:
            raise UserError(f"{where}: the file is truncated: it ends at byte {size}, inside the record's header")
        length = _LENGTH.unpack_from(header)[0]
        if _CHECKSUM.unpack_from(header, 8)[0] != masked_crc(header[:8]) or length > _MAX_RECORD:
            if not position and header.startswith(_COMPRESSED):
                kind = "GZIP" if header.startswith(_COMPRESSED[0]) else "ZLIB"
                raise UserError(f"{path} is compressed with {kind}. {DECOMPRESS}")
            raise UserError(f"{where}: the checksum of its length does not match: damaged, or not a TFRecord file")
        end = position + HEADER + length + FOOTER
        if end > size:
            raise UserError(f"{where}: the file is truncated: it ends at byte {size}, the record at byte {end}")
        yield position + HEADER, length
        position = end
        number += 1


def read_data(read: ReadAt, offset: int, length: int) -> bytes | None:
    """Read the data of a record found by `spans`. Returns None if the checksum does not match."""
    data = read(offset, length + FOOTER)
    stored = _CHECKSUM.unpack_from(data, length)[0]
    data = data[:length]
    return data if masked_crc(data) == stored else None
