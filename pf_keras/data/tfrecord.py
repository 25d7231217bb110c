"""A directory of shards, as `tfrecords.build` and the public converters write them: `tfrecord:DIR`."""

import functools
import itertools
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pf_keras import filesystem as fs
from pf_keras.config import DataConfig
from pf_keras.data import record_container
from pf_keras.data.dataset_options import as_written
from pf_keras.data.record_schema import ENCODED, LABEL, TEXT, Keys, named_keys, parse, read_lists
from pf_keras.data.records import FirstLabel, Records, open_splits
from pf_keras.data.shard_files import count_records, read_manifest, split_files, whole_dataset
from pf_keras.data.splits import TRAIN, VALIDATION
from pf_keras.errors import UserError
from pf_keras.processes import cores

LOOKED_AT = 16  # records at the beginning of the data that show which keys the others have


def open_tfrecords(
    place: str, config: DataConfig, whole: bool = False, labels: bool = True
) -> tuple[Records, Records, tuple[str, ...], str]:
    """Open a directory of shards with the names that the public converters use, such as `train-00000-of-01024`.

    Labels may be numbers or text. Text is in `image/class/label`, or in `image/class/text` where there is no other label. The
    names of the classes are then those texts, sorted, which takes a pass over all records.

    Args:
        place: the directory.
        config: the config of the data.
        whole: whether both splits are all train shards where there are no validation shards. Otherwise the last train shard
            becomes the validation split, or some records of it if it is the only one.
        labels: whether to read labels. Without it no record has one, whatever its label is.

    Returns:
        `(train, validation, classes, validation_note)`.

    Raises:
        UserError: there are no shards, some are missing, a file is damaged, or its records have other keys.
    """
    place = os.path.expanduser(place)
    files = split_files(place)
    if not files[TRAIN]:
        others = [name for name in fs.names_in(place) if "tfrec" in name.lower()]
        only = f", only {others[0]} and the like. Rename the files: train-00000-of-00002, ..." if others else ""
        raise UserError(f"{place} has no train-* shards{only or '. Write some with python -m tfrecords.build.'}")
    manifest = read_manifest(place)
    known = _known_shards(place, manifest)
    classes = _class_names(manifest["classes"]) if manifest and labels else ()
    paths = [*files[TRAIN], *files[VALIDATION]]
    keys, as_text, unlabelled = _find_keys(paths, config, labels)
    read, first = functools.partial(parse, keys=keys), 1 if manifest else None
    if as_text:
        texts, first = _read_texts(paths, keys.label), 0
        classes = tuple(text.decode(errors="backslashreplace") for text in texts)
        read = functools.partial(read, classes=texts)
    elif config.first_label >= 0:
        first = config.first_label
    first_label = FirstLabel(first if keys.label else 0)

    def split(paths):
        in_manifest = set(paths) <= set(known)
        counts = [known[path]["records"] for path in paths] if in_manifest else count_records(paths)
        sha256 = [known[path]["sha256"] for path in paths] if in_manifest else ()
        any_format = manifest is None  # `tfrecords.build` converts them
        return Records(paths, counts, read, config, first_label, any_format=any_format, sha256=sha256, unlabelled=unlabelled)

    train, validation, note = open_splits(f"tfrecord:{place}", files[TRAIN], files[VALIDATION], whole, split)
    first_label.splits = [train] if train is validation else [train, validation]
    return train, validation, classes, note


def _known_shards(place: str, manifest: dict | None) -> dict[str, dict]:
    """What manifests say of each shard, by its path. The validation shards of a subset are in another directory."""
    known = {fs.join(place, shard["file"]): shard for shard in manifest["shards"]} if manifest else {}
    if whole := whole_dataset(place):
        known |= _known_shards(whole[0], read_manifest(whole[0]))
    return known


