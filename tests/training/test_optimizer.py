"""AdamW against NumPy, Keras and tensorflow-addons; weight-decay exclusions, the schedule, layer-wise learning rates."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from tiny import random_batch, tiny_config, tiny_pretrainer

from pf_keras.config import FinetuneConfig, PretrainConfig
from pf_keras.training.learning_rate import layer_rates, learning_rate_at, peak
from pf_keras.training.optimizer import AdamW, build_optimizer, no_decay

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tensorflow_addons.json").read_text())["adamw"]


def variables_of(values):
    return {name: keras.Variable(np.array(value, "float32"), name="v") for name, value in values.items()}


def apply(optimizer, gradients, variables):
    """Update the variables once, as `fit` does."""
    gradients = [ops.convert_to_tensor(np.array(gradient, "float32")) for gradient in gradients]
    if keras.backend.backend() == "tensorflow":
        optimizer.apply(gradients, list(variables))
        return
    import jax

    values, state = ([variable.value for variable in part] for part in (variables, optimizer.variables))
    values, state = jax.jit(optimizer.stateless_apply)(state, gradients, values)
    for variable, value in zip([*variables, *optimizer.variables], [*values, *state], strict=True):
        variable.assign(value)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden["name"])
def test_same_values_as_tensorflow_addons(golden):
    """Values recorded from tensorflow-addons 0.23, which does not multiply the decay by the learning rate."""
    variables = variables_of(golden["start"])
    optimizer = AdamW(
        golden["learning_rate"],
        weight_decay=golden["weight_decay_tfa"] / golden["learning_rate"],
        beta_1=golden["beta_1"],
        beta_2=golden["beta_2"],
        epsilon=golden["epsilon"],
        clip_norm=0,
    )
    # All have the same name here, so only their identity can exclude them.
    optimizer.exclude_from_weight_decay(var_list=[v for n, v in variables.items() if n not in golden["decayed"]])
    optimizer.build(list(variables.values()))
    for gradients, values in zip(golden["gradients"], golden["values"], strict=True):
        apply(optimizer, [gradients[name] for name in variables], variables.values())
        for name, variable in variables.items():
            np.testing.assert_allclose(variable.numpy(), np.array(values[name]), rtol=1e-6, atol=1e-6)


def reference_adamw(values, steps, rate, decay, clip, beta_1=0.9, beta_2=0.99, epsilon=1.0):
    """AdamW in NumPy that clips the whole gradient. With an epsilon of 1, the size of the gradient matters."""
    values = [value.astype("float64") for value in values]
    first, second = [[np.zeros(value.shape) for value in values] for _ in range(2)]
    norms = []
    for step, gradients in enumerate(steps, 1):
        norm = np.sqrt(sum((gradient.astype("float64") ** 2).sum() for gradient in gradients))
        norms.append(norm)
        scale = min(1.0, clip / norm) if clip else 1.0
        for i, gradient in enumerate(gradients):
            first[i] = beta_1 * first[i] + (1 - beta_1) * scale * gradient
            second[i] = beta_2 * second[i] + (1 - beta_2) * (scale * gradient) ** 2
            speed = rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
            values[i] = values[i] * (1 - rate * decay) - speed * first[i] / (np.sqrt(second[i]) + epsilon)
    return values, norms


@pytest.mark.parametrize("clip_norm", [0.0, 0.5, 1e6])
def test_clipping_uses_the_norm_of_all_gradients(clip_norm):
    rng = np.random.default_rng(0)
    start = {"kernel": rng.standard_normal((3, 2)), "bias": rng.standard_normal(2)}
    steps = [[rng.standard_normal((3, 2)) * size, rng.standard_normal(2) * size] for size in (0.1, 1.0, 3.0)]
    variables = variables_of(start)
    optimizer = AdamW(0.1, weight_decay=0.2, beta_2=0.99, epsilon=1.0, clip_norm=clip_norm)
    optimizer.build(list(variables.values()))
    expected, norms = reference_adamw(start.values(), steps, 0.1, 0.2, clip_norm)
    for gradients, norm in zip(steps, norms, strict=True):
        apply(optimizer, gradients, variables.values())
        np.testing.assert_allclose(float(ops.convert_to_numpy(optimizer.gradient_norm)), norm, rtol=1e-5)
    for variable, value in zip(variables.values(), expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, atol=1e-5)


def test_serialized_optimizer_keeps_its_clip_norm():
    optimizer = AdamW(0.1, weight_decay=0.2, clip_norm=3.0)
    loaded = keras.optimizers.deserialize(json.loads(json.dumps(keras.optimizers.serialize(optimizer))))
    assert type(loaded) is AdamW and loaded.clip_norm == 3.0 and loaded.weight_decay == 0.2


@pytest.fixture(scope="module")
def model():
    return tiny_pretrainer(tiny_config({"model.norm": "group"}))


def optimizer_of(model, steps=100, warmup_steps=10):
    settings = PretrainConfig(learning_rate=0.5, weight_decay=0.2, beta_2=0.9, clip_norm=1.0)
    return build_optimizer(model, settings, steps, warmup_steps)


def test_only_kernels_have_weight_decay(model):
    names = {"bias", "gamma", "beta", "query", "rows", "columns"}
    named = {id(v) for v in model.trainable_variables if v.name in names}
    assert {id(variable) for variable in no_decay(model)} == named
    assert {v.name for v in model.trainable_variables if id(v) not in named} == {"kernel"}
    assert {v.name for v in no_decay(model)} == names


def test_weight_decay_moves_only_kernels(model):
    """A step with a gradient of 0: kernels shrink by learning rate times decay, and nothing else moves."""
    optimizer = optimizer_of(model, warmup_steps=0)
    before = [variable.numpy() for variable in model.trainable_variables]
    apply(optimizer, [np.zeros(value.shape) for value in before], model.trainable_variables)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        factor = 1 - 0.5 * 0.2 if variable.name == "kernel" else 1
        np.testing.assert_allclose(variable.numpy(), factor * value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("steps, warmup", [(100, 10), (100, 0), (5, 10), (1, 10)])
def test_schedule_is_a_linear_warm_up_then_a_cosine(model, steps, warmup):
    optimizer = optimizer_of(model, steps, warmup)
    warmup = min(warmup, steps - 1)
    for step in sorted({0, 1, warmup // 2, warmup, (steps + warmup) // 2, steps - 1, steps}):
        optimizer.iterations.assign(step)
        if step < warmup:
            expected = 0.5 * step / warmup
        else:
            expected = 0.5 * 0.5 * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup)))
        np.testing.assert_allclose(float(ops.convert_to_numpy(optimizer.learning_rate)), expected, atol=1e-6)


def test_layer_rates_scale_the_updates_of_each_layer():
    """A variable moves by its layer's factor times the distance that it moves under one learning rate for all layers."""
    config = tiny_config()
    decay, depth = 0.5, config.model.depth
    factors = {"patch_encoder": decay ** (depth + 1), "positions": decay ** (depth + 1)}
    factors |= {f"block_{i}": decay ** (depth - i) for i in range(depth)}
    moved = []
    for scaled in (False, True):
        model = tiny_pretrainer(config, seed=0)
        before = [v.numpy() for v in model.trainable_variables]
        settings = PretrainConfig(learning_rate=1e-2, weight_decay=0.0, beta_2=0.999, clip_norm=1.0)
        optimizer = build_optimizer(model, settings, steps=9, warmup_steps=0)
        if scaled:
            optimizer.scale_rates(layer_rates(model.backbone, decay))
        rng = np.random.default_rng(1)
        apply(optimizer, [rng.normal(size=v.shape) for v in model.trainable_variables], model.trainable_variables)
        moved.append([v.numpy() - old for v, old in zip(model.trainable_variables, before, strict=True)])
    seen = set()
    for variable, plain, scaled in zip(model.trainable_variables, *moved, strict=True):
        parts = variable.path.split("/")
        named = [name for name in factors if name in parts and "decoder" not in parts]  # which has blocks of these names too
        seen.update(named)
        np.testing.assert_allclose(scaled, plain * (factors[named[0]] if named else 1.0), rtol=1e-3, atol=1e-7)
    assert seen == set(factors)


