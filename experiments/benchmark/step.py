"""What a training step consists of, and what `Model.fit` and its callbacks add to it."""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
import unittest.mock
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import keras
import numpy as np
from keras import ops

from experiments.benchmark.measuring import Row, ratio, spread, take_turns
from experiments.benchmark.models import bare_loop, compiled_pretrainer, config_of, endless, graph, random_batch, with_gradients
from pf_keras.config import AugmentConfig, Config
from pf_keras.patches.augment import augment_patches, scale_pixels
from pf_keras.tpu.flops import forward_flops
from pf_keras.training.checkpoint import save_checkpoint
from pf_keras.training.devices import Devices, open_devices
from pf_keras.training.loop import train
from pf_keras.training.workdir import Workdir

LOG_EVERY = {"small": 10, "middle": 5, "paper": 2}
STEPS = {"small": 50, "middle": 20, "paper": 6}  # per turn; the first log interval is not timed
ROUNDS = {"small": 7, "middle": 5, "paper": 5}
SAVE_EVERY = 600  # seconds: the default of run.checkpoint_every


def run(options: argparse.Namespace) -> list[Row]:
    """The rows of the benchmark `step`, for the model of `options.size`."""
    config = config_of(options.size)
    devices = open_devices(config.run.precision)
    rounds = 3 if options.quick else ROUNDS[options.size]
    return [*part_rows(config, devices, options, rounds), *fit_rows(config, devices, options, rounds)]


def part_rows(config: Config, devices: Devices, options: argparse.Namespace, rounds: int) -> list[Row]:
    """Compares the parts of a step, forward and backward, with the step, and the encoder with one that sees all patches."""
    model, batch = compiled_pretrainer(config, devices), random_batch(config, options.batch)
    everywhere = AugmentConfig(jitter_size=max(1, config.model.patch_size - 1))  # even if the config has no augmentation
    backbone = model.backbone

    def encode(pixels, indices=None):
        return backbone(scale_pixels(pixels), indices, training=True)

    rng = np.random.default_rng(0)
    side, images, width = config.model.patch_size, options.batch, config.model.width
    pixels = rng.integers(0, 256, (images, config.model.patches, side, side, 3), "uint8")
    visible, indices = pixels[:, : config.visible], np.tile(np.arange(config.visible, dtype="int32"), (images, 1))
    context, targets = (rng.standard_normal((images, n, width), "float32") for n in (config.visible, config.masked))
    parts = {
        "patch encoder": (backbone.patch_encoder, scale_pixels(visible)),
        "transformer": (backbone.transformer, context),
        "attention pooling": (backbone.pooling, context, targets),
        "decoder": (model.decoder, targets),
    }
    works = {
        "step": bare_loop(model, devices, batch, 1),
        "encoder, masked": graph(with_gradients(model, encode), visible, indices),
        "encoder, whole": graph(with_gradients(model, encode), pixels),
        "augmentation": graph(partial(augment_patches, config=everywhere), visible, batch["augment_noise"]),
        "optimizer": updates(model),
        **{name: graph(with_gradients(part, partial(part, training=True)), *inputs) for name, (part, *inputs) in parts.items()},
    }
    plain = compiled_pretrainer(config, devices)
    works["step by Keras's operations"] = without_kernels(bare_loop(plain, devices, batch, 1))
    if not devices.jit_compile:
        other = compiled_pretrainer(config, devices)
        other.jit_compile = True
        works["step by XLA"] = bare_loop(other, devices, batch, 1)
    seconds = take_turns(works, rounds, warm_up=2)
    fraction, flops = config.visible / config.model.patches, forward_flops(config)
    rows = [
        Row("encoder, masked patches left out / all patches", ratio(seconds, "encoder, masked", "encoder, whole"), "x", 0.45,
            note=f"{fraction:.2f} of the patches are visible; {spread(seconds, 'encoder, masked', 'encoder, whole')}"),
        Row("augmentation, fraction of a step", ratio(seconds, "augmentation", "step"), "", 0.05,
            note=spread(seconds, "augmentation", "step")),
    ]  # fmt: skip
    for name in [*parts, "optimizer"]:
        note = f"{flops[name] / sum(flops.values()):.2f} of the FLOPs" if name in flops else "AdamW with clipping"
        rows.append(Row(f"{name}, fraction of a step", ratio(seconds, name, "step"), note=note))
    for name, row in (("step by XLA", "step by XLA / by TensorFlow's kernels"),
                      ("step by Keras's operations", "step by Keras's operations / by our kernels")):  # fmt: skip
        if name in works:
            rows.append(Row(row, ratio(seconds, name, "step"), "x", note=spread(seconds, name, "step")))
    return rows


def without_kernels(loop: Callable[[], float]) -> Callable[[], float]:
    """The loop, traced as it is under a strategy: norms, GELU and the optimizer are Keras's operations."""
    with unittest.mock.patch("pf_keras.layers.kernels.without_strategy", lambda: False):
        loop()
    return loop


def updates(model: keras.Model) -> Callable[[], None]:
    """A function that applies gradients to the weights of a model, as a step does."""
    gradients = [ops.ones(v.shape) for v in model.trainable_variables]

    def update():
        model.optimizer.apply(gradients)
        return ops.convert_to_tensor(model.optimizer.iterations)

    return graph(update)


def fit_rows(config: Config, devices: Devices, options: argparse.Namespace, rounds: int) -> list[Row]:
    """Compares `train`, which is `Model.fit` with every callback, with a loop over the same compiled step."""
    images, interval, steps = options.batch, LOG_EVERY[options.size], STEPS[options.size]
    run = replace(config.run, log_every=interval, checkpoint_every="60min")
    model = compiled_pretrainer(config, devices)
    batch, traces, step = random_batch(config, images), [], model.train_step

    def counted(data):
        traces.append(1)
        return step(data)

    model.train_step = counted

    def by_fit():
        # Run one interval more than is timed, because the last step also saves. Saving is measured below.
        ends = []
        clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            workdir = Workdir(folder)
            workdir.folder("figures")
            train(model, lambda step: endless(devices, batch), steps + interval, images, workdir, run, [clock])
        return ends[-2] - ends[0]

    loop = bare_loop(model, devices, batch, steps - interval)
    seconds = take_turns({"fit": by_fit, "loop": loop}, rounds)
    with tempfile.TemporaryDirectory() as folder:
        save = statistics.median(take_turns({"save": lambda: save_checkpoint(folder, 1, model)}, 3)["save"])
    return [
        Row("bare loop / fit with callbacks", ratio(seconds, "loop", "fit"), "x", 0.95, high=True,
            note=f"{steps - interval} steps of {images} images, logged every {interval}; {spread(seconds, 'loop', 'fit')}"),
        Row(f"checkpoints every {SAVE_EVERY // 60} minutes, fraction of the time", save / SAVE_EVERY, "", 0.03,
            note=f"{save:.2f} s each"),
        Row("traces of the step", len(traces), "", 2, note="the metrics may need one of their own"),
    ]  # fmt: skip
