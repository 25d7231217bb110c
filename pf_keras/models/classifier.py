"""The classifier that fine-tuning trains (paper, 2.2)."""

import keras
from keras import ops

from pf_keras.config import FinetuneConfig
from pf_keras.layers.resnet import EXPANSION, Bottleneck
from pf_keras.layers.transformer import dense
from pf_keras.models.arguments import checked
from pf_keras.models.backbone import Backbone, OnBackbone
from pf_keras.models.inputs import images_of, noise_of
from pf_keras.patches.augment import scale_pixels
from pf_keras.patches.grid import extract_patches, gather_patches
from pf_keras.patches.masking import block_mask


@keras.saving.register_keras_serializable("pf_keras")
class Classifier(OnBackbone):
    """Classify images from one backbone vector each.

    The `residual` head is the paper's: attention pooling, a residual block, dropout and a linear layer. The `linear` head is
    dropout and a linear layer on the mean of the context. It freezes the backbone's attention pooling, which it does
    not use. Set `backbone.pooling.trainable` to train the pooling in another model.

    Training leaves out the patches with the lowest noise, which the model draws where a batch brings none. Evaluation uses all
    patches.

    Args:
        backbone: a `Backbone`.
        classes: number of classes.
        mask_ratio, dropout, head: see `pf_keras.config.FinetuneConfig`.

    Input:
        Images, uint8 `(B, H, W, 3)`, or a dict with them as `image` and optionally `mask_noise`, float32 `(B, N)` in [0, 1).

    Output:
        Logits, float32 `(B, classes)`.

    Raises:
        ValueError: unknown `head`, or an argument is out of range. Later: images are not uint8, or have another size.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        mask_ratio: float = FinetuneConfig.mask_ratio,
        dropout: float = FinetuneConfig.dropout,
        head: str = FinetuneConfig.head,
        **kwargs,
    ):
        super().__init__(backbone, autocast=False, **kwargs)  # keeps the noise in float32: bfloat16 would have ties
        if classes < 1:
            raise ValueError(f"classes is {classes}. Use the number of classes, 1 or more.")
        self.classes, self.mask_ratio, self.dropout = classes, mask_ratio, dropout
        self.masked = round(mask_ratio * backbone.grid**2)
        self.noise_seed = keras.random.SeedGenerator()
        self.head_kind = head
        if head == "residual":
            filters = max(1, backbone.width // EXPANSION)
            self.residual = Bottleneck(filters, norm=backbone.norm, dtype=self.dtype_policy, name="residual")
        elif head != "linear":
            raise ValueError(f"Expected head to be 'residual' or 'linear'. Received: {head!r}")
        checked(FinetuneConfig, mask_ratio=mask_ratio, dropout=dropout)
        if self.masked >= backbone.grid**2:
            raise ValueError(f"mask_ratio is {mask_ratio}, which leaves out all {backbone.grid**2} patches. Make it smaller.")
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="drop")
        self.head = dense(classes, self, "head")
        self.head.dtype_policy = keras.DTypePolicy("float32")  # logits enter a softmax

    def build(self, input_shape=None):
        super().build()
        width = self.backbone.width
        if self.head_kind == "residual":
            self.residual.build((None, 1, 1, width))
            width = self.residual.compute_output_shape((None, 1, 1, width))[-1]
        else:
            self.backbone.pooling.trainable = False  # after it is built: layers created in `build` do not inherit the flag
        self.head.build((None, width))

    def call(self, inputs, training=False):
        vectors = self.embed(inputs, training=training)
        if self.head_kind == "residual":
            vectors = self.residual(vectors[:, None, None, :], training=training)[:, 0, 0, :]
        return self.head(self.drop(vectors, training=training))

    def embed(self, inputs, training=False):
        """The vector that enters the head, `(B, D)`, for the same inputs as the model."""
        patches = extract_patches(images_of(inputs, self.backbone.image_size), self.backbone.grid)
        visible_indices = None
        if training and self.masked:
            noise = noise_of(inputs, "mask_noise", (self.backbone.grid**2,), self.noise_seed, training)
            visible_indices, _ = block_mask(noise, self.backbone.grid, 1, self.masked)
            patches = gather_patches(patches, visible_indices)
        context = self.backbone(scale_pixels(patches), visible_indices, training=training)
        return self.backbone.pool(context) if self.head_kind == "residual" else ops.mean(context, axis=1)

    def compute_output_shape(self, input_shape: tuple | dict) -> tuple:
        return (input_shape["image"] if isinstance(input_shape, dict) else input_shape)[0], self.classes

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "classes": self.classes,
            "mask_ratio": self.mask_ratio,
            "dropout": self.dropout,
            "head": self.head_kind,
        }
