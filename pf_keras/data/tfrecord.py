"""A directory of shards, as `tfrecords.build` and the public converters write them: `tfrecord:DIR`."""

import os
from collections import Counter

from pf_keras.data.records import FirstLabel, Records
from pf_keras.errors import UserError
from tfrecords.files import count_records, read_manifest, split_files
from tfrecords.schema import parse


def open_tfrecords(place, config, whole=False):
    """`(train, validation, classes, held_out)` of a directory of shards, named as the public converters do.

    Where there is no validation split the last train shard is kept for it, or all of them serve as both where `whole`.
    Raises UserError for a directory without shards, an incomplete set of them, and a damaged file.
    """
    place = os.path.expanduser(place)
    files = split_files(place)
    manifest = read_manifest(place)
    known = {shard["file"]: shard for shard in manifest["shards"]} if manifest else {}
    first_label = FirstLabel(config.first_label if config.first_label >= 0 else (1 if manifest else None))
    classes = _class_names(manifest["classes"]) if manifest else ()

    def split(paths):
        names = [path.rsplit("/", 1)[-1] for path in paths]
        told = set(names) <= set(known)
        counts = [known[name]["records"] for name in names] if told else count_records(paths)
        digests = [known[name]["sha256"] for name in names] if told else ()
        gifs = manifest is None  # `tfrecords.build` makes JPEGs of them
        first_label.splits.append(Records(paths, counts, parse, config, first_label, gifs=gifs, digests=digests))
        return first_label.splits[-1]

    train, validation, held_out = files["train"], files["validation"], ""
    if not train:
        raise UserError(f"expected train-* shards in {place}, received only others: python -m tfrecords.build makes them")
    if not validation:
        if whole:
            every = split(train)
            return every, every, classes, f"all train shards of {place}, which has none for it"
        if len(train) < 2:
            raise UserError(f"expected validation-* shards or two train shards in {place}, received {train[0]} alone")
        train, validation, held_out = train[:-1], train[-1:], f"the last shard, {train[-1]}"
    return split(train), split(validation), classes, held_out


def _class_names(classes):
    """The names of a manifest's classes for people; with their synset where two share a name, as ImageNet's cranes do."""
    texts = [entry["text"] or entry["synset"] for entry in classes]
    count = Counter(texts)
    return tuple(f"{text} ({entry['synset']})" if count[text] > 1 else text for text, entry in zip(texts, classes, strict=True))
