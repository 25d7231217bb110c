"""Mixes pairs of labelled images and their labels in fine-tuning: mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019).

The paper uses neither.
"""

import tensorflow as tf

from pf_keras.errors import UserError
from pf_keras.noise import MIX


def mix_pairs(images, labels, noise, fraction: float) -> tuple:
    """Mix neighbours in a batch: 0 with 1, 2 with 3, and so on. Each image is mixed by its own noise.

    Half of the mixed images are blended with their neighbour (mixup). The other half get a box of it (CutMix). How much of
    an image is kept is uniform in (0, 1]. Only neighbours are mixed, so a batch is the same for any number of replicas.

    Args:
        images: uint8 (B, S, S, 3), B even.
        labels: float32 (B, C), one-hot.
        noise: float32 (B, len(MIX)), uniform in [0, 1).
        fraction: of the images that are mixed.

    Returns:
        Images and labels with the same shapes and dtypes. Labels are mixed in proportion to the pixels.
    """
    draw = dict(zip(MIX, tf.unstack(noise, axis=1), strict=True))
    kind, kept = draw["kind"], draw["kept"]
    pixels = (tf.range(images.shape[1], dtype=tf.float32) + 0.5) / images.shape[1]
    half = tf.sqrt(1 - kept) / 2
    rows, columns = (tf.abs(pixels - draw[axis][:, None]) < half[:, None] for axis in ("row", "column"))  # (B, S) each
    box = tf.cast(rows[:, :, None] & columns[:, None, :], tf.float32)  # (B, S, S)
    blended, cut = kind < fraction / 2, kind < fraction
    weight = tf.where(blended[:, None, None], (1 - kept)[:, None, None], tf.where(cut[:, None, None], box, 0.0))
    whole = tf.cast(images, tf.float32)
    mixed = whole + (_neighbours(whole) - whole) * weight[..., None]
    taken = tf.reduce_mean(weight, axis=(1, 2))[:, None]
    return tf.cast(tf.round(mixed), tf.uint8), labels + (_neighbours(labels) - labels) * taken


def require_pairs(images: int) -> None:
    """Raises UserError where a replica's batch has an odd number of images."""
    if images % 2:
        raise UserError(
            f"finetune.mix mixes pairs of images, but each replica has {images} images. "
            "Use another finetune.batch, or finetune.mix=0."
        )


def _neighbours(x):
    """(B, ...) with 0 and 1, 2 and 3, and so on exchanged."""
    return tf.reshape(tf.reverse(tf.reshape(x, (-1, 2, *x.shape[1:])), [1]), x.shape)
