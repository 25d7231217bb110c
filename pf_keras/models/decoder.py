"""The decoder: from context vectors to the pixels of masked patches (paper, 2.1)."""

import keras
from keras import ops

from pf_keras.config import ModelConfig, TargetConfig
from pf_keras.layers.kernels import Conv2D
from pf_keras.layers.resnet import ResidualUpsampling, normalization
from pf_keras.layers.transformer import dense


def stages(size: int, width: int) -> tuple[int, list[int]]:
    """The plan of a decoder: where it starts, and the blocks that double the map until it has `size` pixels a side.

    Args:
        size: pixels on each side of a target.
        width: channels of the first map.

    Returns:
        The side of the first map, and the channels of each block. The side is 2 for the paper's 8x8 targets. Each
        block halves the channels, down to 16.
    """
    doublings = 0
    while size % 2 == 0 and size > 2:
        size, doublings = size // 2, doublings + 1
    return size, [max(width >> (i + 1), 16) for i in range(doublings)]


@keras.saving.register_keras_serializable("pf_keras")
class PatchDecoder(keras.Model):
    """Decode context vectors into logits of pixel levels.

    A vector becomes a small map. Residual upsampling blocks double it, and a 3x3 convolution gives the logits.

    Args:
        size: pixels on each side of a target.
        levels: number of levels that a pixel can have.
        width: channels of the small map, see `stages`.
        norm: `batch` or `group`, see `pf_keras.layers.resnet.normalization`.
        channels: colour channels of a target, 1 or 3.

    Input:
        `(B, M, D)`, a context vector for each target.

    Output:
        float32 `(B, M, size, size, channels, levels)`.
    """

    def __init__(
        self,
        size: int,
        levels: int,
        width: int = ModelConfig.decoder_width,
        norm: str = ModelConfig.norm,
        channels: int = TargetConfig.channels,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size, self.levels, self.width, self.norm, self.channels = size, levels, width, norm, channels
        self.base, widths = stages(size, width)
        self.expand = dense(self.base**2 * width, self, "expand")
        self.blocks = [
            ResidualUpsampling(filters, norm, dtype=self.dtype_policy, name=f"block_{i}")
            for i, filters in enumerate(widths)
        ]
        self.head_norm = normalization(norm, (widths or [width])[-1], self, "head_norm")
        # Logits enter a softmax, so they are float32 in any precision. They start near zero: all levels are equally likely.
        initial = keras.initializers.TruncatedNormal(stddev=0.02)
        self.head = Conv2D(channels * levels, 3, padding="same", kernel_initializer=initial, dtype="float32", name="head")

    def build(self, input_shape):
        self.expand.build((None, input_shape[-1]))
        shape = (None, self.base, self.base, self.width)
        for layer in self.blocks:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.head_norm.build(shape)
        self.head.build(shape)

    def call(self, context, training=False):
        targets = context.shape[1]
        x = ops.reshape(self.expand(context), (-1, self.base, self.base, self.width))
        for block in self.blocks:
            x = block(x, training=training)
        x = self.head(ops.relu(self.head_norm(x, training=training)))
        return ops.reshape(x, (-1, targets, self.size, self.size, self.channels, self.levels))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:2], self.size, self.size, self.channels, self.levels)

    def get_config(self) -> dict:
        config = {"size": self.size, "levels": self.levels, "width": self.width, "norm": self.norm, "channels": self.channels}
        return {**super().get_config(), **config}
