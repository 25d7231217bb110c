import keras
from keras import ops

from pf_keras.layers.common import dense, normalization
from pf_keras.layers.convolution import Conv2D
from pf_keras.layers.upsampling import ResidualUpsampling


def stages(size, width):
    """`(the side of the small map, the channels of each block that doubles it)` of a decoder to `size` pixels."""
    doublings = 0
    while size % 2 == 0 and size > 2:
        size, doublings = size // 2, doublings + 1
    return size, [max(width >> (i + 1), 16) for i in range(doublings)]


@keras.saving.register_keras_serializable("pf_keras")
class PatchDecoder(keras.Model):
    """Decode context vectors into pixel logits: (B, M, D) -> float32 (B, M, size, size, channels, levels)
    (paper, 2.1).

    A vector becomes a small map (2x2 for 8x8 targets), which residual upsampling blocks double until `size` is
    reached. `width` is the number of channels of the small map; each block halves it, to 16 at the
    least. `channels` are the target's.
    """

    def __init__(self, size, levels, width=256, norm="batch", channels=1, **kwargs):
        super().__init__(**kwargs)
        self.size, self.levels, self.width, self.norm, self.channels = size, levels, width, norm, channels
        self.base, widths = stages(size, width)
        self.expand = dense(self.base**2 * width, self, "expand")
        self.blocks = [
            ResidualUpsampling(filters, norm, dtype=self.dtype_policy, name=f"block_{i}")
            for i, filters in enumerate(widths)
        ]
        self.head_norm = normalization(norm, (widths or [width])[-1], self, "head_norm")
        # Logits stay in float32 whatever the compute type: they enter a softmax.
        self.head = Conv2D(channels * levels, 3, padding="same", dtype="float32", name="head")

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

    def compute_output_shape(self, input_shape):
        return (*input_shape[:2], self.size, self.size, self.channels, self.levels)

    def get_config(self):
        config = {"size": self.size, "levels": self.levels, "width": self.width, "norm": self.norm, "channels": self.channels}
        return {**super().get_config(), **config}
