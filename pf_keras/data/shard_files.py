"""The shard files of a dataset: their names, the manifest, and how many records they hold."""

import concurrent.futures
import itertools
import os
import re
from collections.abc import Sequence

from pf_keras import filesystem as fs
from pf_keras.data import record_container
from pf_keras.data.record_container import DECOMPRESS
from pf_keras.data.splits import TRAIN, VALIDATION, VALIDATION_NAMES, validation_name
from pf_keras.errors import UserError

MANIFEST = "manifest.json"
FORMAT = "pf_keras tfrecords 1"  # of a manifest
WORK = ".build"  # folder in the output of a build for unfinished work; the build removes it at its end
SUBSET = "subset_of"  # in the manifest of a subset: the dataset that it is a part of
SETTINGS = "settings.json"  # in WORK: the settings of a build that has begun
_MANIFEST_KEYS = {
    "format": str, "images": int, "bytes": int, "source": dict, "settings": dict, "splits": dict, "odd": dict, "classes": list,
    "shards": list,
}  # fmt: skip
_SHARD = re.compile(rf"({'|'.join((TRAIN, *VALIDATION_NAMES))})-(\d{{5}})-of-(\d{{5}})(\.tfrec(?:ords?)?)?")
_TFDS_INFO = "dataset_info.json"  # beside the files of a prepared TFDS dataset
_MAX_ENTRIES = 256  # that are looked at in a directory without shards, to say what it holds
_THREADS = 16  # counting records waits for disk or network most of the time


def split_files(directory: str) -> dict[str, list[str]]:
    """The shards of a dataset by split.

    Shards are named `train-00000-of-01024`, `validation-…`, `val-…`, `valid-…` or `dev-…`, and may end in `.tfrecord` or
    `.tfrec`. `test-…` is the validation split if there is no other. The validation
    shards of a subset are those of the dataset that it is a part of.

    Returns:
        `{"train": [...], "validation": [...]}`: sorted paths, possibly none.

    Raises:
        UserError: there are no shards, a set of shards is incomplete, or a build has not finished.
    """
    if is_unfinished(directory):
        raise UserError(f"The build in {directory} has not finished. Run the same command again.")
    found = shards_in(directory)
    if not found:
        raise UserError(_no_shards(directory))
    validation = found.get(validation_name(found), [])
    if whole := whole_dataset(directory):
        validation = _validation_of(directory, whole[0])
    return {TRAIN: found.get(TRAIN, []), VALIDATION: validation}


def whole_dataset(directory: str) -> tuple[str, int] | None:
    """The dataset that a directory holds a subset of: its directory and its number of training images. None for other data."""
    manifest = read_manifest(directory)
    if not manifest or SUBSET not in manifest:
        return None
    return fs.resolve(directory, manifest[SUBSET]["directory"]), manifest[SUBSET]["images"]


def _validation_of(directory: str, whole: str) -> list[str]:
    """The validation shards of the dataset that a directory holds a subset of."""
    try:
        found = shards_in(whole)
    except UserError as error:
        raise UserError(f"{directory} is a subset and uses the validation shards of {whole}. {error}") from None
    if not (paths := found.get(validation_name(found), [])):
        raise UserError(f"{directory} is a subset and uses the validation shards of {whole}, which has none. Copy them there.")
    return paths


def _no_shards(directory: str) -> str:
    """What is in a directory without shards, and what to do about it."""
    try:
        prepared = _prepared_datasets(directory)
    except OSError:  # a folder that may not be entered
        prepared = []
    if prepared:
        root, name, folder, file_format = prepared[0]
        if file_format == "array_record":
            return f"{directory} is a TFDS dataset in ArrayRecord files. {convert_command(folder)}"
        several = f" ({len(prepared)} datasets are there)" if len(prepared) > 1 else ""
        return f"{directory} is a TFDS dataset{several}. Use --data=tfds:{name} with TFDS_DATA_DIR={root}."
    names = fs.names_in(directory)
    usual = "train-00000-of-00016, validation-00000-of-00001"
    if any("array" in name.lower() and "record" in name.lower() for name in names):
        return f"{directory} has ArrayRecord files. {convert_command(directory)}"
    if found := [name for name in names if name.lower().endswith((".gz", ".gzip"))]:
        return f"{directory} has no shards, but {found[0]} is compressed with GZIP. {DECOMPRESS}"
    if found := [name for name in names if "tfrec" in name.lower()]:
        return f"{directory} has no shards with the usual names, only {found[0]} and the like. Rename them: {usual}."
    return f"{directory} has no TFRecord shards ({usual}, ...). Make them with python -m tfrecords.build."


