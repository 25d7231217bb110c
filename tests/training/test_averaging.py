"""The running average of the weights: against NumPy, in checkpoints, and exchanged with the weights."""

import json

import h5py
import keras
import numpy as np
import pytest

from pf_keras.config import FinetuneConfig
from pf_keras.errors import UserError
from pf_keras.training.averaging import averaged_weights, has_average
from pf_keras.training.checkpoint import AVERAGED, STATE, WEIGHTS, latest_checkpoint, require_checkpoint, save_checkpoint
from pf_keras.training.optimizer import AdamW, build_optimizer

DECAY = 0.8
STEPS = 6


def tiny_model(**options):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    optimizer = AdamW(0.05, **(options or {"ema": DECAY}))
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, loss="mse", jit_compile=keras.backend.backend() == "jax")
    return model


def weights(model):
    return [np.array(variable) for variable in model.trainable_variables]


class Weights(keras.callbacks.Callback):
    """Collects the weights after each step."""

    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.append(weights(self.model))


def fit(model, epochs=2, steps=STEPS):
    """The weights after each step, over several calls of `fit`."""
    rng = np.random.default_rng(0)
    x, y, seen = rng.standard_normal((8 * steps, 4)), rng.standard_normal((8 * steps, 3)), Weights()
    for _ in range(epochs):
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[seen])
    return seen.values


@pytest.fixture(scope="module")
def run():
    model = tiny_model()
    return model, fit(model)


def average_of(values):
    """In NumPy: the weights after the first step, then a fraction of the difference to the weights of each step."""
    found = [value.astype("float64") for value in values[0]]
    for step in values[1:]:
        found = [old + (1 - DECAY) * (new - old) for old, new in zip(found, step, strict=True)]
    return found


def test_average_equals_numpy_and_fit_leaves_the_weights(run):
    model, values = run
    assert has_average(model) and len(values) == 2 * STEPS
    for variable, value in zip(model.trainable_variables, values[-1], strict=True):
        np.testing.assert_array_equal(np.asarray(variable), value)  # `fit` ended twice and overwrote nothing
    with averaged_weights(model):
        # a product and a sum of float32 for each of 12 steps: 12 * 2 * 6e-8
        for variable, value in zip(model.trainable_variables, average_of(values), strict=True):
            np.testing.assert_allclose(np.asarray(variable), value, rtol=2e-6, atol=1e-7)


def test_average_does_not_change_the_training(run):
    plain = tiny_model(ema=0.0)
    values = fit(plain)
    assert not has_average(plain)
    for one, other in zip(values[-1], run[1][-1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)  # XLA may fuse the step in another way


def test_weights_come_back_bit_for_bit_after_an_error_too(run):
    model, values = run
    statistics = [np.array(v) for v in model.non_trainable_variables]
    with pytest.raises(RuntimeError, match="inside"), averaged_weights(model):
        assert np.abs(weights(model)[0] - values[-1][0]).max() > 1e-3
        raise RuntimeError("inside")
    for one, other in zip(weights(model), values[-1], strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(statistics, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(one, np.asarray(other))


def test_predictions_with_the_average_leave_it_whole(run):
    model, values = run
    before = [np.array(variable) for variable in model.optimizer.variables]
    with averaged_weights(model):
        averaged = model.predict(np.ones((2, 4)), verbose=0)
    assert np.abs(averaged - model.predict(np.ones((2, 4)), verbose=0)).max() > 1e-4
    for one, other in zip(before, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, np.asarray(other))


def test_before_the_first_step_and_without_an_average_nothing_changes():
    uncompiled = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    for model in (tiny_model(), tiny_model(ema=0.0), tiny_model(use_ema=True), uncompiled):
        before = weights(model)
        with averaged_weights(model):
            for one, other in zip(before, weights(model), strict=True):
                np.testing.assert_array_equal(one, other)


def test_checkpoint_has_the_average_for_all_but_a_resumed_run(run, tmp_path, recwarn):
    model, values = run
    save_checkpoint(tmp_path, 12, model)
    for one, other in zip(weights(model), values[-1], strict=True):
        np.testing.assert_array_equal(one, other)
    found = latest_checkpoint(tmp_path)
    folder = tmp_path / "step-00000012"
    assert ["optimizer" in h5py.File(folder / name) for name in (WEIGHTS, AVERAGED)] == [True, False]
    resumed = tiny_model()
    found.load_into(resumed, resume=True)
    for one, other in zip(model.optimizer.variables, resumed.optimizer.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    for one, other in zip(weights(resumed), values[-1], strict=True):
        np.testing.assert_array_equal(one, other)
    uncompiled = keras.Sequential([keras.Input((4,)), *tiny_model().layers])
    for other in (tiny_model(), uncompiled):  # compiled or not
        found.load_into(other)
        for one, value in zip(weights(other), average_of(values), strict=True):
            np.testing.assert_allclose(one, value, rtol=2e-6, atol=1e-7)
    assert not [str(warning.message) for warning in recwarn if "optimizer" in str(warning.message)]


def test_checkpoint_without_an_average_has_no_such_file(tmp_path):
    model = tiny_model(ema=0.0)
    fit(model, epochs=1, steps=1)
    save_checkpoint(tmp_path, 1, model)
    assert sorted(p.name for p in (tmp_path / "step-00000001").iterdir()) == [WEIGHTS, STATE]
    loaded = tiny_model(ema=0.0)
    require_checkpoint(tmp_path).load_into(loaded)
    np.testing.assert_array_equal(weights(loaded)[0], weights(model)[0])


@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_damaged_average_is_reported_and_the_checkpoint_before_it_used(run, tmp_path, capsys, how):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, run[0])
    path = tmp_path / "step-00000002" / AVERAGED
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if how == "flip" else content[:-9])
    if how == "remove":
        path.unlink()
    assert latest_checkpoint(tmp_path).step == 1 and "step-00000002 is damaged" in capsys.readouterr().err
    with pytest.raises(UserError, match="step-00000002 is damaged"):
        require_checkpoint(tmp_path, "2")


def test_optimizer_keeps_its_average_when_it_is_serialized():
    loaded = keras.optimizers.deserialize(json.loads(json.dumps(keras.optimizers.serialize(AdamW(0.1, ema=0.9)))))
    assert type(loaded) is AdamW and loaded.ema == loaded.ema_momentum == 0.9 and loaded.use_ema
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(AdamW(0.1, use_ema=True)))
    assert loaded.use_ema and not loaded.ema


@pytest.mark.parametrize("options", [{"ema": 1.0}, {"ema": -0.1}, {"ema": 0.9, "use_ema": True}])
def test_invalid_averages_are_refused(options):
    with pytest.raises(ValueError, match=r"Expected ema in \[0, 1\), without use_ema. Received: ema="):
        AdamW(0.1, **options)


def test_average_longer_than_the_training_is_a_warning(capsys):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    for steps, warned in ((100, True), (5000, False)):
        build_optimizer(model, FinetuneConfig(ema=0.999), steps, 0)
        assert ("an ema of 0.999 averages over about 1000 steps, but the training has 100: the average keeps 90% of the "
                "initial weights" in capsys.readouterr().err) is warned  # fmt: skip
