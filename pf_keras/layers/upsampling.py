import keras
from keras import ops

from pf_keras.layers.common import conv, normalization


@keras.saving.register_keras_serializable("pf_keras")
class ResidualUpsampling(keras.layers.Layer):
    """A pre-activation residual block that doubles the sides: (B, h, w, C) -> (B, 2h, 2w, filters) (paper, 2.1)."""

    def __init__(self, filters, norm="batch", **kwargs):
        super().__init__(**kwargs)
        self.filters, self.norm = filters, norm

    def build(self, input_shape):
        channels = input_shape[-1]
        self.norm_1 = normalization(self.norm, channels, self, "norm_1")
        self.conv_1 = conv(self.filters, 3, self, "conv_1")
        self.norm_2 = normalization(self.norm, self.filters, self, "norm_2")
        self.conv_2 = conv(self.filters, 3, self, "conv_2")
        self.shortcut = conv(self.filters, 1, self, "shortcut")
        self.norm_1.build(input_shape)
        self.shortcut.build(input_shape)
        upsampled = (input_shape[0], 2 * input_shape[1], 2 * input_shape[2], channels)
        self.conv_1.build(upsampled)
        self.norm_2.build((*upsampled[:3], self.filters))
        self.conv_2.build((*upsampled[:3], self.filters))

    def call(self, x, training=False):
        y = _double(ops.relu(self.norm_1(x, training=training)))
        y = self.conv_2(ops.relu(self.norm_2(self.conv_1(y), training=training)))
        return y + _double(self.shortcut(x))  # a 1x1 convolution is cheaper before doubling, and the same

    def compute_output_shape(self, input_shape):
        return input_shape[0], 2 * input_shape[1], 2 * input_shape[2], self.filters

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "norm": self.norm}


def _double(x):
    """Nearest-neighbour upsampling by two, as a broadcast: (B, h, w, C) -> (B, 2h, 2w, C)."""
    _, height, width, channels = x.shape
    x = ops.broadcast_to(x[:, :, None, :, None], (ops.shape(x)[0], height, 2, width, 2, channels))
    return ops.reshape(x, (-1, 2 * height, 2 * width, channels))
