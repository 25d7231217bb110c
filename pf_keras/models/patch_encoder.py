"""The patch encoder: a ResNet that turns each patch into one vector (paper, 2.1 and Figure 2)."""

import keras
from keras import ops

from pf_keras.config import ModelConfig
from pf_keras.layers.resnet import Bottleneck, conv, normalization
from pf_keras.layers.transformer import dense

# Kernel size and strides of the stem's convolution. A max pool follows only in `imagenet`.
STEMS = {"no_pool": (7, 2), "imagenet": (7, 2), "cifar": (3, 1)}


@keras.saving.register_keras_serializable("pf_keras")
class PatchEncoder(keras.Model):
    """A ResNet that encodes each patch on its own as one vector.

    By default it is the paper's ResNet-41, which has 41 weighted layers: the stem, 3 + 4 + 6 bottlenecks of three
    convolutions each, and a projection of their mean over the patch. Each stack after the first halves the sides.

    Args:
        width: D, the length of a patch's vector.
        stem, stem_width, stacks, stack_widths, norm: see `pf_keras.config.ModelConfig`.

    Input:
        Scaled patches, float `(B, V, p, p, 3)`.

    Output:
        `(B, V, D)`.

    Raises:
        ValueError: unknown `stem`, or `stacks` and `stack_widths` differ in length.
    """

    def __init__(
        self,
        width: int,
        stem: str = ModelConfig.stem,
        stem_width: int = ModelConfig.stem_width,
        stacks: tuple[int, ...] = ModelConfig.stacks,
        stack_widths: tuple[int, ...] = ModelConfig.stack_widths,
        norm: str = ModelConfig.norm,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if stem not in STEMS:
            raise ValueError(f"Expected stem to be one of {', '.join(STEMS)}. Received: {stem!r}")
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

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:2], self.width)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "width": self.width,
            "stem": self.stem,
            "stem_width": self.stem_width,
            "stacks": self.stacks,
            "stack_widths": self.stack_widths,
            "norm": self.norm,
        }
