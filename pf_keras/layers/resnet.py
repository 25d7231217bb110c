"""The blocks of the two ResNets: the patch encoder's bottleneck and the decoder's residual upsampling (paper, 2.1 and 2.2)."""

import keras
from keras import ops

from pf_keras.layers.kernels import BatchNormalization, Conv2D, DoublingConv2D

EXPANSION = 4  # output channels of a bottleneck, as a multiple of its filters


def conv(filters: int, size: int, parent: keras.Layer, name: str, strides: int = 1) -> Conv2D:
    """A convolution with same padding, without bias because a normalisation follows, in the dtype policy of `parent`."""
    return Conv2D(filters, size, strides=strides, padding="same", **_conv_options(parent, name))


def doubling_conv(filters: int, parent: keras.Layer, name: str) -> DoublingConv2D:
    """Like `conv` of size 3, on a map doubled by nearest-neighbour upsampling."""
    return DoublingConv2D(filters, **_conv_options(parent, name))


def _conv_options(parent, name):
    return {"use_bias": False, "kernel_initializer": "he_normal", "dtype": parent.dtype_policy, "name": name}


def normalization(
    kind: str, channels: int, parent: keras.Layer, name: str, gamma_initializer: str = "ones"
) -> keras.Layer:
    """The normalisation after a convolution, in the dtype policy of `parent`.

    Args:
        kind: `batch` is batch normalisation, synchronised over replicas. `group` is group normalisation with at most 32
            groups of at least 4 channels where `channels` allows it. A group of one channel would be normalised to
            nothing on a 1x1 map, such as the classifier's.
        channels: number of channels.
        parent: the layer that will own it.
        name: its name.
        gamma_initializer: initial value of the scale.

    Raises:
        ValueError: `kind` is neither.
    """
    options = {"epsilon": 1e-5, "gamma_initializer": gamma_initializer, "dtype": parent.dtype_policy, "name": name}
    if kind == "batch":
        return BatchNormalization(momentum=0.9, **options)
    if kind == "group":
        groups = next(g for g in range(min(32, max(channels // 4, 1)), 0, -1) if channels % g == 0)
        return keras.layers.GroupNormalization(groups=groups, **options)
    raise ValueError(f"Expected norm to be 'batch' or 'group'. Received: {kind!r}")


@keras.saving.register_keras_serializable("pf_keras")
class Bottleneck(keras.layers.Layer):
    """ResNet's bottleneck block: 1x1, 3x3 and 1x1 convolutions beside a shortcut (paper, 2.1 and 2.2).

    The stride is in the 3x3 convolution. The shortcut is a 1x1 convolution if the shape changes, otherwise the identity.

    Args:
        filters: channels of the first two convolutions. The last has `4 * filters`.
        strides: stride of the block.
        norm: `batch` or `group`, see `normalization`.

    Input:
        `(B, h, w, C)`.

    Output:
        `(B, ceil(h / strides), ceil(w / strides), 4 * filters)`.
    """

    def __init__(self, filters: int, strides: int = 1, norm: str = "batch", **kwargs):
        super().__init__(**kwargs)
        self.filters, self.strides, self.norm = filters, strides, norm

    def build(self, input_shape):
        wide = EXPANSION * self.filters
        self.convs = [
            conv(self.filters, 1, self, "reduce"),
            conv(self.filters, 3, self, "conv", strides=self.strides),
            conv(wide, 1, self, "expand"),
        ]
        # The last scale starts at zero, so that a fresh block passes on its shortcut alone.
        self.norms = [
            normalization(self.norm, self.filters, self, "reduce_norm"),
            normalization(self.norm, self.filters, self, "conv_norm"),
            normalization(self.norm, wide, self, "expand_norm", gamma_initializer="zeros"),
        ]
        shape = input_shape
        for layer, norm in zip(self.convs, self.norms, strict=True):
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
            norm.build(shape)
        self.shortcut = self.shortcut_norm = None
        if self.strides != 1 or input_shape[-1] != wide:
            self.shortcut = conv(wide, 1, self, "shortcut", strides=self.strides)
            self.shortcut_norm = normalization(self.norm, wide, self, "shortcut_norm")
            self.shortcut.build(input_shape)
            self.shortcut_norm.build(shape)

    def call(self, x, training=False):
        y = x
        for i, (layer, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(layer(y), training=training)
            y = ops.relu(y) if i < 2 else y
        if self.shortcut:
            x = self.shortcut_norm(self.shortcut(x), training=training)
        return ops.relu(x + y)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, _ = input_shape
        return batch, -(-height // self.strides), -(-width // self.strides), EXPANSION * self.filters

    def get_config(self) -> dict:
        return {**super().get_config(), "filters": self.filters, "strides": self.strides, "norm": self.norm}


@keras.saving.register_keras_serializable("pf_keras")
class ResidualUpsampling(keras.layers.Layer):
    """A pre-activation residual block that doubles both sides of a map (paper, 2.1).

    Args:
        filters: number of output channels.
        norm: `batch` or `group`, see `normalization`.

    Input:
        `(B, h, w, C)`.

    Output:
        `(B, 2h, 2w, filters)`.
    """

    def __init__(self, filters: int, norm: str = "batch", **kwargs):
        super().__init__(**kwargs)
        self.filters, self.norm = filters, norm

    def build(self, input_shape):
        self.norm_1 = normalization(self.norm, input_shape[-1], self, "norm_1")
        self.conv_1 = doubling_conv(self.filters, self, "conv_1")
        self.norm_2 = normalization(self.norm, self.filters, self, "norm_2")
        self.conv_2 = conv(self.filters, 3, self, "conv_2")
        self.shortcut = conv(self.filters, 1, self, "shortcut")
        self.norm_1.build(input_shape)
        self.shortcut.build(input_shape)
        self.conv_1.build(input_shape)
        upsampled = self.conv_1.compute_output_shape(input_shape)
        self.norm_2.build(upsampled)
        self.conv_2.build(upsampled)

    def call(self, x, training=False):
        y = self.conv_1(ops.relu(self.norm_1(x, training=training)))
        y = self.conv_2(ops.relu(self.norm_2(y, training=training)))
        # A 1x1 convolution gives the same result before doubling, and costs a quarter.
        return y + _double(self.shortcut(x))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape[0], 2 * input_shape[1], 2 * input_shape[2], self.filters

    def get_config(self) -> dict:
        return {**super().get_config(), "filters": self.filters, "norm": self.norm}


def _double(x):
    """Nearest-neighbour upsampling by two: `(B, h, w, C)` to `(B, 2h, 2w, C)`."""
    # The gradient of a concatenation adds two slices. A broadcast's is a sum over axes, five times as slow on a CPU.
    _, height, width, channels = x.shape
    x = ops.reshape(ops.concatenate([x, x], axis=-1), (-1, height, 1, 2 * width * channels))
    return ops.reshape(ops.concatenate([x, x], axis=2), (-1, 2 * height, 2 * width, channels))
