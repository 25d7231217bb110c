"""The fast kernels against NumPy and against the Keras layers that they replace."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from layer_checks import check_checkpoint_exchange, check_layer, convolve, gradients, twins
from tiny import examples, randomize

from pf_keras.layers import Attention, Mlp
from pf_keras.layers.kernels import BatchNormalization, Conv2D, DoublingConv2D, LayerNormalization, compiles

only_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX compiles the whole step")


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def small_maps(**sizes):
    """Random shapes (batch, height, width, channels)."""
    return st.tuples(*(st.integers(*limits) for limits in sizes.values()))


def input_gradient(call, x):
    """The gradient of a weighted sum of `call(x)` with respect to x."""
    weights = floats(*x.shape)
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(lambda x: ops.sum(call(x) * weights))(ops.convert_to_tensor(x))
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(call(x) * weights)
    return tape.gradient(total, x)


def check_same_gradients(pair, x, atol):
    for ours, theirs in zip(*(gradients(layer, [x]) for layer in pair), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol)


# When the kernels are used


def operations(function):
    """The operations of a traced function and of the functions that it calls, each with the dtype of its first input."""
    import tensorflow as tf

    graph = tf.function(function).get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for called in graph.library.function for node in called.node_def)]
    kinds = ((node.op, node.attr["T"].type if "T" in node.attr else 0) for node in nodes)
    return {(name, tf.as_dtype(kind).name if kind else "") for name, kind in kinds}


@only_tensorflow
@pytest.mark.parametrize("alone", [True, False])
def test_fused_kernels_are_used_without_a_strategy_only(alone, monkeypatch):
    import tensorflow as tf

    from pf_keras.training.optimizer import AdamW

    if not alone:
        monkeypatch.setattr("pf_keras.layers.kernels.without_strategy", lambda: False)
    norm, variable, optimizer = BatchNormalization(), keras.Variable(np.ones(3, "float32")), AdamW(0.1)
    norm.build((2, 2, 2, 3))
    optimizer.build([variable])
    x = tf.random.normal((2, 2, 2, 3))
    normalizing = {name for name, _ in operations(lambda: norm(x, training=True))}
    updating = {name for name, _ in operations(lambda: optimizer.apply([tf.ones(3)], [variable]))}
    assert ("FusedBatchNormV3" in normalizing) == ("ResourceApplyAdam" in updating) == alone


@only_tensorflow
@pytest.mark.parametrize("make", [lambda: Mlp(2), LayerNormalization], ids=["Mlp", "LayerNormalization"])
def test_xla_compiles_training_but_not_inference(make):
    """A served model must not need XLA."""
    import tensorflow as tf

    layer = make()
    layer.build((None, None, 8))

    def compiled(training):
        step = tf.function(lambda x: layer(x, training=training)).get_concrete_function(tf.TensorSpec((2, 3, 8)))
        library = step.graph.as_graph_def().library.function
        return any(function.attr["_XlaMustCompile"].b for function in library)

    assert compiled(training=True) == compiles()
    assert not compiled(training=False)


def test_gelu_is_the_same_in_training_and_inference():
    mlp = Mlp(ratio=3)
    mlp.build((None, None, 8))
    randomize(mlp)
    x = 3 * floats(2, 5, 8)
    np.testing.assert_allclose(mlp(x, training=True), mlp(x, training=False), rtol=1e-4, atol=1e-5)
    found, expected = (input_gradient(lambda x, t=training: mlp(x, training=t), x) for training in (True, False))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@only_tensorflow
def test_attention_softmax_is_float32_in_any_precision():
    import tensorflow as tf

    layer, x = Attention(2, dtype="mixed_bfloat16"), tf.random.normal((2, 3, 8))
    layer.build(x.shape, x.shape)
    kinds = {kind for name, kind in operations(lambda: layer(x, x)) if name == "Softmax"}
    assert kinds == {"float32"}


# LayerNormalization


def test_layer_norm_is_a_keras_layer(tmp_path):
    check_layer(lambda **kwargs: LayerNormalization(**kwargs), floats(3, 4, 8), tmp_path=tmp_path)


@settings(max_examples=examples(25), deadline=None)
@given(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(2, 12)), st.integers(0, 99), st.booleans())
def test_layer_norm_matches_numpy(shape, seed, training):
    x = 3 * floats(*shape, seed=seed) + 2
    layer, _ = twins(LayerNormalization, keras.layers.LayerNormalization, shape, epsilon=1e-6)
    gamma, beta = map(ops.convert_to_numpy, layer.weights)
    wide = x.astype("float64")
    deviation = wide - wide.mean(axis=-1, keepdims=True)
    expected = deviation / np.sqrt((deviation**2).mean(axis=-1, keepdims=True) + 1e-6) * gamma + beta
    np.testing.assert_allclose(layer(x, training=training), expected, rtol=2e-3, atol=2e-3)


def test_layer_norm_has_the_gradients_of_keras():
    shape = (3, 5, 8)
    x = floats(*shape)
    ours, theirs = twins(LayerNormalization, keras.layers.LayerNormalization, shape, epsilon=1e-6)
    check_same_gradients((ours, theirs), x, atol=1e-5)
    found, expected = input_gradient(lambda x: ours(x, training=True), x), input_gradient(theirs, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"axis": 1}, {"axis": [1, 2]}, {"center": False}, {"scale": False}, {"axis": 2}])
def test_layer_norm_with_other_options_matches_keras(options):
    shape = (3, 5, 8)
    x = floats(*shape)
    ours, theirs = twins(LayerNormalization, keras.layers.LayerNormalization, shape, **options)
    np.testing.assert_allclose(ours(x, training=True), theirs(x), rtol=1e-4, atol=1e-5)


def test_layer_norm_exchanges_checkpoints_with_keras(tmp_path):
    check_checkpoint_exchange(LayerNormalization, keras.layers.LayerNormalization, (4, 3), tmp_path)


# BatchNormalization


def batch_norms(shape):
    return twins(BatchNormalization, keras.layers.BatchNormalization, shape, epsilon=1e-5, momentum=0.9)


def test_batch_norm_is_a_keras_layer(tmp_path):
    check_layer(lambda **kwargs: BatchNormalization(**kwargs), floats(6, 4, 4, 8), tmp_path=tmp_path)


@settings(max_examples=examples(25), deadline=None)
@given(small_maps(batch=(2, 9), height=(1, 5), width=(1, 5), channels=(1, 12)), st.integers(0, 99))
def test_batch_norm_outputs_and_moving_statistics_match_numpy(shape, seed):
    x = 3 * floats(*shape, seed=seed) + 2
    layer, _ = batch_norms(shape)
    gamma, beta, moving_mean, moving_variance = map(ops.convert_to_numpy, layer.weights)
    mean, variance = x.mean(axis=(0, 1, 2), dtype="float64"), x.var(axis=(0, 1, 2), dtype="float64")
    found = ops.convert_to_numpy(layer(x, training=True))
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(layer.moving_mean, 0.9 * moving_mean + 0.1 * mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 * moving_variance + 0.1 * variance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 4, 4, 12), (5, 1, 1, 3)])
def test_batch_norm_has_the_gradients_of_keras(shape):
    check_same_gradients(batch_norms(shape), floats(*shape), atol=1e-4)


@pytest.mark.parametrize("options", [{"axis": 1}, {"center": False}, {"scale": False}, {"axis": 3}])
@pytest.mark.parametrize("shape", [(6, 4, 4, 3), (6, 5, 4, 3)])
def test_batch_norm_with_other_options_matches_keras(options, shape):
    x = floats(*shape)
    ours, theirs = twins(BatchNormalization, keras.layers.BatchNormalization, shape, **options)
    np.testing.assert_allclose(ours(x, training=True), theirs(x, training=True), rtol=1e-4, atol=1e-4)
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16", "mixed_float16"])
def test_batch_norm_in_other_precisions_matches_keras(dtype):
    shape = (4, 2, 2, 3)
    x = np.random.default_rng(0).standard_normal(shape)
    ours, theirs = twins(BatchNormalization, keras.layers.BatchNormalization, shape, dtype=dtype)
    found, expected = (np.array(layer(x, training=True)).astype("float64") for layer in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)


def test_batch_norm_keeps_its_statistics_when_frozen_and_in_inference():
    shape = (4, 2, 2, 3)
    x = floats(*shape)
    layer, keras_own = batch_norms(shape)
    expected = ops.convert_to_numpy(keras_own(x, training=False))
    np.testing.assert_allclose(layer(x, training=False), expected, rtol=1e-5, atol=1e-6)
    layer.trainable = False
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-5, atol=1e-6)


def test_batch_norm_exchanges_checkpoints_with_keras(tmp_path):
    check_checkpoint_exchange(BatchNormalization, keras.layers.BatchNormalization, (4, 2, 2, 3), tmp_path)


# Conv2D


def test_conv_is_a_keras_layer(tmp_path):
    check_layer(lambda **kwargs: Conv2D(4, 3, padding="same", **kwargs), floats(6, 2, 2, 8), tmp_path=tmp_path)


@settings(max_examples=examples(40), deadline=None)
@given(
    shape=small_maps(batch=(1, 4), height=(1, 4), width=(1, 4), channels=(1, 5)),
    size=st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 3, 5, 7])),
    filters=st.integers(1, 5),
)
def test_conv_matches_numpy(shape, size, filters):
    x = floats(*shape)
    layer = Conv2D(filters, size, padding="same", bias_initializer="random_normal")
    found = ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(found, convolve(x, *map(ops.convert_to_numpy, layer.weights)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "size", "product"), [(2, 3, True), (1, 3, True), (4, 7, True), (3, 3, False), (4, 3, False)])
def test_conv_is_a_matrix_product_on_small_maps_only(side, size, product, monkeypatch):
    calls, conv = [], keras.layers.Conv2D.convolution_op
    monkeypatch.setattr(keras.layers.Conv2D, "convolution_op", lambda *args: calls.append(1) or conv(*args))
    Conv2D(4, size, padding="same")(np.zeros((2, side, side, 3), "float32"))
    assert len(calls) == (not product)


OTHERS = [{"strides": 2}, {"padding": "valid"}, {"dilation_rate": 2}, {"groups": 2}, {"kernel_size": 2}, {"use_bias": False}]


@pytest.mark.parametrize("options", [{}, *OTHERS])
def test_conv_has_the_gradients_of_keras(options):
    if "groups" in options and not compiles():
        pytest.skip("Keras compiles a convolution in groups with the XLA that tensorflow-tpu lacks for CPUs")
    shape = (5, 3, 3, 4) if options.get("padding") == "valid" else (5, 2, 2, 4)
    pair = twins(Conv2D, keras.layers.Conv2D, shape, **{"filters": 6, "kernel_size": 3, "padding": "same", **options})
    check_same_gradients(pair, floats(*shape), atol=1e-4)


def test_conv_of_a_map_of_unknown_size():
    inputs = keras.Input((None, None, 3))
    layer = Conv2D(4, 3, padding="same")
    model = keras.Model(inputs, layer(inputs))
    x = floats(2, 2, 2, 3)
    np.testing.assert_allclose(model.predict(x, verbose=0), layer(x), rtol=1e-4, atol=1e-5)


def test_conv_exchanges_checkpoints_with_keras(tmp_path):
    options = {"filters": 4, "kernel_size": 3, "padding": "same"}
    check_checkpoint_exchange(Conv2D, keras.layers.Conv2D, (4, 2, 2, 3), tmp_path, **options)


# DoublingConv2D


def test_doubling_conv_is_a_keras_layer(tmp_path):
    check_layer(lambda **kwargs: DoublingConv2D(4, **kwargs), floats(6, 2, 2, 8), tmp_path=tmp_path)


@settings(max_examples=examples(15), deadline=None)
@given(shape=small_maps(batch=(1, 4), height=(1, 4), width=(1, 4), channels=(1, 5)), filters=st.integers(1, 5))
def test_doubling_conv_matches_numpy(shape, filters):
    x = floats(*shape)
    layer = DoublingConv2D(filters, bias_initializer="random_normal")
    found = ops.convert_to_numpy(layer(x))
    doubled = x.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(found, convolve(doubled, *map(ops.convert_to_numpy, layer.weights)), rtol=1e-4, atol=1e-4)


def test_doubling_conv_has_the_gradients_of_keras():
    class Doubled(keras.layers.Conv2D):
        def call(self, x):
            return super().call(ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2))

    x = floats(5, 3, 2, 4)
    pair = twins(DoublingConv2D, lambda filters: Doubled(filters, 3, padding="same"), x.shape, filters=6)
    check_same_gradients(pair, x, atol=1e-4)