def convert_command(directory: str) -> str:
    """How to convert the ArrayRecord files in a directory, for a message."""
    return f"Convert them with python -m tfrecords.from_array_record {directory} NEW, then use --data=tfrecord:NEW."


def _prepared_datasets(directory: str) -> list[tuple[str, str, str, str]]:
    """The prepared TFDS datasets at or below a directory: for each its TFDS_DATA_DIR, name, folder and file format."""
    found, level = [], [directory]
    for _ in range(4):  # the directory of a version, a config, a dataset or all of them
        for folder in level:
            if fs.exists(fs.join(folder, _TFDS_INFO)):
                info = fs.read_json(fs.join(folder, _TFDS_INFO))
                config = info.get("configName", "")
                depth = 2 + bool(config)
                path = folder if fs.is_remote(folder) else os.path.abspath(folder)
                root = path.rstrip("/").rsplit("/", depth)[0]
                name = "/".join(part for part in (info.get("name", ""), config) if part) + f":{info.get('version', '')}"
                found.append((root, name.rstrip(":"), folder, info.get("fileFormat", "tfrecord")))
        if found:
            return found
        level = [
            fs.join(folder, name)
            for folder in level
            for name, is_directory, _ in itertools.islice(fs.entries(folder), _MAX_ENTRIES)
            if is_directory and not name.startswith(".")
        ]
        level = sorted(level)[:_MAX_ENTRIES]
    return []


def is_unfinished(directory: str) -> bool:
    """Whether a build has begun in the directory and not finished."""
    return fs.exists(fs.join(directory, WORK, SETTINGS)) and not fs.exists(fs.join(directory, MANIFEST))


def shard_names(directory: str) -> list[str]:
    """The names of all shards in a directory, sorted.

    Raises:
        UserError: there is no such directory.
    """
    if not fs.is_directory(directory):
        raise UserError(f"There is no directory {directory}. Give the directory that holds the TFRecord shards.")
    return [name for name in fs.names_in(directory) if _SHARD.fullmatch(name)]


def shards_in(directory: str) -> dict[str, list[str]]:
    """The sorted paths of the shards of every split, by the split's name in the files.

    Raises:
        UserError: a split is incomplete or has more than one set of shards, or there is no such directory.
    """
    splits: dict[str, list[tuple[int, int, str]]] = {}
    for name in shard_names(directory):
        split, number, total, _ = _SHARD.fullmatch(name).groups()
        splits.setdefault(split, []).append((int(total), int(number), name))
    for split, shards in splits.items():
        totals = sorted({total for total, _, _ in shards})
        if len(totals) > 1:
            raise UserError(f"{directory} has several sets of {split} shards, of {totals[0]} and of {totals[1]}. Keep one.")
        total = totals[0]
        numbers = sorted(number for _, number, _ in shards)
        if missing := sorted(set(range(total)) - set(numbers)):
            raise UserError(
                f"{directory} lacks {len(missing)} of {total} {split} shards: the first is "
                f"{split}-{missing[0]:05d}-of-{total:05d}. Run tfrecords.build again, or copy the shards again."
            )
        if len(numbers) > total:
            raise UserError(
                f"{directory} has {len(numbers)} files for {total} {split} shards. Remove those that occur twice or have a "
                f"number above {total - 1:05d}."
            )
    return {split: [fs.join(directory, name) for _, _, name in sorted(shards)] for split, shards in splits.items()}


def read_manifest(directory: str) -> dict | None:
    """Read the manifest that `tfrecords.build` wrote. Returns None if it is missing.

    Raises:
        UserError: the file is something else.
    """
    path = fs.join(directory, MANIFEST)
    if not fs.exists(path):
        return None
    manifest = fs.read_json(path)
    damaged = [key for key, kind in _MANIFEST_KEYS.items() if not isinstance(manifest.get(key), kind)]
    if damaged or manifest["format"] != FORMAT:
        raise UserError(f"{path} is damaged or not a manifest of tfrecords.build. Restore it, or build into a new directory.")
    return manifest


def count_records(paths: Sequence[str]) -> list[int]:
    """Count the records in each file by reading only the header of each record.

    TensorFlow reads remote files in blocks of half a megabyte, so at a remote path this reads nearly everything.

    Raises:
        UserError: a file is missing, truncated or not a TFRecord file. Names file, record and position.
    """

    def count(path: str) -> int:
        if not fs.exists(path):
            raise UserError(f"There is no TFRecord file {path}. Check the path.")
        with fs.random_access(path) as (read, size):
            return sum(1 for _ in record_container.spans(read, size, path))

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(count, paths))
