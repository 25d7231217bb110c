import numpy as np
import pytest
from tiny import run

from pf_keras.layers import Bottleneck, ResidualUpsampling
from pf_keras.layers.common import normalization


def floats(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_fresh_bottleneck_is_its_shortcut(norm):
    layer = Bottleneck(2, norm=norm)
    x = floats(2, 3, 3, 8)
    layer.build(x.shape)
    assert layer.shortcut is None
    np.testing.assert_allclose(run(layer, x), np.maximum(x, 0), atol=1e-6)


def test_bottleneck_of_another_shape_has_a_convolution_as_shortcut():
    layer = Bottleneck(2, strides=2)
    x = floats(2, 5, 5, 3)
    layer.build(x.shape)
    expected = np.maximum(x[:, ::2, ::2] @ layer.shortcut.kernel.numpy()[0, 0] / np.sqrt(1 + 1e-5), 0)
    np.testing.assert_allclose(run(layer, x), expected, atol=1e-5)


def test_upsampling_doubles_its_shortcut():
    layer = ResidualUpsampling(4)
    x = floats(2, 3, 3, 8)
    layer.build(x.shape)
    layer.conv_2.kernel.assign(np.zeros(layer.conv_2.kernel.shape))
    expected = (x @ layer.shortcut.kernel.numpy()[0, 0]).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(run(layer, x), expected, atol=1e-5)


@pytest.mark.parametrize("channels, groups", [(1024, 32), (128, 32), (64, 16), (24, 6), (8, 2), (6, 1), (3, 1)])
def test_groups_have_several_channels(channels, groups):
    """A group of one channel on a 1x1 map, such as the classifier's, is normalised to nothing."""
    layer = normalization("group", channels, Bottleneck(1), "norm")
    assert layer.groups == groups


def test_unknown_norm():
    with pytest.raises(ValueError, match="'batch' or 'group'"):
        normalization("layer", 8, Bottleneck(1), "norm")
