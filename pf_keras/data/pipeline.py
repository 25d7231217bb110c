"""The one input pipeline: a split's encoded images to batches of uint8 images with noise beside each example.

Every random choice of an example is a function of `(seed, epoch, index)`, so that a run can stop at any step and go on
with the same numbers, and any number of replicas sees the same masks.
"""

import math

import tensorflow as tf

from pf_keras.augment import NOISE
from pf_keras.data.decode import CROP_NOISE, centre_window, decode_and_crop, random_window
from pf_keras.data.mix import MIX_NOISE, mix_pairs, require_pairs
from pf_keras.data.options import as_written
from pf_keras.masking import block_count
from tfrecords.pool import cores

EPOCHS = 2**20  # room for epochs in the first word of an example's seed
# That decode. One more than there are cores, since one reads the keys meanwhile: 5% faster than what AUTOTUNE finds.
THREADS = cores() + 1


def pretrain_noise(config):
    """Shapes of the noise that pre-training takes, an example."""
    blocks = block_count(config.model.grid, config.mask.block)
    return {"mask_noise": (blocks,), "augment_noise": (config.visible, len(NOISE))}


def finetune_noise(config):
    """Shapes of the noise that fine-tuning takes, an example; `mix_noise` stays in the pipeline."""
    mix = {"mix_noise": (MIX_NOISE,)} if config.finetune.mix else {}
    return {"mask_noise": (config.model.patches,), **mix}


def draw_noise(seed, epoch, index, shapes):
    """The uniform float32 numbers in [0, 1) of one example, (K,): `CROP_NOISE` for its crop, then those of `shapes`.

    `split_noise` tells them apart.
    """
    key = tf.stack([tf.cast(seed, tf.int64) * EPOCHS + epoch, index])
    return tf.random.stateless_uniform((CROP_NOISE + sum(map(math.prod, shapes.values())),), key)


def split_noise(noise, shapes):
    """The noise (B, K) of a batch by name, `{name: (B, *shape)}`; what the crops took is left out.

    For a batch at once: to split that of every example takes as long as to parse its record.
    """
    sizes = [CROP_NOISE, *map(math.prod, shapes.values())]
    _, *parts = tf.split(noise, sizes, axis=1)
    return {name: tf.reshape(part, (-1, *shapes[name])) for name, part in zip(shapes, parts, strict=True)}


def training_batches(
    split, config, batch, noise, start_step=0, crop_scale=None, classes=0, host=0, hosts=1, replicas=1
):
    """Endless shuffled batches, from any step on, without decoding what comes before it.

    noise: shapes by name (`pretrain_noise`, `finetune_noise`). crop_scale: instead of the config's `data.crop_scale`.
    batch: images a step over all replicas. Of each batch host number `host` of `hosts` reads its own slice and yields
    it in parts for one replica each, so that the step sees the same batch whatever the number of either; of `Records`
    each host reads its own files, so that there another number of hosts is another order.
    Yields, with B = batch // replicas, a dict of `image` uint8 (B, S, S, 3) and the noise float32 (B, ...); with
    `classes`, a pair of it and one-hot labels float32 (B, classes).
    """
    seed, data, load = config.run.seed, config.data, split.loader()

    def example(key):
        drawn = draw_noise(seed, key["epoch"], key["index"], noise)
        encoded, label = load(key)
        window = random_window(drawn, crop_scale or data.crop_scale, data.crop_ratio)
        image = decode_and_crop(encoded, window, config.model.image_size, split.gifs)
        if data.flip:
            # One of the two alone, and by tf.reverse: a slice with a negative step takes longer than decoding.
            image = tf.cond(drawn[4] < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
        if not classes:
            return image, drawn
        known = tf.logical_and(label >= 0, label < classes)  # one_hot makes zeros of others
        with tf.control_dependencies([tf.debugging.Assert(known, ["label", label, "is none of", classes, "classes"])]):
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


def evaluation_batches(split, config, batch, noise=None, host=0, hosts=1, replicas=1):
    """Every example once, in order, by one centre crop; the same noise each time. Yields dicts as in training.

    The last batch is filled up with zeros, since shapes are static: use the first `split.size` of the results.
    `host`, `hosts` and `replicas` are those of `training_batches`.
    """
    load, noise = split.loader(), noise or {}

    def example(key):
        encoded, _ = load(key)
        image = decode_and_crop(encoded, centre_window(config.data.eval_crop), config.model.image_size, split.gifs)
        return image, draw_noise(config.run.seed, key["epoch"], key["index"], noise)

    def fill_up(x):
        filled = tf.pad(x, [[0, batch - tf.shape(x)[0]]] + [[0, 0]] * (x.shape.rank - 1))
        return tf.ensure_shape(filled, (batch, *x.shape[1:]))

    batches = _batched(split.keys(shuffle=False), example, noise, batch, drop_remainder=False)
    batches = batches.map(lambda inputs: {name: fill_up(x) for name, x in inputs.items()})
    if replicas > 1:
        # Hosts read all of it and keep their parts: an evaluation is short. Part i goes to host i % hosts, which is the
        # order in which Keras's predict puts the replicas' results together.
        batches = batches.unbatch().batch(batch // replicas, drop_remainder=True).shard(hosts, host)
    return batches.prefetch(2)


def _batched(keys, example, noise, batch, drop_remainder):
    """Batches of `example`, a function of a key to an image, its noise and perhaps a label, in the order of the keys."""

    def name(images, drawn, *labels):
        inputs = {"image": images, **split_noise(drawn, noise)}
        return (inputs, *labels) if labels else inputs

    examples = keys.map(example, num_parallel_calls=THREADS)
    return as_written(examples.batch(batch, drop_remainder=drop_remainder).map(name))
