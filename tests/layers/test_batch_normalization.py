"""Batch normalisation by the fused kernel against NumPy, and against Keras's own where it trains."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from layer_checks import check_checkpoints_of_twins, check_layer, gradients, twins
from tiny import examples

from pf_keras.layers.batch_normalization import BatchNormalization

SHAPES = st.tuples(st.integers(2, 9), st.integers(1, 5), st.integers(1, 5), st.integers(1, 12))


def both(shape):
    return twins(BatchNormalization, keras.layers.BatchNormalization, shape, epsilon=1e-5, momentum=0.9)


def test_it_passes_what_any_layer_has_to(tmp_path):
    x = np.random.default_rng(0).standard_normal((6, 4, 4, 8)).astype("float32")
    check_layer(lambda **kwargs: BatchNormalization(**kwargs), x, tmp_path=tmp_path)


@settings(max_examples=examples(25), deadline=None)
@given(SHAPES, st.integers(0, 99))
def test_outputs_and_moving_statistics_are_those_of_numpy(shape, seed):
    x = (3 * np.random.default_rng(seed).standard_normal(shape) + 2).astype("float32")
    layer, _ = both(shape)
    gamma, beta, moving_mean, moving_variance = map(ops.convert_to_numpy, layer.weights)
    mean, variance = x.mean(axis=(0, 1, 2), dtype="float64"), x.var(axis=(0, 1, 2), dtype="float64")
    found = ops.convert_to_numpy(layer(x, training=True))
    np.testing.assert_allclose(found, (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(layer.moving_mean, 0.9 * moving_mean + 0.1 * mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 * moving_variance + 0.1 * variance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 4, 4, 12), (5, 1, 1, 3)])
def test_gradients_are_those_of_keras(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    ours, theirs = (gradients(layer, [x]) for layer in both(shape))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"axis": 1}, {"center": False}, {"scale": False}, {"axis": 3}])
@pytest.mark.parametrize("shape", [(6, 4, 4, 3), (6, 5, 4, 3)])
def test_other_kinds_are_keras_own(options, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    ours, theirs = twins(BatchNormalization, keras.layers.BatchNormalization, shape, **options)
    np.testing.assert_allclose(ours(x, training=True), theirs(x, training=True), rtol=1e-4, atol=1e-4)
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_checkpoints_of_kerass_own_are_read_and_the_other_way_round(tmp_path):
    check_checkpoints_of_twins(BatchNormalization, keras.layers.BatchNormalization, (4, 2, 2, 3), tmp_path)


def test_frozen_or_at_evaluation_it_keeps_its_statistics():
    shape = (4, 2, 2, 3)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    layer, keras_own = both(shape)
    expected = ops.convert_to_numpy(keras_own(x, training=False))
    np.testing.assert_allclose(layer(x, training=False), expected, rtol=1e-5, atol=1e-6)
    layer.trainable = False
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16", "mixed_float16"])
def test_precisions_that_the_kernel_lacks_are_keras_own(dtype):
    shape = (4, 2, 2, 3)
    x = np.random.default_rng(0).standard_normal(shape)
    ours, theirs = twins(BatchNormalization, keras.layers.BatchNormalization, shape, dtype=dtype)
    found, expected = (np.array(layer(x, training=True)).astype("float64") for layer in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)
