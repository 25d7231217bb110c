"""File names, labels and places of all records, read without the images between them."""

from collections.abc import Sequence

from pf_keras import filesystem as fs
from pf_keras import processes
from pf_keras.data import record_container, record_schema
from pf_keras.errors import UserError
from pf_keras.filesystem import ReadAt

_MAX_FIELD = 16 << 10  # bytes; a larger field of a record is its image
_ENTRY = 0x0A  # the tag of field 1, bytes: `Example.features`, and `Features.feature` in it


def read_listing(paths: Sequence[str], workers: int) -> tuple[list[str], list[int], list[tuple[str, int, int]]]:
    """Read the names and labels of all records, and where they are.

    Args:
        paths: shard files.
        workers: the number of processes.

    Returns:
        Names, labels and places in the order of the records. Labels are as stored, from 1, or `record_schema.NO_LABEL`. A
        place is the path of a shard, and the offset and length of a record's data in bytes.

    Raises:
        UserError: a file is truncated, or a record is not a tf.train.Example.
    """
    parts = dict(processes.run(_read_shard, paths, workers))
    rows = [(name, label, (path, *span)) for path in paths for name, label, span in parts[path]]
    return [name for name, _, _ in rows], [label for _, label, _ in rows], [place for _, _, place in rows]


def _read_shard(path: str) -> tuple[str, list[tuple[str, int, tuple[int, int]]]]:
    rows = []
    with fs.random_access(path) as (read, size):
        for offset, length in record_container.spans(read, size, path):
            try:
                values = record_schema.read_features(_small_fields(read, offset, length))
            except ValueError as error:
                where = f"{path}: record {len(rows)} at byte {offset - record_container.HEADER}"
                raise UserError(f"{where} is not a tf.train.Example ({error}). Write the shard again.") from None
            rows.append((*record_schema.name_and_label(values), (offset, length)))
    return path, rows


def _small_fields(read: ReadAt, offset: int, length: int) -> bytes:
    """The serialized Features message of a record without its image."""
    position, end = offset, offset + length
    if length:  # an empty Example has no bytes at all
        position, end = _field(read, position, end)
    parts = []
    while position < end:
        _, after = _field(read, position, end)
        if after - position <= _MAX_FIELD:
            parts.append(read(position, after - position))
        position = after
    return b"".join(parts)


def _field(read: ReadAt, position: int, end: int) -> tuple[int, int]:
    """Where the content of the field at `position` begins and ends. Its head is a tag and its length in base 128."""
    head = read(position, min(10, end - position))
    length = 0
    for place, byte in enumerate(head[1:]):
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            start = position + place + 2
            if head[0] != _ENTRY or start + length > end:
                break
            return start, start + length
    raise ValueError(f"unexpected bytes at {position}")
