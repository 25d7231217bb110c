"""The residual blocks, and the two networks made of them, against NumPy."""

import numpy as np
import pytest
from layer_checks import convolve
from tiny import run

from pf_keras.layers import Bottleneck, ResidualUpsampling
from pf_keras.layers.resnet import normalization
from pf_keras.models.decoder import PatchDecoder
from pf_keras.models.patch_encoder import PatchEncoder


def floats(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_untrained_bottleneck_returns_its_shortcut(norm):
    layer = Bottleneck(2, norm=norm)
    x = floats(2, 3, 3, 8)
    layer.build(x.shape)
    assert layer.shortcut is None
    np.testing.assert_allclose(run(layer, x), np.maximum(x, 0), atol=1e-6)


def test_bottleneck_shortcut_is_a_convolution_if_the_shape_changes():
    layer = Bottleneck(2, strides=2)
    x = floats(2, 5, 5, 3)
    layer.build(x.shape)
    expected = np.maximum(x[:, ::2, ::2] @ layer.shortcut.kernel.numpy()[0, 0] / np.sqrt(1 + 1e-5), 0)
    np.testing.assert_allclose(run(layer, x), expected, atol=1e-5)


def test_residual_upsampling_doubles_its_shortcut():
    layer = ResidualUpsampling(4)
    x = floats(2, 3, 3, 8)
    layer.build(x.shape)
    layer.conv_2.kernel.assign(np.zeros(layer.conv_2.kernel.shape))
    expected = (x @ layer.shortcut.kernel.numpy()[0, 0]).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(run(layer, x), expected, atol=1e-5)


def normalized(norm, x):
    """Batch normalisation in inference."""
    gamma, beta, mean, variance = (v.numpy() for v in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance))
    return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta


def relu(x):
    return np.maximum(x, 0)


def randomized(layer, shape):
    """Build the layer with random weights and statistics."""
    layer.build(shape)
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        spread = 0.3 * rng.standard_normal(weight.shape)
        weight.assign(1.5 + 0.5 * np.tanh(spread) if weight.name == "moving_variance" else weight.numpy() + spread)
    return layer


@pytest.mark.parametrize("strides", [1, 2])
def test_bottleneck_matches_numpy(strides):
    x = floats(2, 5, 5, 3)  # with odd sides, strides do not change the padding
    layer = randomized(Bottleneck(2, strides=strides), x.shape)
    y = relu(normalized(layer.norms[0], convolve(x, layer.convs[0].kernel.numpy())))
    y = relu(normalized(layer.norms[1], convolve(y, layer.convs[1].kernel.numpy())[:, ::strides, ::strides]))
    y = normalized(layer.norms[2], convolve(y, layer.convs[2].kernel.numpy()))
    shortcut = convolve(x, layer.shortcut.kernel.numpy())[:, ::strides, ::strides]
    expected = relu(normalized(layer.shortcut_norm, shortcut) + y)
    assert 0.1 < (expected > 0).mean() < 0.9
    np.testing.assert_allclose(run(layer, x), expected, atol=1e-4)


def doubled(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def upsampled(layer, x):
    y = convolve(doubled(relu(normalized(layer.norm_1, x))), layer.conv_1.kernel.numpy())
    y = convolve(relu(normalized(layer.norm_2, y)), layer.conv_2.kernel.numpy())
    return y + doubled(convolve(x, layer.shortcut.kernel.numpy()))


def test_residual_upsampling_matches_numpy():
    x = floats(2, 3, 3, 8)
    layer = randomized(ResidualUpsampling(4), x.shape)
    np.testing.assert_allclose(run(layer, x), upsampled(layer, x), atol=1e-3)


def test_decoder_matches_numpy():
    context = floats(2, 3, 6)
    layer = randomized(PatchDecoder(4, 3, width=32, channels=2), context.shape)
    x = (context @ layer.expand.kernel.numpy() + layer.expand.bias.numpy()).reshape(6, 2, 2, 32)
    (block,) = layer.blocks
    x = relu(normalized(layer.head_norm, upsampled(block, x)))
    expected = convolve(x, layer.head.kernel.numpy(), layer.head.bias.numpy()).reshape(2, 3, 4, 4, 2, 3)
    np.testing.assert_allclose(run(layer, context), expected, rtol=1e-3, atol=1e-3)


def test_patch_encoder_matches_numpy():
    """Stem, mean and projection. The blocks are run as they are, since a test above compares them."""
    patches = floats(2, 3, 5, 5, 3)
    layer = randomized(PatchEncoder(4, stem="cifar", stem_width=8, stacks=(1, 1), stack_widths=(2, 3)), patches.shape)
    x = relu(normalized(layer.stem_norm, convolve(patches.reshape(6, 5, 5, 3), layer.stem_conv.kernel.numpy())))
    for block in layer.blocks:
        x = run(block, x.astype("float32"))
    expected = x.mean((1, 2)) @ layer.projection.kernel.numpy() + layer.projection.bias.numpy()
    np.testing.assert_allclose(run(layer, patches), expected.reshape(2, 3, 4), rtol=1e-3, atol=1e-3)


def test_batch_norm_has_a_momentum_of_0_9():
    assert normalization("batch", 8, Bottleneck(1), "norm").momentum == 0.9


@pytest.mark.parametrize("channels, groups", [(1024, 32), (128, 32), (64, 16), (24, 6), (8, 2), (6, 1), (3, 1)])
def test_group_norm_has_several_channels_per_group(channels, groups):
    layer = normalization("group", channels, Bottleneck(1), "norm")
    assert layer.groups == groups


def test_unknown_norm_is_an_error():
    with pytest.raises(ValueError, match="'batch' or 'group'"):
        normalization("layer", 8, Bottleneck(1), "norm")
