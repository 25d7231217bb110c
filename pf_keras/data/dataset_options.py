"""How tf.data runs the datasets of this project."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf


def as_written(dataset: "tf.data.Dataset") -> "tf.data.Dataset":
    """The dataset in a fixed order, with the parallelism that it names itself and without automatic tuning.

    Tuning would not make it faster, and its thread can delay the end of an iterator for minutes.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    return dataset.with_options(options)
