"""A batch that is computed in parts gives the step of the whole batch, in the memory of a part."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from tiny import tiny_config, tiny_pretrainer, trained_pretrainer

from pf_keras.layers.kernels import compiles
from pf_keras.training.accumulate import accumulate
from pf_keras.training.optimizer import AdamW

ROOT = Path(__file__).parents[2]


def trained(config, parts, optimizer, **options):
    return trained_pretrainer(config, optimizer, parts > 1 and partial(accumulate, parts=parts), **options)


CONFIG = tiny_config({"model.norm": "group"})


def gradients(parts):
    """The gradients of a batch. With SGD a weight moves by its gradient, times 100 here so that a float32 weight holds it."""
    model, initial = trained(CONFIG, parts, keras.optimizers.SGD(100.0), steps=1)[0], tiny_pretrainer(CONFIG)
    pairs = zip(model.trainable_variables, initial.trainable_variables, strict=True)
    return {start.path: np.asarray(variable) - np.asarray(start) for variable, start in pairs}


@pytest.fixture(scope="module")
def whole():
    return gradients(1), trained(CONFIG, 1, keras.optimizers.SGD(0.1))[1]


@pytest.mark.parametrize("parts", [2, 8])
def test_parts_give_the_step_of_the_whole_batch(whole, parts):
    """A gradient sums some 10,000 terms, here in another order. Their rounding, 6e-8 each, adds up like the square root of
    their number to about 1e-5 of the largest one."""
    for name, gradient in gradients(parts).items():
        expected = whole[0][name]
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-4 * np.abs(expected).max() + 1e-9, err_msg=name)
    np.testing.assert_allclose(trained(CONFIG, parts, keras.optimizers.SGD(0.1))[1], whole[1], rtol=1e-5)


@pytest.mark.long
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX always compiles")
def test_parts_compiled_by_xla_as_on_a_gpu(whole):
    if not compiles():
        pytest.skip("tensorflow-tpu compiles for TPUs alone")
    losses = trained(CONFIG, 4, keras.optimizers.SGD(0.1), jit_compile=True)[1]
    np.testing.assert_allclose(losses, whole[1], rtol=1e-5)


def test_the_gradient_is_clipped_after_it_is_summed():
    norms = []
    for parts in (1, 4):
        model, _ = trained(CONFIG, parts, AdamW(1e-3, clip_norm=0.1), steps=1)
        norms.append(float(keras.ops.convert_to_numpy(model.optimizer.gradient_norm)))
        first_moment = sum(np.square(np.asarray(m)).sum() for m in model.optimizer._momentums) ** 0.5
        assert first_moment == pytest.approx((1 - 0.9) * 0.1, rel=1e-4)
    assert norms[0] > 0.1 and norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_batch_norm_sees_the_parts():
    means = []
    for parts in (1, 2):
        model, _ = trained(tiny_config(), parts, keras.optimizers.SGD(0.0), steps=1)
        means.append(next(np.asarray(v) for v in model.variables if v.path.endswith("moving_mean")))
    assert np.abs(means[1] - means[0]).max() > 1e-4  # two updates of the moving mean in place of one


@pytest.mark.parametrize("parts", [1, 3])
def test_the_logged_accuracy_is_that_of_the_whole_batch(parts):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    optimizer = keras.optimizers.SGD(0.0)
    optimizer.build(model.trainable_variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=keras.backend.backend() == "jax")
    if parts > 1:
        accumulate(model, parts)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((24, 4)).astype("float32"), np.arange(24) % 5 % 3
    right = keras.ops.convert_to_numpy(model(x)).argmax(1) == y
    assert len({right[part::3].sum() for part in range(3)}) > 1 and right[:12].mean() != right[12:].mean()
    logged = []
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: logged.append(logs["accuracy"]))
    model.fit(x, y, batch_size=12, shuffle=False, verbose=0, callbacks=[callback])
    assert logged == pytest.approx([right[:12].mean(), right.mean()])


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_a_variable_without_a_gradient_stays(steps_per_execution):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    used, unused = keras.layers.Dense(3), keras.layers.Dense(3)
    model = keras.Model(inputs, [used(inputs), unused(inputs)])
    optimizer = AdamW(0.1, weight_decay=0.5)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, loss=["mse", None], jit_compile=keras.backend.backend() == "jax",
                  steps_per_execution=steps_per_execution)  # fmt: skip
    accumulate(model, 2)
    before = [np.asarray(layer.kernel) for layer in (used, unused)]
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 4)), rng.standard_normal((12, 3))
    model.fit(x, [y, y], batch_size=4, verbose=0)
    after = [np.asarray(layer.kernel) for layer in (used, unused)]
    assert np.abs(after[0] - before[0]).max() > 0.01
    if keras.backend.backend() == "tensorflow":  # JAX has a gradient of 0, with which Keras decays the weights
        np.testing.assert_array_equal(after[1], before[1])
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 3


MEMORY = r"""
import re, sys
from pathlib import Path
import keras, numpy as np
from pf_keras.layers.kernels import compiles
from pf_keras.training.accumulate import accumulate
parts = int(sys.argv[1])
layers = [keras.layers.Dense(32, activation="relu") for _ in range(8)]
model = keras.Sequential([keras.Input((2048, 3)), *layers, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)])
model.compile(keras.optimizers.SGD(0.1), loss="mse", jit_compile=keras.backend.backend() == "jax")
model.optimizer.build(model.trainable_variables)
if parts > 1:
    accumulate(model, parts)
x, y = np.zeros((256, 2048, 3), "uint8"), np.zeros((256, 1))
def peak():
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024
Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
before = peak()
model.fit(x, y, batch_size=128, epochs=2, verbose=0)
print(peak() - before)
"""


@pytest.mark.long
def test_a_batch_in_parts_needs_the_memory_of_a_part():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    megabytes = []
    for parts in (1, 8):
        command = [sys.executable, "-c", MEMORY, str(parts)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
        megabytes.append(int(done.stdout.splitlines()[-1]))
    print(f"{megabytes[0]} MB for the whole batch, {megabytes[1]} MB in 8 parts")
    assert megabytes[1] < megabytes[0] / 3
