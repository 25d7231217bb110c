"""The input pipeline: from a split's encoded images to batches of uint8 images with noise beside each example.

Every random choice of an example depends on `(seed, epoch, index)` alone. So a run can stop at any step and resume with the
same numbers, and any number of replicas sees the same masks.
"""

import math
from collections.abc import Sequence

import tensorflow as tf

from pf_keras.config import Config
from pf_keras.data.dataset_options import as_written
from pf_keras.data.decode import centre_window, decode_and_crop, random_window
from pf_keras.data.mix import mix_pairs, require_pairs
from pf_keras.data.reader import ReadOptions
from pf_keras.data.records import Split
from pf_keras.data.strong import augment_strongly
from pf_keras.noise import CROP, STRONG, Shapes
from pf_keras.processes import cores

EPOCHS = 2**20  # room for epochs in the first word of an example's seed
# Threads that decode. One more than the cores, because one of them reads keys: 5% faster than tf.data.AUTOTUNE.
THREADS = cores() + 1
# The functions of a pipeline have no Python `if` or loop over tensors. Rewriting them would take a second of each start.
without_autograph = tf.autograph.experimental.do_not_convert


def draw_noise(seed: int, epoch, index, shapes: Shapes):
    """Draw the noise of one example.

    Args:
        seed: of the run.
        epoch: int64 scalar.
        index: int64 scalar, of the example.
        shapes: of the model's noise, by name.

    Returns:
        float32 (K,), uniform in [0, 1): the numbers of `CROP`, then those of `shapes`. `split_noise` separates them.
    """
    key = tf.stack([tf.cast(seed, tf.int64) * EPOCHS + epoch, index])
    return tf.random.stateless_uniform((len(CROP) + sum(map(math.prod, shapes.values())),), key)


def split_noise(noise, shapes: Shapes) -> dict:
    """Separate the noise of a batch by name, without the numbers that the crops used.

    It works on whole batches, because splitting each example's noise takes as long as parsing its record.

    Args:
        noise: float32 (B, K), rows of `draw_noise`.
        shapes: as given to `draw_noise`.

    Returns:
        `{name: float32 (B, *shape)}`.
    """
    sizes = [len(CROP), *map(math.prod, shapes.values())]
    _, *parts = tf.split(noise, sizes, axis=1)
    return {name: tf.reshape(part, (-1, *shapes[name])) for name, part in zip(shapes, parts, strict=True)}


@without_autograph
def training_batches(
    split: Split,
    config: Config,
    batch: int,
    noise: Shapes,
    start_step: int = 0,
    crop_scale: Sequence[float] | None = None,
    classes: int = 0,
    host: int = 0,
    hosts: int = 1,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Endless shuffled batches from any step on, without decoding the examples before it.

    Args:
        split: the examples.
        config: of the run.
        batch: images per step over all replicas.
        noise: shapes by name, from `pretrain_noise` or `finetune_noise`.
        start_step: the first step.
        crop_scale: in place of the config's `data.crop_scale`.
        classes: the number of classes, or 0 for batches without labels.
        host: the number of this host. It reads its own slice of every batch. Of `Records` it reads its own files, so
            another number of hosts gives another order.
        hosts: the number of hosts.
        replicas: the number of replicas over all hosts. Each element is the batch of one replica, B = batch // replicas.

    Returns:
        A dataset of dicts of `image` uint8 (B, S, S, 3) and the noise float32 (B, ...). With `classes`, of pairs of such a
        dict and one-hot labels float32 (B, classes).
    """
    seed, data, load = config.run.seed, config.data, split.loader()
    options = ReadOptions.from_config(data)

    def example(key):
        drawn = draw_noise(seed, key["epoch"], key["index"], noise)
        encoded, label = load(key)
        window = random_window(drawn, crop_scale or data.crop_scale, data.crop_ratio)
        image = decode_and_crop(encoded, window, config.model.image_size, options, python=split.any_format)
        if data.flip:
            # tf.cond runs only one branch. A slice with a negative step would take longer than decoding.
            image = tf.cond(drawn[CROP.index("flip")] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
        if "strong_noise" in noise:  # the first of the shapes
            image = augment_strongly(image, drawn[len(CROP) : len(CROP) + len(STRONG)], config.finetune.strong)
        if not classes:
            return image, drawn
        known = tf.logical_and(label >= 0, label < classes)  # for other labels, one_hot would give zeros
        with tf.control_dependencies([tf.debugging.Assert(known, ["label", label, "is not one of", classes, "classes"])]):
            return image, drawn, tf.one_hot(label, classes)

    keys = split.keys(start=start_step * batch, seed=seed, shuffle=True, batch=batch, host=host, hosts=hosts)
    batches = _batched(keys, example, noise, batch // replicas, drop_remainder=True)
    if "mix_noise" in noise:
        require_pairs(batch // replicas)

        def mix(inputs, labels):
            images, labels = mix_pairs(inputs["image"], labels, inputs.pop("mix_noise"), config.finetune.mix)
            return {**inputs, "image": images}, labels

        batches = batches.map(mix)
    return batches.prefetch(2)


@without_autograph
def evaluation_batches(
    split: Split, config: Config, batch: int, noise: Shapes | None = None, host: int = 0, hosts: int = 1, replicas: int = 1
) -> tf.data.Dataset:
    """Every example once, in order, with one centre crop and the same noise each time.

    Zeros fill up the last batch, because shapes are static: use the first `split.size` rows of the results.

    Args:
        split: the examples.
        config: of the run.
        batch: images per step over all replicas.
        noise: shapes by name.
        host: the number of this host.
        hosts: the number of hosts.
        replicas: the number of replicas over all hosts.

    Returns:
        A dataset of dicts as `training_batches` without labels.
    """
    load, noise = split.loader(), noise or {}
    options, window = ReadOptions.from_config(config.data), centre_window(config.data.eval_crop)

    def example(key):
        encoded, _ = load(key)
        image = decode_and_crop(encoded, window, config.model.image_size, options, python=split.any_format)
        return image, draw_noise(config.run.seed, key["epoch"], key["index"], noise)

    def fill_up(x):
        filled = tf.pad(x, [[0, batch - tf.shape(x)[0]]] + [[0, 0]] * (x.shape.rank - 1))
        return tf.ensure_shape(filled, (batch, *x.shape[1:]))

    batches = _batched(split.keys(shuffle=False), example, noise, batch, drop_remainder=False)
    batches = batches.map(lambda inputs: {name: fill_up(x) for name, x in inputs.items()})
    if replicas > 1:
        # Every host reads all examples and keeps its parts, because an evaluation is short. Part i goes to host i % hosts:
        # Keras's predict joins the results of the replicas in this order.
        batches = batches.unbatch().batch(batch // replicas, drop_remainder=True).shard(hosts, host)
    return batches.prefetch(2)


def _batched(keys, example, noise, batch, drop_remainder):
    """Batches of `example` (a function from a key to an image, its noise and perhaps a label) in the order of the keys."""

    def name(images, drawn, *labels):
        inputs = {"image": images, **split_noise(drawn, noise)}
        inputs.pop("strong_noise", None)  # the images are made of it
        return (inputs, *labels) if labels else inputs

    examples = keys.map(example, num_parallel_calls=THREADS)
    return as_written(examples.batch(batch, drop_remainder=drop_remainder).map(name))
