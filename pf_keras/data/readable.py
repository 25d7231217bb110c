"""Reads the images of a split that can be read, and says of the others why they cannot.

Training stops at a corrupt image. `predict` and `embed` list it and read the next one.
"""

from collections.abc import Collection

import numpy as np
import tensorflow as tf

from pf_keras.config import Config
from pf_keras.data.corrupt import corrupt_images
from pf_keras.data.dataset_options import as_written
from pf_keras.data.decode import centre_window, decode_and_crop
from pf_keras.data.images import Images
from pf_keras.data.pipeline import THREADS, without_autograph
from pf_keras.data.reader import ReadOptions
from pf_keras.data.records import FILE, Split
from pf_keras.errors import UserError

PADDING = -1  # the index of an example that only fills up the last batch
SIDE = 160  # pixels on each side of a photograph to look at, or the model's input where that is larger


@without_autograph
def readable_batches(
    split: Split, config: Config, batch: int, after: int = -1, host: int = 0, hosts: int = 1, replicas: int = 1
) -> tf.data.Dataset:
    """Every readable example once, in order, with the centre crop of an evaluation.

    Args:
        split: the examples.
        config: how they are cropped and read.
        batch: images per step over all replicas.
        after: only examples with a greater `index`.
        host: the number of this host.
        hosts: the number of hosts.
        replicas: the number of replicas over all hosts. Each element is the batch of one replica, B = batch // replicas.

    Returns:
        A dataset of dicts of `image` uint8 (B, S, S, 3), `index` int64 (B,), which is `PADDING` behind the last example, and
        `label` int64 (B,).
    """
    keys = split.keys(shuffle=False, counted=False).filter(lambda key: key["index"] > after)

    def fill_up(example):
        missing = batch - tf.shape(example["index"])[0]

        def filled(x, value=0):
            padded = tf.pad(x, [[0, missing]] + [[0, 0]] * (x.shape.rank - 1), constant_values=value)
            return tf.ensure_shape(padded, (batch, *x.shape[1:]))

        return {
            "image": filled(example["image"]),
            "index": filled(example["index"], PADDING),
            "label": filled(example["label"], -1),
        }

    batches = _decoded(keys, split, config, config.model.image_size).batch(batch).map(fill_up)
    if replicas > 1:
        batches = batches.unbatch().batch(batch // replicas, drop_remainder=True).shard(hosts, host)
    return as_written(batches).prefetch(2)


@without_autograph
def pictures(split: Split, indices: Collection[int], config: Config, side: int) -> dict[int, np.ndarray]:
    """The centre crops of a few readable images, as an evaluation crops them.

    Args:
        split: the examples.
        indices: the `index` of each.
        config: how they are cropped and read.
        side: pixels on each side of the result.

    Returns:
        `{index: uint8 (side, side, 3)}`.
    """
    wanted = sorted({int(index) for index in indices})
    if not wanted:
        return {}
    part = split.at(wanted)
    decoded = as_written(_decoded(part.keys(shuffle=False, counted=False), part, config, side))
    numbered = isinstance(part, Images)  # their keys begin at 0 again
    return {wanted[x["index"]] if numbered else int(x["index"]): x["image"] for x in decoded.as_numpy_iterator()}


def photographs(split: Split, indices: Collection[int], config: Config) -> dict[int, np.ndarray]:
    """The `pictures` to look at, which have more pixels than a small model's input."""
    return pictures(split, indices, config, max(SIDE, config.model.image_size))


def unreadable(split: Split, read: np.ndarray, options: ReadOptions, otherwise: str = "") -> list[tuple[int, str]]:
    """The examples that `readable_batches` left out, and why.

    Args:
        split: the examples.
        read: int64, the `index` of every example that was read.
        options: how pixels are read.
        otherwise: the reason for an image that can be read now.

    Returns:
        `(index, reason)` of each, in order.
    """
    missing = np.setdiff1d(split.indices, read, assume_unique=True)
    files = [missing] if isinstance(split, Images) else np.split(missing, np.flatnonzero(np.diff(missing // FILE)) + 1)
    otherwise = otherwise or "it could not be read a moment ago, but can be now; run the same command again"
    found = []
    for indices in files:
        if not len(indices):
            continue
        part, reasons, damage = split.at(indices), {}, ""
        try:
            for name, reason in corrupt_images(part, options=options):
                reasons[name] = reason
        except UserError:
            damage = "its file is damaged here or before it"
        except tf.errors.OpError:
            damage = "its file has fewer records than were counted"
        names = (part.name_of(place) for place in (part.indices if isinstance(part, Images) else indices.tolist()))
        for index, name in zip(indices.tolist(), names, strict=True):
            found.append((index, reasons.get(name) or damage or otherwise))
    return found


def _decoded(keys: tf.data.Dataset, split: Split, config: Config, side: int) -> tf.data.Dataset:
    """The readable examples of these keys, as dicts of `image`, `index` and `label`."""
    load, window, options = split.loader(), centre_window(config.data.eval_crop), ReadOptions.from_config(config.data)

    def example(key):
        encoded, label = load(key)
        image = decode_and_crop(encoded, window, side, options, python=split.any_format)
        return {"image": image, "index": key["index"], "label": label}

    return keys.map(example, num_parallel_calls=THREADS).ignore_errors()