@pytest.mark.parametrize("options", [{"amsgrad": True}, {"gradient_accumulation_steps": 2}, {"use_ema": True}])
def test_options_of_keras_work_as_in_its_adamw(options):
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal((4, 3)), rng.standard_normal((6, 4, 3))
    gradients[-1] /= 10  # so that the last second moment is not the largest
    results = []
    for kind in (AdamW, keras.optimizers.AdamW):
        variable = keras.Variable(start.astype("float32"))
        optimizer = kind(0.1, weight_decay=0.2, beta_2=0.5, **options)
        optimizer.build([variable])
        for gradient in gradients:
            apply(optimizer, [gradient], [variable])
        results.append([v.numpy() for v in [variable, *optimizer.variables] if v.name != "gradient_norm"])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def fitted(model, optimizer, data, batch):
    """How far the variables of a model move in a plain `fit`."""
    start = [np.array(v) for v in model.trainable_variables]
    model.compile(optimizer, loss=None if isinstance(data, dict) else "mse")
    model.fit(*([data] if isinstance(data, dict) else data), batch_size=batch, shuffle=False, verbose=0)
    return [np.asarray(v) - old for v, old in zip(model.trainable_variables, start, strict=True)]


# With an epsilon of 0.1 a weight moves in proportion to its gradient, whose rounding (1e-4 of the largest, see
# test_accumulate.py) does not become a whole step.
SMOOTH = {"learning_rate": 0.01, "weight_decay": 0.2, "epsilon": 0.1}


