"""The measured models, and batches for them.

TensorFlow is imported where it is used, because the benchmark `gpu` runs without it.
"""

import time
from collections.abc import Callable

import keras
import numpy as np
from keras import ops, tree

from pf_keras.config import Config, load_config
from pf_keras.models import build_pretrainer
from pf_keras.noise import pretrain_noise
from pf_keras.training.devices import Devices
from pf_keras.training.optimizer import build_optimizer


def config_of(size: str) -> Config:
    """The config of a size: `small` is the digits model, `middle` the 224 px Imagenette model, `paper` the paper's."""
    return load_config({"small": "digits", "middle": "imagenette", "paper": "imagenet"}[size])


def random_batch(config: Config, images: int) -> dict[str, np.ndarray]:
    """A random pre-training batch: uint8 `image` `(images, H, W, 3)`, and the float32 noise by name."""
    rng = np.random.default_rng(0)
    side = config.model.image_size
    return {
        "image": rng.integers(0, 256, (images, side, side, 3), "uint8"),
        **{name: rng.random((images, *shape), "float32") for name, shape in pretrain_noise(config).items()},
    }


def compiled_pretrainer(config: Config, devices: Devices) -> keras.Model:
    """The pre-training model with its optimizer, as in `--mode=pretrain`."""
    model = build_pretrainer(config)
    optimizer = build_optimizer(model, config.pretrain, config.pretrain.steps, config.pretrain.warmup_steps)
    devices.compile(model, optimizer=optimizer)
    return model


def endless(devices: Devices, batch: dict[str, np.ndarray]):
    """A dataset that repeats one batch, spread over the devices. It costs no time."""
    import tensorflow as tf

    from pf_keras.data.dataset_options import as_written

    def batches(host, hosts, replicas):
        part = {name: tf.constant(value[: len(value) // replicas]) for name, value in batch.items()}
        return as_written(tf.data.Dataset.from_tensors(part).repeat())

    return devices.distribute(batches)


def bare_loop(model: keras.Model, devices: Devices, batch: dict[str, np.ndarray], steps: int) -> Callable[[], float]:
    """A function that runs so many steps, calls nothing but the train function of `fit`, and returns the seconds."""

    def loop():
        model.make_train_function()
        iterator = iter(endless(devices, batch))
        began = time.perf_counter()
        for _ in range(steps):
            logs = model.train_function(iterator)
        float(logs["loss"])
        return time.perf_counter() - began

    return loop


def graph(function: Callable, *arguments) -> Callable[[], None]:
    """A function that runs `function` on the arguments, compiled, and waits for its result."""
    import tensorflow as tf

    arguments, compiled = tree.map_structure(ops.convert_to_tensor, arguments), tf.function(function)

    def call():
        tree.map_structure(ops.convert_to_numpy, compiled(*arguments))

    return call


def with_gradients(model: keras.Model, function: Callable) -> Callable:
    """A function of the same arguments that computes the gradients of its mean square for the model's weights. It returns the
    sum of each gradient.
    """
    import tensorflow as tf

    def call(*arguments):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(function(*arguments)))
        return [tf.reduce_sum(g) for g in tape.gradient(loss, model.trainable_variables) if g is not None]

    return call
