"""A data set of tensorflow-datasets: `tfds:NAME`."""

import os

from pf_keras.data.records import FirstLabel, Records
from pf_keras.errors import UserError


def open_tfds(place, config, whole=False):
    """`(train, validation, classes, held_out)` of a data set of tensorflow-datasets, prepared if it is not yet.

    Without a validation or test split the last file is kept for it, or all serve as both where `whole`. Raises UserError
    where the data set is unknown, cannot be had, is stored otherwise than as TFRecord files, or has no image. Of several
    images or labels its `supervised_keys` are taken, else those of the usual names, else the first by name.
    """
    import tensorflow_datasets as tfds

    try:
        # Said here, since tensorflow-datasets reads the variable once, when it is first imported.
        builder = tfds.builder(place, data_dir=os.environ.get("TFDS_DATA_DIR"))
        builder.download_and_prepare()
    except Exception as error:  # its many ways to fail share no class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"expected tfds:NAME to name a data set at hand, received {place}: {reason}") from error
    info = builder.info
    if info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UserError(f"expected {place} as TFRecord files, received {info.file_format}: prepare it as tfrecord")

    def the(kind, usual):
        """The feature of this kind: read from its files, a data set has its features in another order each time."""
        keys = sorted(key for key, feature in info.features.items() if isinstance(feature, kind))
        return next((key for key in (*(info.supervised_keys or ()), usual, *keys) if key in keys), None)

    image, label = the(tfds.features.Image, "image"), the(tfds.features.ClassLabel, "label")
    if image is None:
        raise UserError(f"expected {place} to have an image, received the features {', '.join(info.features)}")

    import tensorflow as tf

    def read(serialized):
        example = info.features.deserialize_example(serialized, decoders={image: tfds.decode.SkipDecoding()})
        name = example.get("file_name", example.get("image/filename", tf.constant("")))
        return {
            "encoded": example[image],
            "label": example[label] if label else tf.constant(-1, tf.int64),
            "filename": name if name.dtype == tf.string else tf.constant(""),
        }

    zero = FirstLabel(0)

    def split(names):
        for name in names:
            if name in info.splits:
                known = info.splits[name]
                return Records([str(path) for path in known.filepaths], known.shard_lengths, read, config, zero)
        return None

    train, validation = split(["train"]), split(["validation", "test"])
    if train is None:
        raise UserError(f"expected {place} to have a train split, received {', '.join(info.splits)}")
    classes = tuple(info.features[label].names) if label else ()
    if validation is not None:
        return train, validation, classes, ""
    if whole:
        return train, train, classes, f"all of {place}'s train split, which has none for it"
    if len(train.files) < 2:
        raise UserError(f"expected {place} to have a validation or test split or two files, received {train.files[0]}")
    parts = [Records(train.files[s], train.counts[s], read, config, zero) for s in (slice(-1), slice(-1, None))]
    return *parts, classes, f"the last file, {train.files[-1]}"