@pytest.mark.parametrize("options", [{"gradient_accumulation_steps": 2}, {"use_ema": True, "ema_momentum": 0.5}], ids=str)
def test_options_of_keras_work_in_a_plain_fit(options):
    rng, results = np.random.default_rng(0), []
    data = rng.standard_normal((16, 4)).astype("float32"), rng.standard_normal((16, 3)).astype("float32")
    for kind in (AdamW, keras.optimizers.AdamW):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)])
        results.append(fitted(model, kind(**SMOOTH, **options), data, batch=2))
    for ours, theirs in zip(*results, strict=True):
        assert np.abs(theirs).max() > 1e-4
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3 * np.abs(theirs).max())


def test_accumulation_of_keras_gives_the_steps_of_whole_batches():
    """In a pre-trainer, whose positions have gradients by rows."""
    config = tiny_config({"model.norm": "group"})
    data = random_batch(config, batch=16)
    whole = fitted(tiny_pretrainer(config), AdamW(**SMOOTH), data, batch=8)
    model = tiny_pretrainer(config)
    accumulated = fitted(model, AdamW(**SMOOTH, gradient_accumulation_steps=2), data, batch=4)
    for variable, ours, expected in zip(model.trainable_variables, accumulated, whole, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3 * np.abs(expected).max() + 1e-7, err_msg=variable.path)


def test_accumulation_of_keras_is_refused_on_several_replicas(monkeypatch):
    """Keras's own AdamW fails there with an error about `tf.cond`."""
    variable = keras.Variable(np.ones(3, "float32"))
    optimizer = AdamW(0.1, gradient_accumulation_steps=2)
    optimizer.build([variable])
    monkeypatch.setattr("pf_keras.training.optimizer._replicas", lambda: 4)
    with pytest.raises(ValueError, match="Expected one replica with gradient_accumulation_steps. Received: 4 replicas. Call"):
        optimizer.apply([ops.ones(3)], [variable])
    AdamW(0.1).apply([ops.ones(3)], [keras.Variable(np.ones(3, "float32"))])


