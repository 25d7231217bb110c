import keras
from keras import ops

from pf_keras.layers.common import conv, normalization

EXPANSION = 4


@keras.saving.register_keras_serializable("pf_keras")
class Bottleneck(keras.layers.Layer):
    """ResNet's bottleneck block: 1x1, 3x3, 1x1 convolutions and a shortcut (paper, 2.1 and 2.2).

    (B, h, w, C) -> (B, ceil(h / strides), ceil(w / strides), 4 * filters). The stride is in the 3x3 convolution.
    The shortcut is a 1x1 convolution where the shape changes, else the identity.
    """

    def __init__(self, filters, strides=1, norm="batch", **kwargs):
        super().__init__(**kwargs)
        self.filters, self.strides, self.norm = filters, strides, norm

    def build(self, input_shape):
        wide = EXPANSION * self.filters
        self.convs = [
            conv(self.filters, 1, self, "reduce"),
            conv(self.filters, 3, self, "conv", strides=self.strides),
            conv(wide, 1, self, "expand"),
        ]
        # The last scale begins at zero, so that a fresh block is the shortcut alone.
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

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, -(-height // self.strides), -(-width // self.strides), EXPANSION * self.filters

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "strides": self.strides, "norm": self.norm}
