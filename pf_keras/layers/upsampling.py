import keras
from keras import ops

from pf_keras.layers.common import conv, doubling_conv, normalization


@keras.saving.register_keras_serializable("pf_keras")
class ResidualUpsampling(keras.layers.Layer):
    """A pre-activation residual block that doubles the sides: (B, h, w, C) -> (B, 2h, 2w, filters) (paper, 2.1)."""

    def __init__(self, filters, norm="batch", **kwargs):
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
        return y + _double(self.shortcut(x))  # a 1x1 convolution is cheaper before doubling, and the same

    def compute_output_shape(self, input_shape):
        return input_shape[0], 2 * input_shape[1], 2 * input_shape[2], self.filters

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "norm": self.norm}


def _double(x):
    """Nearest-neighbour upsampling by two: (B, h, w, C) -> (B, 2h, 2w, C).

    By concatenation, whose gradient adds two slices: that of a broadcast is a sum over axes, five times as slow on a CPU.
    """
    _, height, width, channels = x.shape
    x = ops.reshape(ops.concatenate([x, x], axis=-1), (-1, height, 1, 2 * width * channels))
    return ops.reshape(ops.concatenate([x, x], axis=2), (-1, 2 * height, 2 * width, channels))
