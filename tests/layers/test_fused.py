"""What is compiled into one kernel while training, against NumPy and against Keras's own operations."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from layer_checks import check_checkpoints_of_twins, check_layer, gradients, twins
from tiny import examples, randomize

from pf_keras.layers import Mlp
from pf_keras.layers.layer_normalization import LayerNormalization

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(2, 12))


def input_gradient(call, x):
    """Of a weighed sum of `call(x)` by x."""
    weights = np.random.default_rng(0).standard_normal(x.shape).astype("float32")
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(lambda x: ops.sum(call(x) * weights))(ops.convert_to_tensor(x))
    import tensorflow as tf

    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(call(x) * weights)
    return tape.gradient(total, x)


def test_layer_norm_passes_what_any_layer_has_to(tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 4, 8)).astype("float32")
    check_layer(lambda **kwargs: LayerNormalization(**kwargs), x, tmp_path=tmp_path)


@settings(max_examples=examples(25), deadline=None)
@given(SHAPES, st.integers(0, 99), st.booleans())
def test_layer_norm_is_that_of_numpy(shape, seed, training):
    x = (3 * np.random.default_rng(seed).standard_normal(shape) + 2).astype("float32")
    layer, _ = twins(LayerNormalization, keras.layers.LayerNormalization, shape, epsilon=1e-6)
    gamma, beta = map(ops.convert_to_numpy, layer.weights)
    wide = x.astype("float64")
    deviation = wide - wide.mean(axis=-1, keepdims=True)
    expected = deviation / np.sqrt((deviation**2).mean(axis=-1, keepdims=True) + 1e-6) * gamma + beta
    np.testing.assert_allclose(layer(x, training=training), expected, rtol=2e-3, atol=2e-3)


def test_layer_norm_has_keras_own_gradients():
    shape = (3, 5, 8)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    ours, theirs = twins(LayerNormalization, keras.layers.LayerNormalization, shape, epsilon=1e-6)
    for a, b in zip(gradients(ours, [x]), gradients(theirs, [x]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    found, expected = input_gradient(lambda x: ours(x, training=True), x), input_gradient(theirs, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"axis": 1}, {"axis": [1, 2]}, {"center": False}, {"scale": False}, {"axis": 2}])
def test_layer_norm_of_other_kinds_is_keras_own(options):
    shape = (3, 5, 8)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    ours, theirs = twins(LayerNormalization, keras.layers.LayerNormalization, shape, **options)
    np.testing.assert_allclose(ours(x, training=True), theirs(x), rtol=1e-4, atol=1e-5)


def test_gelu_and_its_gradient_are_the_same_in_training_and_out_of_it():
    mlp = Mlp(ratio=3)
    mlp.build((None, None, 8))
    randomize(mlp)
    x = 3 * np.random.default_rng(0).standard_normal((2, 5, 8)).astype("float32")
    np.testing.assert_allclose(mlp(x, training=True), mlp(x, training=False), rtol=1e-4, atol=1e-5)
    found, expected = (input_gradient(lambda x, t=training: mlp(x, training=t), x) for training in (True, False))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX compiles the whole step")
@pytest.mark.parametrize("make", [lambda: Mlp(2), LayerNormalization], ids=["Mlp", "LayerNormalization"])
def test_only_a_training_step_is_compiled(make):
    """A served model must not need XLA."""
    import tensorflow as tf

    layer = make()
    layer.build((None, None, 8))

    def compiled(training):
        step = tf.function(lambda x: layer(x, training=training)).get_concrete_function(tf.TensorSpec((2, 3, 8)))
        library = step.graph.as_graph_def().library.function
        return any(function.attr["_XlaMustCompile"].b for function in library)

    assert compiled(training=True)
    assert not compiled(training=False)


def test_checkpoints_of_kerass_own_layer_norm_are_read_and_the_other_way_round(tmp_path):
    check_checkpoints_of_twins(LayerNormalization, keras.layers.LayerNormalization, (4, 3), tmp_path)


def operations(function):
    """What a traced function is made of, with the functions that it calls: (operation, type of its first input)s."""
    import tensorflow as tf

    graph = tf.function(function).get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for called in graph.library.function for node in called.node_def)]
    kinds = ((node.op, node.attr["T"].type if "T" in node.attr else 0) for node in nodes)
    return {(name, tf.as_dtype(kind).name if kind else "") for name, kind in kinds}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's kernels")
@pytest.mark.parametrize("alone", [True, False])
def test_a_step_has_the_kernels_of_its_own_where_no_strategy_trains(alone, monkeypatch):
    import tensorflow as tf

    from pf_keras.layers.batch_normalization import BatchNormalization
    from pf_keras.training.optimizer import AdamW

    if not alone:
        monkeypatch.setattr("pf_keras.layers.fused.without_strategy", lambda: False)
    norm, variable, optimizer = BatchNormalization(), keras.Variable(np.ones(3, "float32")), AdamW(0.1)
    norm.build((2, 2, 2, 3))
    optimizer.build([variable])
    x = tf.random.normal((2, 2, 2, 3))
    normalizing = {name for name, _ in operations(lambda: norm(x, training=True))}
    updating = {name for name, _ in operations(lambda: optimizer.apply([tf.ones(3)], [variable]))}
    assert ("FusedBatchNormV3" in normalizing) == ("ResourceApplyAdam" in updating) == alone


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="by TensorFlow's graph")
def test_the_softmax_of_attention_is_in_float32_in_any_precision():
    import tensorflow as tf

    from pf_keras.layers import Attention

    layer, x = Attention(2, dtype="mixed_bfloat16"), tf.random.normal((2, 3, 8))
    layer.build(x.shape, x.shape)
    kinds = {kind for name, kind in operations(lambda: layer(x, x)) if name == "Softmax"}
    assert kinds == {"float32"}
