import keras
from keras import ops

from pf_keras.layers.bottleneck import Bottleneck
from pf_keras.layers.common import conv, dense, normalization

STEMS = {"no_pool": (7, 2), "imagenet": (7, 2), "cifar": (3, 1)}  # kernel size, strides


@keras.saving.register_keras_serializable("pf_keras")
class PatchEncoder(keras.Model):
    """A ResNet that maps each patch to one vector: float (B, V, p, p, 3) -> (B, V, width) (paper, Figure 2).

    With `stacks=(3, 4, 6)` it has the 41 weighted layers of ResNet-41: the stem, 13 bottlenecks of three
    convolutions, and the projection. Each stack but the first halves the sides.

    stem: `no_pool` (7x7, stride 2), `imagenet` (the same and a max pool), `cifar` (3x3, stride 1).
    """

    def __init__(
        self,
        width,
        stem="no_pool",
        stem_width=64,
        stacks=(3, 4, 6),
        stack_widths=(64, 128, 256),
        norm="batch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.width, self.stem, self.stem_width = width, stem, stem_width
        self.stacks, self.stack_widths, self.norm = tuple(stacks), tuple(stack_widths), norm
        size, strides = STEMS[stem]
        self.stem_conv = conv(stem_width, size, self, "stem_conv", strides=strides)
        self.stem_norm = normalization(norm, stem_width, self, "stem_norm")
        self.stem_pool = None
        if stem == "imagenet":
            self.stem_pool = keras.layers.MaxPooling2D(3, 2, "same", dtype=self.dtype_policy, name="stem_pool")
        self.blocks = [
            Bottleneck(
                filters,
                strides=2 if stack > 0 and i == 0 else 1,
                norm=norm,
                dtype=self.dtype_policy,
                name=f"stack_{stack}_block_{i}",
            )
            for stack, (blocks, filters) in enumerate(zip(self.stacks, self.stack_widths, strict=True))
            for i in range(blocks)
        ]
        self.projection = dense(width, self, "projection")

    def build(self, input_shape):
        shape = (None, *input_shape[2:])
        for layer in [self.stem_conv, self.stem_norm, *filter(None, [self.stem_pool]), *self.blocks]:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.projection.build((None, shape[-1]))

    def call(self, patches, training=False):
        _, count, *shape = patches.shape
        x = ops.reshape(patches, (-1, *shape))
        x = ops.relu(self.stem_norm(self.stem_conv(x), training=training))
        if self.stem_pool:
            x = self.stem_pool(x)
        for block in self.blocks:
            x = block(x, training=training)
        x = self.projection(ops.mean(x, axis=(1, 2)))
        return ops.reshape(x, (-1, count, self.width))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:2], self.width)

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "stem": self.stem,
            "stem_width": self.stem_width,
            "stacks": self.stacks,
            "stack_widths": self.stack_widths,
            "norm": self.norm,
        }
