"""The TFRecord container: how a record is framed, and a reader that says where a damaged one stands.

A record is its length (8 bytes), the length's checksum (4), the data, the data's checksum (4); all little-endian.
TensorFlow's own reader names neither the file nor the position of a damaged record, hence this one.
"""

import struct
from collections.abc import Iterator

import google_crc32c

from tfrecords.errors import UserError
from tfrecords.filesystem import ReadAt

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
HEADER = _LENGTH.size + _CHECKSUM.size
FOOTER = _CHECKSUM.size
_LARGEST = 1 << 31  # bytes of a record; TensorFlow cannot parse a longer one either


def masked(data: bytes) -> int:
    """The CRC-32C of `data`, rotated and offset as TFRecord files store it."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> tuple[bytes, bytes, bytes]:
    """A record as the three pieces to be written one behind the other."""
    length = _LENGTH.pack(len(data))
    return length + _CHECKSUM.pack(masked(length)), data, _CHECKSUM.pack(masked(data))


def spans(read: ReadAt, size: int, path: str) -> Iterator[tuple[int, int]]:
    """`(offset, length)` of the data of each record, by the lengths alone: the data are neither read nor checked.

    Raises UserError, naming the record and its position, for a length that fails its checksum and for a file that ends
    inside a record.
    """
    position, number = 0, 0
    while position < size:
        header = read(position, HEADER)
        where = f"{path}: record {number} at byte {position}"
        if len(header) < HEADER:
            raise UserError(f"{where}: the file is truncated: {size} bytes, which end inside the record's header")
        length = _LENGTH.unpack_from(header)[0]
        if _CHECKSUM.unpack_from(header, 8)[0] != masked(header[:8]) or length > _LARGEST:
            raise UserError(f"{where}: the checksum of its length does not match: damaged, or not a TFRecord file")
        if position + HEADER + length + FOOTER > size:
            raise UserError(
                f"{where}: the file is truncated: the record needs {position + HEADER + length + FOOTER} bytes, "
                f"the file has {size}"
            )
        yield position + HEADER, length
        position += HEADER + length + FOOTER
        number += 1


def read_data(read: ReadAt, offset: int, length: int) -> bytes | None:
    """A record's data, or None where they fail their checksum."""
    data = read(offset, length + FOOTER)
    stored = _CHECKSUM.unpack_from(data, length)[0]
    data = data[:length]
    return data if masked(data) == stored else None
