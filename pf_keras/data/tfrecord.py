"""A directory of shards, as `tfrecords.build` and the public converters write them: `tfrecord:DIR`."""

import os
from collections import Counter

from pf_keras.config import DataConfig
from pf_keras.data.record_schema import parse
from pf_keras.data.records import FirstLabel, Records, open_splits
from pf_keras.data.shard_files import count_records, read_manifest, split_files
from pf_keras.data.splits import TRAIN, VALIDATION
from pf_keras.errors import UserError


def open_tfrecords(place: str, config: DataConfig, whole: bool = False) -> tuple[Records, Records, tuple[str, ...], str]:
    """Open a directory of shards with the names that the public converters use, such as `train-00000-of-01024`.

    Args:
        place: the directory.
        config: the config of the data.
        whole: whether both splits are all train shards where there are no validation shards. Otherwise the last train shard
            becomes the validation split.

    Returns:
        `(train, validation, classes, validation_note)`.

    Raises:
        UserError: there are no shards, some are missing, or a file is damaged.
    """
    place = os.path.expanduser(place)
    files = split_files(place)
    manifest = read_manifest(place)
    known = {shard["file"]: shard for shard in manifest["shards"]} if manifest else {}
    first_label = FirstLabel(config.first_label if config.first_label >= 0 else (1 if manifest else None))
    classes = _class_names(manifest["classes"]) if manifest else ()

    def split(paths):
        names = [path.rsplit("/", 1)[-1] for path in paths]
        in_manifest = set(names) <= set(known)
        counts = [known[name]["records"] for name in names] if in_manifest else count_records(paths)
        sha256 = [known[name]["sha256"] for name in names] if in_manifest else ()
        gifs = manifest is None  # `tfrecords.build` writes them as JPEG
        first_label.splits.append(Records(paths, counts, parse, config, first_label, gifs=gifs, sha256=sha256))
        return first_label.splits[-1]

    if not files[TRAIN]:
        raise UserError(f"{place} has no train-* shards. Write some with python -m tfrecords.build.")
    train, validation, note = open_splits(f"tfrecord:{place}", files[TRAIN], files[VALIDATION], whole, split)
    return train, validation, classes, note


def _class_names(classes: list[dict]) -> tuple[str, ...]:
    """The names of a manifest's classes, with the synset where two share a name, as the two cranes of ImageNet do."""
    texts = [entry["text"] or entry["synset"] for entry in classes]
    count = Counter(texts)
    return tuple(f"{text} ({entry['synset']})" if count[text] > 1 else text for text, entry in zip(texts, classes, strict=True))
