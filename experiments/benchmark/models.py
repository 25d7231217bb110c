"""The models that are measured, and batches for them."""

import time

import numpy as np

from pf_keras.augment import NOISE
from pf_keras.config import load_config
from pf_keras.data.options import as_written
from pf_keras.masking import block_count

BATCH = {"small": 128, "middle": 16, "paper": 2}  # what a CPU does in tenths of a second to seconds


def config_of(size):
    """`small` is the digits' config, `middle` Imagenette's of 224 px, `paper` the paper's."""
    name = {"small": "digits", "middle": "imagenette", "paper": "imagenet"}[size]
    return load_config(f"experiments/{name}.py")


def random_batch(config, images):
    """A batch of pre-training, as NumPy arrays."""
    rng = np.random.default_rng(0)
    side = config.model.image_size
    return {
        "image": rng.integers(0, 256, (images, side, side, 3), "uint8"),
        "mask_noise": rng.random((images, block_count(config.model.grid, config.mask.block)), "float32"),
        "augment_noise": rng.random((images, config.visible, len(NOISE)), "float32"),
    }


def compiled_pretrainer(config, devices):
    """The pre-training model with its optimizer, as `--mode=pretrain` makes it."""
    from pf_keras.models import build_pretrainer
    from pf_keras.training.optimizer import build_optimizer

    model = build_pretrainer(config)
    optimizer = build_optimizer(model, config.pretrain, config.pretrain.steps, config.pretrain.warmup_steps)
    devices.compile(model, optimizer=optimizer)
    return model


def endless(devices, batch):
    """The same batch for ever, spread over the devices: input that costs nothing."""
    import tensorflow as tf

    def batches(host, hosts, replicas):
        part = {name: tf.constant(value[: len(value) // replicas]) for name, value in batch.items()}
        return as_written(tf.data.Dataset.from_tensors(part).repeat())

    return devices.spread(batches)


def bare_loop(model, devices, batch, steps):
    """A function that does so many steps of `model` by the function that `fit` calls, and nothing else; it returns the
    seconds."""

    def loop():
        model.make_train_function()
        iterator = iter(endless(devices, batch))
        began = time.perf_counter()
        for _ in range(steps):
            logs = model.train_function(iterator)
        float(logs["loss"])
        return time.perf_counter() - began

    return loop


def graph(function, *arguments):
    """A compiled function of the arguments that waits for its result."""
    import tensorflow as tf
    from keras import ops, tree

    arguments, compiled = tree.map_structure(ops.convert_to_tensor, arguments), tf.function(function)

    def call():
        tree.map_structure(ops.convert_to_numpy, compiled(*arguments))

    return call


def with_gradients(model, function):
    """A function of the same arguments that gives the gradients of its mean square for the model's weights, summed."""
    import tensorflow as tf

    def call(*arguments):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(function(*arguments)))
        gradients = tape.gradient(loss, model.trainable_variables)
        return [tf.reduce_sum(g) for g in gradients if g is not None]

    return call
