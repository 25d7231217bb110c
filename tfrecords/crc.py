"""CRC-32C (Castagnoli), the checksum of TFRecord files.

`google-crc32c` is used where it is installed (some 20 GB/s). Without it NumPy does the work (some 0.4 GB/s), so that
neither another package nor TensorFlow, which takes seconds to import in every worker, is needed to write a record.
"""

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_POLYNOMIAL = 0x82F63B78  # of CRC-32C, bits reversed


def masked(data: bytes) -> int:
    """The CRC-32C of `data`, rotated and offset as TFRecord files store it."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _byte_table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


def _bytewise(data: bytes) -> int:
    table, crc = _byte_table(), 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@functools.cache
def _advance(level: int) -> "tuple[np.ndarray, np.ndarray]":
    """Tables (65536,) of the low and the high half of a register, moved on over `4 * 2**level` zero bytes.

    Moving on is linear over GF(2), so the images of the 32 single bits give all others.
    """
    import numpy as np

    if level == 0:
        columns, table = [], _byte_table()
        for bit in range(32):
            crc = 1 << bit
            for _ in range(4):
                crc = crc >> 8 ^ table[crc & 0xFF]
            columns.append(crc)
    else:
        low, high = _advance(level - 1)
        once = [int(low[1 << b]) if b < 16 else int(high[1 << b - 16]) for b in range(32)]
        columns = [int(low[c & 0xFFFF] ^ high[c >> 16]) for c in once]
    tables = []
    for half in (columns[:16], columns[16:]):
        table = np.zeros(65536, np.uint32)
        for bit, column in enumerate(half):
            table[1 << bit : 2 << bit] = table[: 1 << bit] ^ np.uint32(column)
        tables.append(table)
    return tables[0], tables[1]


def with_numpy(data: bytes) -> int:
    """CRC-32C of `data` in log2(length) array operations: neighbouring words are merged pair by pair."""
    if len(data) < 64:
        return _bytewise(data)
    import numpy as np

    # Zero bytes in front of the register's first ones change nothing, so a length is rounded up there.
    padded = bytearray(-len(data) % 4 + len(data))
    padded[-len(data) :] = data
    start = len(padded) - len(data)
    for i in range(start, start + 4):
        padded[i] ^= 0xFF
    words, level = np.frombuffer(padded, "<u4"), 0
    while len(words) > 1:
        if len(words) % 2:
            words = np.concatenate([np.zeros(1, "<u4"), words])
        halves = words.view("<u2").reshape(-1, 4)  # the low and high half of the left word, then of the right one
        low, high = _advance(level)
        words = low.take(halves[:, 0]) ^ high.take(halves[:, 1]) ^ words[1::2]
        level += 1
    low, high = _advance(0)
    last = int(words[0])
    return int(low[last & 0xFFFF] ^ high[last >> 16]) ^ 0xFFFFFFFF


try:
    from google_crc32c import value as crc32c
except ImportError:
    crc32c = with_numpy
