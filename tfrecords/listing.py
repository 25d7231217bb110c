"""File names and labels of all records, without reading an image: only the fields between them are touched."""

from collections.abc import Sequence

from tfrecords import filesystem as fs
from tfrecords import pool, records, schema
from tfrecords.errors import UserError
from tfrecords.filesystem import ReadAt

_BUFFER = 1024  # bytes read at once; all fields of a record but the image fit
_LARGEST_FIELD = 1 << 20  # bytes of a name or a label


def read_listing(paths: Sequence[str], processes: int) -> tuple[list[str], list[int]]:
    """The names and labels of all records of some shards, in their order.

    Labels are as stored, counting from 1, or `schema.NO_LABEL`. Raises UserError for a file that is truncated, or holds
    no tf.train.Example.
    """
    parts = sorted(pool.run(_read_shard, enumerate(paths), processes))
    rows = [row for _, part in parts for row in part]
    return [name for name, _ in rows], [label for _, label in rows]


def _read_shard(task: tuple[int, str]) -> tuple[int, list[tuple[str, int]]]:
    number, path = task
    rows = []
    with fs.random_access(path) as (read, size):
        for offset, length in records.spans(read, size, path):
            try:
                name, label = _name_and_label(read, offset, length)
            except (ValueError, IndexError) as error:
                where = f"{path}: record {len(rows)} at byte {offset - records.HEADER}"
                raise UserError(f"{where}: expected a tf.train.Example, received something else ({error})") from None
            rows.append((name, label))
    return number, rows


class _Cursor:
    """A place in a record that moves forward, reading a little ahead."""

    def __init__(self, read: ReadAt, start: int, end: int):
        self._read, self.position, self._end = read, start, end
        self._buffer, self._start = b"", start

    def take(self, count: int) -> bytes:
        if count > _LARGEST_FIELD or self.position + count > self._end:
            raise ValueError(f"a field of {count} bytes")
        at = self.position - self._start
        if not 0 <= at <= len(self._buffer) - count:
            self._buffer = self._read(self.position, min(max(_BUFFER, count), self._end - self.position))
            self._start, at = self.position, 0
        self.position += count
        return self._buffer[at : at + count]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("an endless number")

    def length_of(self, tag: int) -> int:
        found = self.varint()
        if found != tag:
            raise ValueError(f"tag {found} for {tag}")
        return self.varint()


def _name_and_label(read: ReadAt, offset: int, length: int) -> tuple[str, int]:
    """Walks the wire format: Example.features = 1, Features.feature = 1, its entries' key = 1 and value = 2."""
    cursor = _Cursor(read, offset, offset + length)
    name, label = "", schema.NO_LABEL
    end = cursor.length_of(0x0A) + cursor.position if length else offset  # an empty message has no bytes at all
    feature = schema.messages()[1]
    while cursor.position < end:
        entry_end = cursor.length_of(0x0A) + cursor.position
        if entry_end > offset + length:
            raise ValueError("an entry beyond the record's end")
        key = cursor.take(cursor.length_of(0x0A))
        if key in (schema.FILENAME.encode(), schema.LABEL.encode()):
            value = schema.decoded(feature, cursor.take(cursor.length_of(0x12)))
            if key == schema.LABEL.encode():
                label = next(iter(value.int64_list.value), label)
            else:
                name = next(iter(value.bytes_list.value), b"").decode("utf-8", "backslashreplace")
        cursor.position = entry_end
    return name, label
