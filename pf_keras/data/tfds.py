"""A dataset of tensorflow-datasets: `tfds:NAME`."""

import difflib
import os
import re

from pf_keras import filesystem as fs
from pf_keras.config import DataConfig
from pf_keras.data.record_schema import named_keys
from pf_keras.data.records import FirstLabel, Records, open_splits
from pf_keras.data.shard_files import convert_command
from pf_keras.data.splits import TRAIN, validation_name
from pf_keras.errors import UserError

MAX_REASON = 4000  # characters of an error of tensorflow-datasets; instructions for a download by hand have some hundred


def open_tfds(
    place: str, config: DataConfig, whole: bool = False, labels: bool = True
) -> tuple[Records, Records, tuple[str, ...], str]:
    """Open a dataset of tensorflow-datasets, and prepare it if it is not prepared yet.

    Where it has several images or labels, those that `data.keys` names are used, else those in its `supervised_keys`, else
    those named `image` and `label`, else the first by name.

    Args:
        place: its name.
        config: the config of the data.
        whole: whether both splits are the whole train split where there is no validation split. Otherwise the last file
            becomes the validation split, or some records of it if it is the only one.
        labels: whether to read labels. Without it no record has one.

    Returns:
        `(train, validation, classes, validation_note)`.

    Raises:
        UserError: the dataset is unknown, cannot be prepared, is not stored as TFRecord files, or has no image.
    """
    import tensorflow_datasets as tfds

    try:
        # Passed here because tensorflow-datasets reads the variable only once, when it is first imported.
        builder = tfds.builder(place, data_dir=os.environ.get("TFDS_DATA_DIR"))
        builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(_unknown_name(place)) from error
    except Exception as error:  # its errors have no common class
        reason = (" ".join(str(error).split()) or type(error).__name__)[:MAX_REASON].rstrip(".:")
        do = "Do that, and run the command again" if "anual" in reason else "Check its name, or prepare it with tfds build"
        raise UserError(f"tfds:{place} cannot be opened: {reason}. {do}.") from error
    info = builder.info
    if info.file_format is not tfds.core.FileFormat.TFRECORD:
        advice = f"Prepare it as tfrecord in another TFDS_DATA_DIR: tfds build {builder.name} --file_format=tfrecord."
        if info.file_format is tfds.core.FileFormat.ARRAY_RECORD:
            advice = convert_command(os.fspath(builder.data_path))
        raise UserError(f"tfds:{place} is stored as {info.file_format.value}. {advice}")

    named = named_keys(config.keys)

    def key_of(kind, usual):
        # Sorted, because a dataset read from its files has its features in another order each time.
        keys = sorted(key for key, feature in info.features.items() if isinstance(feature, kind))
        wanted = named.get(usual)
        if wanted and wanted not in keys:
            raise UserError(f"tfds:{place} has no {usual} {wanted}, only {', '.join(keys)}. Change data.keys.")
        return next((key for key in (wanted, *(info.supervised_keys or ()), usual, *keys) if key in keys), None)

    image = key_of(tfds.features.Image, "image")
    label = key_of(tfds.features.ClassLabel, "label") if labels else None
    if image is None:
        raise UserError(f"tfds:{place} has no image, only {', '.join(info.features)}. Choose a dataset of images.")

    import tensorflow as tf

    def read(serialized):
        example = info.features.deserialize_example(serialized, decoders={image: tfds.decode.SkipDecoding()})
        name = example.get("file_name", example.get("image/filename", tf.constant("")))
        return {
            "encoded": example[image],
            "label": example[label] if label else tf.constant(-1, tf.int64),
            "filename": name if name.dtype == tf.string else tf.constant(""),
        }

    if TRAIN not in info.splits:
        raise UserError(f"tfds:{place} has no train split, only {', '.join(info.splits)}. Choose another dataset.")

    def counts_of(name):
        split = info.splits[name]
        return dict(zip(map(str, split.filepaths), split.shard_lengths, strict=True))

    train, name = counts_of(TRAIN), validation_name(info.splits)
    validation = counts_of(name) if name else {}
    counts = train | validation

    def records(files):
        return Records(files, [counts[file] for file in files], read, config, FirstLabel(0))

    classes = tuple(info.features[label].names) if label else ()
    train, validation, note = open_splits(f"tfds:{place}", list(train), list(validation), whole, records)
    return train, validation, classes, note


def _unknown_name(place: str) -> str:
    """What to say of a dataset that neither tensorflow-datasets nor the data directory knows, with the nearest name."""
    import tensorflow_datasets as tfds

    name = re.split("[/:]", place)[0]
    folder = os.path.expanduser(os.environ.get("TFDS_DATA_DIR", tfds.core.constants.DATA_DIR))
    prepared = [entry for entry, is_directory, _ in fs.entries(folder) if is_directory] if fs.is_directory(folder) else []
    near = difflib.get_close_matches(name.lower(), [*prepared, *tfds.list_builders(with_community_datasets=False)], n=1)
    hint = f"Did you mean tfds:{near[0]}{place[len(name) :]}?" if near else "Check its name and TFDS_DATA_DIR."
    return f"tensorflow-datasets knows no dataset {name}, and {folder} does not have it. {hint}"
