"""Mixing pairs of labelled images and their labels while fine-tuning: mixup (Zhang et al., 2018) and CutMix (Yun et
al., 2019). The paper has neither."""

import tensorflow as tf

from pf_keras.errors import UserError

MIX_NOISE = 4  # numbers an example: whether and how, how much is kept, the middle of the box


def mix_pairs(images, labels, noise, share):
    """Mix neighbours in a batch, 0 with 1, 2 with 3, ..., each by its own noise.

    images: uint8 (B, S, S, 3), B even. labels: float32 (B, C), one-hot. noise: float32 (B, 4), uniform in [0, 1).
    share: of the images that are mixed, half of them blended with their neighbour (mixup), half with a box of it put in
    (CutMix); how much is kept is uniform. Returns images and labels as they came, the labels mixed by what the pixels are.
    Neighbours alone are mixed, so that a batch is the same whatever the number of replicas that share it.
    """
    how, kept, y, x = tf.unstack(noise, axis=1)
    pixels = (tf.range(images.shape[1], dtype=tf.float32) + 0.5) / images.shape[1]
    half = tf.sqrt(1 - kept) / 2
    rows, columns = (tf.abs(pixels - middle[:, None]) < half[:, None] for middle in (y, x))  # (B, S) each
    box = tf.cast(rows[:, :, None] & columns[:, None, :], tf.float32)  # (B, S, S)
    blended, cut = how < share / 2, how < share
    weight = tf.where(blended[:, None, None], (1 - kept)[:, None, None], tf.where(cut[:, None, None], box, 0.0))
    whole = tf.cast(images, tf.float32)
    mixed = whole + (_neighbours(whole) - whole) * weight[..., None]
    taken = tf.reduce_mean(weight, axis=(1, 2))[:, None]
    return tf.cast(tf.round(mixed), tf.uint8), labels + (_neighbours(labels) - labels) * taken


def require_pairs(images):
    """Raises UserError where so many images a replica are no pairs."""
    if images % 2:
        raise UserError(
            f"expected an even number of images a replica for finetune.mix, received {images}: choose another "
            "finetune.batch, or finetune.mix=0"
        )


def _neighbours(x):
    """(B, ...) with 0 and 1, 2 and 3, ... exchanged."""
    return tf.reshape(tf.reverse(tf.reshape(x, (-1, 2, *x.shape[1:])), [1]), x.shape)
