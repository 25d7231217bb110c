"""Makes one shard: writes it under a temporary name, renames it when it is whole, then notes that it is done.

A worker of the process pool and a worker of a Beam pipeline run the same function. It does not depend on other shards.
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
from collections import Counter
from collections.abc import Callable

from pf_keras import filesystem as fs
from pf_keras.data import record_container, record_schema
from pf_keras.data.shard_files import WORK
from pf_keras.errors import UserError
from tfrecords.encode import CorruptImage, prepare

# About how large a shard of a folder is. A shard has ten images or more, because the last one may be held out for validation.
_SHARD_IMAGES, _SHARD_BYTES, _LEAST_IMAGES, _MOST_SHARDS = 1000, 100_000_000, 10, 1024


def shard_count(images: int, size: int, resized: bool = False) -> int:
    """A sensible number of shards for so many images of so many bytes, which say nothing where images are resized."""
    count = max(math.ceil(images / _SHARD_IMAGES), 0 if resized else math.ceil(size / _SHARD_BYTES))
    return max(1, min(count, images // _LEAST_IMAGES, _MOST_SHARDS))


def shard_name(split: str, number: int, count: int) -> str:
    """The file name of shard `number` of `count`."""
    return f"{split}-{number:05d}-of-{count:05d}"


def note_path(output: str, file: str) -> str:
    """The path of the note that a shard is done."""
    return fs.join(output, WORK, file + ".json")


def make_shard(task: dict) -> dict:
    """Make a shard, unless an earlier build made it.

    Args:
        task: JSON: `output`, `file`, `resize_shorter`, `quality`, `max_pixels`, `skip_bad`, `items` as rows of `Index.shards`,
            `classes` as `{synset: [label, text]}`, and `done`, the note of an earlier build or None.

    Returns:
        The note, as JSON: `file`, `records`, `bytes`, `sha256`, `odd` (counts) and `bad` (`[name, reason, synset]` rows). If
        there are corrupt files and `skip_bad` is not set, no shard is written and `sha256` is None. On disk the note has
        `made_of` too, a digest of the items, so that a shard is made again when they change.
    """
    return make_noted(task, _digest_of(task["items"], task["classes"]), _write)


def make_noted(task: dict, made_of: str, write: Callable[[dict, str], dict]) -> dict:
    """Make a shard and note that it is done, unless an earlier command made it of the same.

    Args:
        task: JSON, with at least `output`, `file` and `done` as for `make_shard`.
        made_of: a digest of what the shard is made of.
        write: a function `write(task, path)` that writes the shard and returns its note.

    Returns:
        The note.
    """
    path = fs.join(task["output"], task["file"])
    temporary = fs.join(task["output"], WORK, f"{task['file']}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    note = dict(task["done"] or {})
    same = note.pop("made_of", made_of) == made_of
    done = bool(note) and same and _is_whole(path, note)
    if not done or note["bad"]:  # a corrupt file may have been repaired since
        earlier = note.get("sha256") if done else None
        try:
            note = write(task, temporary)
        except BaseException:
            with contextlib.suppress(OSError):
                fs.remove(temporary)  # or it would take room on a full disk
            raise
        if note["sha256"] in (None, earlier):
            fs.remove(temporary)
        else:
            fs.replace(temporary, path)
    noted = json.dumps({**note, "made_of": made_of}).encode()
    fs.write_whole(note_path(task["output"], task["file"]), noted, temporary)
    return note


def _digest_of(items: list, classes: dict) -> str:
    """sha256 over everything in a shard's records except pixels: names, sizes, labels and class names."""
    named = [(name, size, synset) for name, _, _, size, synset in items]
    return hashlib.sha256(json.dumps([named, classes], sort_keys=True).encode()).hexdigest()


def _is_whole(path: str, note: dict) -> bool:
    return note["sha256"] and fs.exists(path) and fs.size(path) == note["bytes"] and fs.sha256(path) == note["sha256"]


def _write(task: dict, path: str) -> dict:
    """Write the records and return the note. After a corrupt file that may not be skipped, only look for more."""
    digest, odd, bad, size, count = hashlib.sha256(), Counter(), [], 0, 0
    refused, options = False, {option: task[option] for option in ("resize_shorter", "quality", "max_pixels")}
    with fs.open_file(path, "wb") as file:
        for name, source, offset, length, synset in task["items"]:
            try:
                image = prepare(_read(source, offset, length), name, **options)
            except CorruptImage as error:
                bad.append([name, str(error), synset])
                refused = not task["skip_bad"]
                continue
            fields = dict(vars(image))
            odd.update(fields.pop("oddities"))
            if refused:
                continue
            label, text = task["classes"][synset] if synset is not None else (None, "")
            record = record_schema.make_example(**fields, filename=name, label=label, synset=synset or "", text=text)
            for piece in record_container.frame(record):
                file.write(piece)
                digest.update(piece)
                size += len(piece)
            count += 1
    return {
        "file": task["file"],
        "records": count,
        "bytes": size,
        "sha256": None if refused else digest.hexdigest(),
        "odd": dict(sorted(odd.items())),
        "bad": bad,
    }


def _read(path: str, offset: int, size: int) -> bytes:
    """The bytes of an image in a file or an archive."""
    try:
        with fs.open_file(path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    except (FileNotFoundError, PermissionError) as error:
        if offset or not os.path.isdir(os.path.dirname(path)):  # an archive or a whole folder is gone
            raise
        raise CorruptImage(f"it cannot be read ({error.strerror})") from None
    if len(data) != size:
        raise UserError(f"{path} changed since it was listed ({len(data)} of {size} bytes at {offset}). Run the build again.")
    return data
