"""The backbone, and a feature extractor made of it.

In the shapes, B is the number of images, N of their patches, V of visible and M of masked patches, p the side of a patch in
pixels, and D the width of the model.
"""

import keras
import numpy as np

from pf_keras.config import ModelConfig
from pf_keras.layers.transformer import AttentionPooling, FactorizedPositions, Transformer
from pf_keras.models.arguments import checked
from pf_keras.models.exported_model import ExportedModel
from pf_keras.models.inputs import images_of
from pf_keras.models.patch_encoder import PatchEncoder
from pf_keras.patches.augment import scale_pixels
from pf_keras.patches.grid import extract_patches


@keras.saving.register_keras_serializable("pf_keras")
class Backbone(ExportedModel):
    """Patch encoder, positions, transformer and attention pooling: all that moves from pre-training to fine-tuning.

    Calling the backbone gives the context of the visible patches, and its methods pool the context:

        context = backbone(patches, visible_indices)             # (B, V, D)
        vectors = backbone.pool(context)                         # (B, D), one per image
        vectors = backbone.pool_targets(context, masked_indices) # (B, M, D), one per target

    Args:
        image_size, grid, stem, ..., drop_path: see `pf_keras.config.ModelConfig`. The defaults are the paper's model.

    Inputs:
        patches: scaled patches, float `(B, V, p, p, 3)`.
        indices: int32 `(B, V)`, where in the grid each patch is, in row-major order. Leave it out if `patches` are all N
            patches in order.

    Output:
        The context, `(B, V, D)`.

    Raises:
        ValueError: `grid` does not divide `image_size`, `heads` does not divide `width`, or an argument is out of range.
    """

    def __init__(
        self,
        image_size: int = ModelConfig.image_size,
        grid: int = ModelConfig.grid,
        stem: str = ModelConfig.stem,
        stem_width: int = ModelConfig.stem_width,
        stacks: tuple[int, ...] = ModelConfig.stacks,
        stack_widths: tuple[int, ...] = ModelConfig.stack_widths,
        norm: str = ModelConfig.norm,
        width: int = ModelConfig.width,
        depth: int = ModelConfig.depth,
        heads: int = ModelConfig.heads,
        mlp_ratio: int = ModelConfig.mlp_ratio,
        norm_order: str = ModelConfig.norm_order,
        dropout: float = ModelConfig.dropout,
        decode_position: str = ModelConfig.decode_position,
        drop_path: float = ModelConfig.drop_path,
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
            "drop_path": drop_path,
        }  # fmt: skip
        checked(ModelConfig, **self.arguments)
        self.image_size, self.grid, self.width, self.norm = image_size, grid, width, norm
        self.decode_position = decode_position
        policy = self.dtype_policy
        self.patch_encoder = PatchEncoder(
            width, stem, stem_width, stacks, stack_widths, norm, dtype=policy, name="patch_encoder"
        )
        self.positions = FactorizedPositions(grid, width, dtype=policy, name="positions")
        self.transformer = Transformer(
            depth, heads, mlp_ratio, norm_order, dropout, drop_path, dtype=policy, name="transformer"
        )
        self.pooling = AttentionPooling(heads, mlp_ratio, dtype=policy, name="pooling")

    def build(self, patches_shape=None, indices_shape=None):
        side = self.image_size // self.grid
        vectors = (None, None, self.width)
        self.patch_encoder.build((None, None, side, side, 3))
        self.positions.build((None, None))
        self.transformer.build(vectors)
        self.pooling.build(vectors, vectors)
        self.built = True
        if not self.trainable:  # Layers created in `build` do not inherit `trainable=False`. Toggling the flag propagates it.
            self.trainable = True
            self.trainable = False

    def call(self, patches, indices=None, training=False):
        if indices is None:
            indices = np.arange(self.grid**2, dtype="int32")[None]  # (1, N): the same for every image
        vectors = self.patch_encoder(patches, training=training) + self.positions(indices)
        return self.transformer(vectors, training=training)

    def pool(self, context):
        """Pool the context of an image into one vector: `(B, V, D)` to `(B, D)`."""
        return self.pooling(context)[:, 0]

    def pool_targets(self, context, indices):
        """Pool the context into one vector per target.

        The target's position is added to the pooling query (`decode_position` is `query`) or, as in Selfie, to the
        pooled vector (`additive`).

        Args:
            context: `(B, V, D)`.
            indices: int32 `(B, M)`, where in the grid the targets are.

        Returns:
            `(B, M, D)`.
        """
        positions = self.positions(indices)
        if self.decode_position == "query":
            return self.pooling(context, positions)
        return self.pooling(context) + positions

    def export_signature(self) -> list[keras.InputSpec]:
        side = self.image_size // self.grid
        return [keras.InputSpec("float32", (None, self.grid**2, side, side, 3), name="patches")]

    def compute_output_shape(self, patches_shape: tuple, indices_shape: tuple | None = None) -> tuple:
        return (*patches_shape[:2], self.width)

    def get_config(self) -> dict:
        return {**super().get_config(), **self.arguments}

    @classmethod
    def from_config(cls, config: dict) -> "Backbone":
        return cls._quantized(dict(config))


class OnBackbone(ExportedModel):
    """Base of the models that contain a `Backbone`, which is built and saved with them.

    A subclass takes `backbone` as its first argument and adds its own arguments to `get_config`.
    """

    def __init__(self, backbone: Backbone, **kwargs):
        super().__init__(**kwargs)
        self.backbone = backbone

    def build(self, input_shape=None):
        if not self.backbone.built:
            self.backbone.build()
        self.built = True

    def export_signature(self) -> list[keras.InputSpec]:
        side = self.backbone.image_size
        return [keras.InputSpec("uint8", (None, side, side, 3), name="image")]

    def get_config(self) -> dict:
        return {**super().get_config(), "backbone": keras.saving.serialize_keras_object(self.backbone)}

    @classmethod
    def from_config(cls, config: dict) -> "OnBackbone":
        config = dict(config)
        return cls._quantized(config, keras.saving.deserialize_keras_object(config.pop("backbone")))


@keras.saving.register_keras_serializable("pf_keras")
class Embedder(OnBackbone):
    """Features of whole images: the mean of the backbone's context over all patches, in inference mode.

    Attention pooling gives worse features before fine-tuning (docs/paper.md), because pre-training adds a target's
    position to its query and never trains the query alone.

    Args:
        backbone: a `Backbone`, usually pre-trained.

    Input:
        Images, uint8 `(B, H, W, 3)`, or a dict with them as `image`.

    Output:
        float32 `(B, D)`.
    """

    def call(self, inputs):
        image = images_of(inputs, self.backbone.image_size)
        context = self.backbone(scale_pixels(extract_patches(image, self.backbone.grid)), training=False)
        return keras.ops.mean(keras.ops.cast(context, "float32"), axis=1)

    def compute_output_shape(self, input_shape: tuple | dict) -> tuple:
        shape = input_shape["image"] if isinstance(input_shape, dict) else input_shape
        return shape[0], self.backbone.width