def _find_keys(paths: Sequence[str], config: DataConfig, labels: bool) -> tuple[Keys, bool, str]:
    """The keys to read, whether labels are text, and why there are none, as the first records tell.

    Raises UserError where they have no image or lack a key that the config names.
    """
    named = named_keys(config.keys)
    keys = Keys(**named)
    where, records = _first_records(paths)
    if not records:  # an empty split or damaged records, which are reported when they are read
        return keys if labels else replace(keys, label=""), False, ""
    found = {key: values for record in reversed(records) for key, values in record.items() if values}
    wanted = [keys.image, *(getattr(keys, name) for name in named if labels or name != "label")]
    if missing := [key for key in wanted if key not in found]:
        raise UserError(f"{where} has no {missing[0]}, only {_described(found)}. {_advice(found, keys, labels)}")
    if not labels:
        return replace(keys, label=""), False, ""
    if keys.label not in found and TEXT in found:
        keys = replace(keys, label=TEXT)
    if keys.label not in found:
        advice = f" ({_advice(found, keys, labels)[:-1]})" if _likely_label(found, keys.image) else ""
        return keys, False, f"{where} has no {keys.label}, only {_described(found)}{advice}"
    kind = type(found[keys.label][0])
    if kind is float:
        raise UserError(f"{where} has a fraction in {keys.label}. Store labels as whole numbers or text.")
    return keys, kind is bytes, ""


def _first_records(paths: Sequence[str]) -> tuple[str, list[dict[str, list]]]:
    """The first records of the first file that has any, and how to call the first of them. Damaged ones are skipped."""
    for path in paths:
        found, first = [], 0
        with fs.random_access(path) as (read, size):
            for number, place in enumerate(itertools.islice(record_container.spans(read, size, path), LOOKED_AT)):
                try:
                    found.append(read_lists(record_container.read_data(read, *place) or b"\xff"))
                except ValueError:
                    continue
                if len(found) == 1:
                    first = number
            if found or size:
                return f"{path} record {first}", found
    return "", []


def _described(found: dict[str, list]) -> str:
    """The keys of a record and the types of their values, for a message."""
    types = {bytes: "bytes", int: "int64", float: "float"}
    return ", ".join(f"{key} ({types[type(values[0])]})" for key, values in sorted(found.items())) or "no keys"


def _advice(found: dict[str, list], keys: Keys, labels: bool) -> str:
    """The flag that names the keys of a record, with the most likely ones."""
    sizes = {key: len(values[0]) for key, values in found.items() if isinstance(values[0], bytes)}
    if not sizes:
        return "Records need the bytes of an image file."
    image = keys.image if keys.image in found else max(sizes, key=sizes.get)
    label = keys.label if keys.label in found else _likely_label(found, image)
    pairs = [("image", image, ENCODED), *([("label", label, LABEL)] if labels and label else [])]
    named = ",".join(f"{name}={key}" for name, key, usual in pairs if key != usual)
    return f"Name the keys with --config.data.keys={named}."


def _likely_label(found: dict[str, list], image: str) -> str:
    """The key of a record that looks most like a label, or an empty string."""
    keys = [key for key, values in sorted(found.items()) if key != image and not isinstance(values[0], float)]
    return next((key for word in ("label", "cls", "class", "target") for key in keys if word in key.lower()), "")


def _read_texts(paths: Sequence[str], key: str) -> list[bytes]:
    """The texts that records have in a key, sorted. Skips what cannot be parsed, which is reported when it is used."""
    import tensorflow as tf

    def texts(record):
        values = tf.raw_ops.ParseSingleSequenceExample(
            serialized=record,
            context_dense_keys=[],
            context_dense_shapes=[],
            context_dense_defaults=[],
            context_sparse_keys=[key],
            context_sparse_types=[tf.string],
            feature_list_sparse_keys=[],
            feature_list_dense_keys=[],
            feature_list_dense_missing_assumed_empty=[],
            debug_name="record",
        )
        return values.context_sparse_values[0][:1]  # several are refused when they are used

    print(f"reading the class of each record from {key}", file=sys.stderr)
    rows = tf.data.TFRecordDataset(paths).map(texts, num_parallel_calls=cores()).ignore_errors().unbatch().batch(4096)
    return sorted({text for batch in as_written(rows) for text in batch.numpy().tolist()} - {b""})


def _class_names(classes: list[dict]) -> tuple[str, ...]:
    """The names of a manifest's classes, with the synset where two share a name, as the two cranes of ImageNet do."""
    texts = [entry["text"] or entry["synset"] for entry in classes]
    count = Counter(texts)
    return tuple(f"{text} ({entry['synset']})" if count[text] > 1 else text for text, entry in zip(texts, classes, strict=True))
