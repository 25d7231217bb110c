"""A dataset of tensorflow-datasets: `tfds:NAME`."""

import os

from pf_keras.config import DataConfig
from pf_keras.data.records import FirstLabel, Records, open_splits
from pf_keras.data.splits import TRAIN, validation_name
from pf_keras.errors import UserError


def open_tfds(place: str, config: DataConfig, whole: bool = False) -> tuple[Records, Records, tuple[str, ...], str]:
    """Open a dataset of tensorflow-datasets, and prepare it if it is not prepared yet.

    Where it has several images or labels, those in its `supervised_keys` are used, else those named `image` and `label`,
    else the first by name.

    Args:
        place: its name.
        config: the config of the data.
        whole: whether both splits are the whole train split where there is no validation split. Otherwise the last file
            becomes the validation split.

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
    except Exception as error:  # its errors have no common class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"tfds:{place} cannot be opened: {reason}. Check its name, or prepare it with tfds build.") from error
    info = builder.info
    if info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UserError(f"tfds:{place} is stored as {info.file_format.value}. Prepare it as tfrecord.")

    def key_of(kind, usual):
        # Sorted, because a dataset read from its files has its features in another order each time.
        keys = sorted(key for key, feature in info.features.items() if isinstance(feature, kind))
        return next((key for key in (*(info.supervised_keys or ()), usual, *keys) if key in keys), None)

    image, label = key_of(tfds.features.Image, "image"), key_of(tfds.features.ClassLabel, "label")
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
