"""Convolutions of small maps as one matrix product, and of doubled ones, against NumPy and against Keras's own."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from layer_checks import check_checkpoints_of_twins, check_layer, convolve, gradients, twins
from tiny import examples

from pf_keras.layers.convolution import Conv2D, DoublingConv2D


@settings(max_examples=examples(40), deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)),
    size=st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 3, 5, 7])),
    filters=st.integers(1, 5),
)
def test_outputs_are_those_of_numpy(shape, size, filters):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype("float32")
    layer = Conv2D(filters, size, padding="same", bias_initializer="random_normal")
    found = ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(found, convolve(x, *map(ops.convert_to_numpy, layer.weights)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "size", "product"), [(2, 3, True), (1, 3, True), (4, 7, True), (3, 3, False), (4, 3, False)])
def test_small_maps_alone_are_a_matrix_product(side, size, product, monkeypatch):
    calls, conv = [], keras.layers.Conv2D.convolution_op
    monkeypatch.setattr(keras.layers.Conv2D, "convolution_op", lambda *args: calls.append(1) or conv(*args))
    Conv2D(4, size, padding="same")(np.zeros((2, side, side, 3), "float32"))
    assert len(calls) == (not product)


@settings(max_examples=examples(15), deadline=None)
@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)), filters=st.integers(1, 5))
def test_a_doubled_map_is_convolved_as_by_numpy(shape, filters):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    layer = DoublingConv2D(filters, bias_initializer="random_normal")
    found = ops.convert_to_numpy(layer(x))
    doubled = x.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(found, convolve(doubled, *map(ops.convert_to_numpy, layer.weights)), rtol=1e-4, atol=1e-4)


OTHERS = [{"strides": 2}, {"padding": "valid"}, {"dilation_rate": 2}, {"groups": 2}, {"kernel_size": 2}, {"use_bias": False}]


@pytest.mark.parametrize("options", [{}, *OTHERS])
def test_gradients_are_those_of_keras(options):
    shape = (5, 3, 3, 4) if options.get("padding") == "valid" else (5, 2, 2, 4)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    both = twins(Conv2D, keras.layers.Conv2D, shape, **{"filters": 6, "kernel_size": 3, "padding": "same", **options})
    ours, theirs = (gradients(layer, [x]) for layer in both)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_map_whose_size_is_known_when_it_is_run_only():
    inputs = keras.Input((None, None, 3))
    layer = Conv2D(4, 3, padding="same")
    model = keras.Model(inputs, layer(inputs))
    x = np.random.default_rng(0).standard_normal((2, 2, 2, 3)).astype("float32")
    np.testing.assert_allclose(model.predict(x, verbose=0), layer(x), rtol=1e-4, atol=1e-5)


def test_it_passes_what_any_layer_has_to(tmp_path):
    x = np.random.default_rng(0).standard_normal((6, 2, 2, 8)).astype("float32")
    check_layer(lambda **kwargs: Conv2D(4, 3, padding="same", **kwargs), x, tmp_path=tmp_path)


def test_checkpoints_of_kerass_own_are_read_and_the_other_way_round(tmp_path):
    check_checkpoints_of_twins(Conv2D, keras.layers.Conv2D, (4, 2, 2, 3), tmp_path, filters=4, kernel_size=3, padding="same")


def test_a_doubling_one_passes_what_any_layer_has_to(tmp_path):
    x = np.random.default_rng(0).standard_normal((6, 2, 2, 8)).astype("float32")
    check_layer(lambda **kwargs: DoublingConv2D(4, **kwargs), x, tmp_path=tmp_path)


def test_gradients_of_a_doubling_one_are_those_of_the_doubled_map():
    class Doubled(keras.layers.Conv2D):
        def call(self, x):
            return super().call(ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2))

    x = np.random.default_rng(0).standard_normal((5, 3, 2, 4)).astype("float32")
    both = twins(DoublingConv2D, lambda filters: Doubled(filters, 3, padding="same"), x.shape, filters=6)
    for a, b in zip(*(gradients(layer, [x]) for layer in both), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
