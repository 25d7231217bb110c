"""A batch whose parts are computed at the same time gives the step of the whole batch."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from tiny import (
    random_batch,
    random_classifier_batch,
    tiny_classifier,
    tiny_config,
    tiny_pretrainer,
    trained_pretrainer,
)

from pf_keras.errors import UserError
from pf_keras.training.devices import Devices
from pf_keras.training.optimizer import AdamW
from pf_keras.training.parallel import in_parallel

ROOT = Path(__file__).parents[2]
CONFIG = tiny_config({"model.norm": "group"})
JIT = keras.backend.backend() == "jax"


def in_parts(config, parts, optimizer, **options):
    return trained_pretrainer(config, optimizer, parts > 1 and partial(in_parallel, parts=parts), **options)


def moved(parts):
    """How a step of SGD moves each weight: by its gradient, times 100 here so that a float32 weight holds it."""
    model, initial = in_parts(CONFIG, parts, keras.optimizers.SGD(100.0), steps=1)[0], tiny_pretrainer(CONFIG)
    pairs = zip(model.trainable_variables, initial.trainable_variables, strict=True)
    return {start.path: np.asarray(variable) - np.asarray(start) for variable, start in pairs}


def test_parts_give_the_step_of_the_whole_batch():
    """A gradient sums some 10,000 terms, here in another order. Their rounding, 6e-8 each, adds up like the square root of
    their number to about 1e-5 of the largest one."""
    whole, parts = moved(1), moved(4)
    for name, gradient in whole.items():
        np.testing.assert_allclose(parts[name], gradient, rtol=0, atol=1e-4 * np.abs(gradient).max() + 1e-9, err_msg=name)
    losses = [in_parts(CONFIG, n, keras.optimizers.SGD(0.1))[1] for n in (1, 2, 8)]
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-5)


def test_the_gradient_is_clipped_after_it_is_summed():
    norms = []
    for parts in (1, 4):
        model, _ = in_parts(CONFIG, parts, AdamW(1e-3, clip_norm=0.1), steps=1)
        norms.append(float(keras.ops.convert_to_numpy(model.optimizer.gradient_norm)))
    assert norms[0] > 0.1 and norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_moving_statistics_take_the_mean_of_the_parts():
    """With a learning rate of 0, a part of a batch alone, as a batch, shows the statistics that it contributes."""
    config = tiny_config()

    def statistics(rows, parts):
        model = tiny_pretrainer(config)
        model.compile(keras.optimizers.SGD(0.0), jit_compile=JIT)
        model.optimizer.build(model.trainable_variables)
        if parts > 1:
            in_parallel(model, parts)
        data = {name: values[rows] for name, values in random_batch(config, batch=8).items()}
        model.fit(data, batch_size=len(data["image"]), shuffle=False, verbose=0)
        return {v.path: np.asarray(v) for v in model.non_trainable_variables if "moving" in v.path}

    first, second, both = statistics(slice(0, 4), 1), statistics(slice(4, 8), 1), statistics(slice(0, 8), 2)
    assert both and any(np.abs(first[name] - second[name]).max() > 1e-3 for name in both)
    for name, value in both.items():
        np.testing.assert_allclose(value, (first[name] + second[name]) / 2, rtol=1e-5, atol=1e-6)


def test_parts_have_random_numbers_of_their_own():
    keras.utils.set_random_seed(0)
    same = keras.layers.Dense(64, use_bias=False, kernel_initializer="identity")
    model = keras.Sequential([keras.Input((64,)), same, keras.layers.Dropout(0.5)])
    seen = []

    class Seen(keras.metrics.Metric):
        """Keeps the outputs of each step."""

        def __init__(self):
            super().__init__()
            self.outputs = self.add_weight(shape=(4, 64), initializer="zeros", name="outputs")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.outputs.assign(y_pred)

        def result(self):
            return keras.ops.convert_to_tensor(self.outputs)

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(np.asarray(metric.outputs))

    metric = Seen()
    model.compile(keras.optimizers.SGD(0.0), loss="mse", metrics=[metric], jit_compile=JIT)
    in_parallel(model, 2)
    ones = np.ones((4, 64), "float32")
    model.fit(ones, ones, batch_size=4, epochs=2, verbose=0, callbacks=[Keep()])
    halves = [half for step in seen for half in (step[:2], step[2:])]
    assert len(halves) == 4 and set(np.unique(halves)) == {0.0, 2.0}
    for i in range(4):
        for j in range(i):
            assert (halves[i] != halves[j]).any()


def test_a_variable_without_a_gradient_stays():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    used, unused = keras.layers.Dense(3), keras.layers.Dense(3)
    model = keras.Model(inputs, [used(inputs), unused(inputs)])
    optimizer = AdamW(0.1, weight_decay=0.5)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, loss=["mse", None], jit_compile=JIT)
    in_parallel(model, 2)
    before = [np.asarray(layer.kernel) for layer in (used, unused)]
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 4)), rng.standard_normal((12, 3))
    model.fit(x, [y, y], batch_size=4, verbose=0)
    after = [np.asarray(layer.kernel) for layer in (used, unused)]
    assert np.abs(after[0] - before[0]).max() > 0.01
    if not JIT:  # JAX has a gradient of 0, with which Keras decays the weights
        np.testing.assert_array_equal(after[1], before[1])


def test_metrics_and_predictions_are_those_of_the_whole_batch():
    config = tiny_config({"model.norm": "group", "finetune.dropout": "0"})
    batch, labels = random_classifier_batch(config, 8), np.eye(3, dtype="float32")[np.arange(8) % 3]
    histories, logits = [], []
    for parts in (1, 2):
        model = tiny_classifier(config)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, metrics=[keras.metrics.CategoricalAccuracy("accuracy")], jit_compile=JIT)
        if parts > 1:
            in_parallel(model, parts)
        histories.append(model.fit(batch, labels, batch_size=8, epochs=3, shuffle=False, verbose=0).history)
        logits.append(model.predict(batch, batch_size=4, verbose=0))
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pretrain.batch": "30"}, "pretrain.batch is 30, which run.parallel_parts=4 does not divide evenly. Change one"),
        ({"run.eval_batch": "30"}, "run.eval_batch is 30, which run.parallel_parts=4 does not divide evenly. Change one"),
        ({"pretrain.accumulate": "2"}, "pretrain.accumulate is 2 and run.parallel_parts is 4, but parts"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    config = tiny_config(changes)
    with pytest.raises(UserError, match=message):
        Devices("cpu", 1, parallel_parts=4).check_run(config.run, 100, pretrain=config.pretrain)


def test_several_devices_have_no_parallel_parts():
    Devices("cpu", 1, parallel_parts=4).check_parallel_parts()
    with pytest.raises(UserError, match="run.parallel_parts is 4, which is for the cores of one CPU, but 2 gpus share"):
        Devices("gpu", 2, parallel_parts=4).check_parallel_parts()


COMMAND = """
import sys
import tensorflow as tf
from pf_keras.cli import main
code = main(sys.argv)
print(tf.config.threading.get_intra_op_parallelism_threads(), tf.config.threading.get_inter_op_parallelism_threads())
sys.exit(code)
"""


@pytest.mark.skipif(JIT, reason="these are threads of TensorFlow")
def test_a_run_shares_the_cores_between_its_parts(tmp_path):
    changes = {"run.parallel_parts": 2, "pretrain.steps": 50, "pretrain.warmup_steps": 5, "pretrain.batch": 16,
               "model.width": 16, "model.depth": 1, "mask.decode_fraction": 0.5}  # fmt: skip
    arguments = ["--mode=pretrain", f"--workdir={tmp_path}", *(f"--config.{name}={value}" for name, value in changes.items())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    cores = len(os.sched_getaffinity(0))
    assert done.stdout.splitlines()[-1] == f"{max(1, cores // 2)} {min(2, cores)}"
    assert "of which a step decodes 19" in done.stderr