def test_learning_rate_per_256_replaces_the_learning_rate(model):
    for settings, highest in (
        (PretrainConfig(learning_rate=0.5, batch=64), 0.5),
        (PretrainConfig(learning_rate=0.5, batch=64, learning_rate_per_256=0.02), 0.005),
        (FinetuneConfig(batch=512, learning_rate_per_256=0.02), 0.04),
    ):
        assert peak(settings) == pytest.approx(highest)
        rates = [learning_rate_at(build_optimizer(model, settings, 100, 10), step) for step in (0, 5, 10, 99)]
        assert rates[0] == 0 and rates[1:3] == pytest.approx([highest / 2, highest]) and rates[3] < highest / 100


def test_layer_rates_do_not_scale_weight_decay():
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal((2, 5)), [rng.standard_normal((2, 5)) for _ in range(3)]
    variables = [keras.Variable(row.astype("float32")) for row in start]
    optimizer = AdamW(0.1, weight_decay=0.2, beta_2=0.99, epsilon=1.0)
    optimizer.build(variables)
    optimizer.scale_rates([(variables[1], 0.5)])
    for gradient in gradients:
        apply(optimizer, gradient, variables)
    for row, variable, factor in zip(range(2), variables, (1.0, 0.5), strict=True):
        steps = [[gradient[row : row + 1]] for gradient in gradients]
        (expected,), _ = reference_adamw([start[row : row + 1]], steps, 0.1 * factor, 0.2 / factor, clip=0)
        np.testing.assert_allclose(variable.numpy(), expected[0], atol=1e-5)


def test_small_decay_is_not_rounded_away():
    """Learning rate times decay is 1.5e-7, as in the paper's schedule. The spacing of float32 below 1 is 6e-8."""
    before = np.random.default_rng(0).standard_normal(100_000).astype("float32")
    variable = keras.Variable(before)
    optimizer = AdamW(1.5e-4, weight_decay=1e-3)
    optimizer.build([variable])
    apply(optimizer, [np.zeros(before.shape)], [variable])
    moved = before.astype("float64") - variable.numpy()
    assert np.dot(moved, before) / np.dot(before, before) == pytest.approx(1.5e-7, rel=0.1)


@pytest.mark.parametrize("option", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_clipping_options_of_keras_are_refused(option):
    with pytest.raises(ValueError, match=f"clip_norm.*{option}=1.0"):
        AdamW(0.1, **{option: 1.0})


def test_building_twice_creates_variables_once():
    variable = keras.Variable(np.ones(3, "float32"))
    optimizer = AdamW(0.1)
    for _ in range(2):
        optimizer.build([variable])
    assert [v.name for v in optimizer.variables].count("gradient_norm") == 1


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow has the kernel")
@pytest.mark.parametrize("kind", ["TensorFlow variable", "float64", "strategy"])
def test_numbers_are_the_same_where_the_kernel_cannot_be_used(kind, monkeypatch):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    start, steps = rng.standard_normal((3, 2)), [[rng.standard_normal((3, 2))] for _ in range(3)]
    variable = keras.Variable(start, dtype="float64" if kind == "float64" else "float32")
    if kind == "TensorFlow variable":
        variable = tf.Variable(start.astype("float32"))
    if kind == "strategy":
        monkeypatch.setattr("pf_keras.layers.kernels.without_strategy", lambda: False)
    optimizer = AdamW(0.1, weight_decay=0.2, beta_2=0.99, epsilon=1.0, clip_norm=0.5)
    for (gradient,) in steps:
        optimizer.apply([tf.constant(gradient, variable.dtype)], [variable])
    (expected,), _ = reference_adamw([start], steps, 0.1, 0.2, 0.5)
    np.testing.assert_allclose(variable.numpy(), expected, atol=1e-5)
