import keras
import numpy as np

from pf_keras.layers.attention_pooling import AttentionPooling
from pf_keras.layers.positions import FactorizedPositions
from pf_keras.layers.transformer import Transformer
from pf_keras.models.patch_encoder import PatchEncoder


@keras.saving.register_keras_serializable("pf_keras")
class Backbone(keras.Model):
    """Patch encoder, positions, transformer and attention pooling: all that moves from pre-training to fine-tuning.

    `backbone(patches, indices)` maps scaled patches (B, V, p, p, 3) at places `indices` (B, V) to the context
    (B, V, width); without indices the patches are all N of the grid, in order. `backbone.pool(context)` gives one
    vector an image (B, width), `backbone.pool_targets(context, indices)` one for each target (B, M, width).

    Arguments are those of `pf_keras.config.ModelConfig`, which gives their meaning and the paper's values.
    """

    def __init__(
        self,
        image_size=224,
        grid=14,
        stem="no_pool",
        stem_width=64,
        stacks=(3, 4, 6),
        stack_widths=(64, 128, 256),
        norm="batch",
        width=1024,
        depth=10,
        heads=16,
        mlp_ratio=4,
        norm_order="post_norm",
        dropout=0.0,
        decode_position="query",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if image_size % grid:
            raise ValueError(f"Expected image_size to be a multiple of grid. Received: {image_size} and {grid}")
        if decode_position not in ("query", "additive"):
            raise ValueError(f"Expected decode_position to be 'query' or 'additive'. Received: {decode_position!r}")
        self.arguments = {
            "image_size": image_size, "grid": grid, "stem": stem, "stem_width": stem_width, "stacks": tuple(stacks),
            "stack_widths": tuple(stack_widths), "norm": norm, "width": width, "depth": depth, "heads": heads,
            "mlp_ratio": mlp_ratio, "norm_order": norm_order, "dropout": dropout, "decode_position": decode_position,
        }  # fmt: skip
        self.image_size, self.grid, self.width, self.norm = image_size, grid, width, norm
        self.decode_position = decode_position
        policy = self.dtype_policy
        self.patch_encoder = PatchEncoder(
            width, stem, stem_width, stacks, stack_widths, norm, dtype=policy, name="patch_encoder"
        )
        self.positions = FactorizedPositions(grid, width, dtype=policy, name="positions")
        self.transformer = Transformer(depth, heads, mlp_ratio, norm_order, dropout, dtype=policy, name="transformer")
        self.pooling = AttentionPooling(heads, mlp_ratio, dtype=policy, name="pooling")

    def build(self, patches_shape=None, indices_shape=None):
        side = self.image_size // self.grid
        vectors = (None, None, self.width)
        self.patch_encoder.build((None, None, side, side, 3))
        self.positions.build((None, None))
        self.transformer.build(vectors)
        self.pooling.build(vectors, vectors)
        self.built = True
        if not self.trainable:  # frozen before, as where a frozen one is loaded: tell what was made here. By a change:
            self.trainable = True  # to set a value that is there already does nothing under TensorFlow
            self.trainable = False

    def call(self, patches, indices=None, training=False):
        if indices is None:
            indices = np.arange(self.grid**2, dtype="int32")[None]  # (1, N), the same for every image
        vectors = self.patch_encoder(patches, training=training) + self.positions(indices)
        return self.transformer(vectors, training=training)

    def pool(self, context):
        """One vector an image: (B, V, width) -> (B, width)."""
        return self.pooling(context)[:, 0]

    def pool_targets(self, context, indices):
        """The context vector of each target: (B, V, width), int32 (B, M) -> (B, M, width).

        `decode_position`: `query` adds the target's position to the pooling query, `additive` (Selfie's way) to the
        pooled vector.
        """
        positions = self.positions(indices)
        if self.decode_position == "query":
            return self.pooling(context, positions)
        return self.pooling(context) + positions

    def compute_output_shape(self, patches_shape, indices_shape=None):
        return (*patches_shape[:2], self.width)

    def get_config(self):
        return {**super().get_config(), **self.arguments}
