import keras
from keras import ops

from pf_keras.augment import scale_pixels
from pf_keras.layers.bottleneck import EXPANSION, Bottleneck
from pf_keras.layers.common import dense
from pf_keras.masking import block_mask
from pf_keras.models.on_backbone import OnBackbone
from pf_keras.patches import extract_patches, gather_patches


@keras.saving.register_keras_serializable("pf_keras")
class Classifier(OnBackbone):
    """Classify images from one vector of the backbone each (paper, 2.2).

    `head`: `residual`, the paper's, pools the context by attention and puts a residual block before the linear layer;
    `linear` puts it on the mean of the context, and freezes the attention pooling of its backbone: another model on the
    same backbone has to set `backbone.pooling.trainable` again.

    Input: images uint8 (B, H, W, 3), or a dict of these as `image` and `mask_noise` float32 (B, N): while training,
    the patches with the lowest noise are left out, a share of `mask_ratio`. Without noise, and at evaluation, every
    patch is seen.
    Output: float32 logits (B, classes).
    """

    def __init__(self, backbone, classes, mask_ratio=0.1, dropout=0.2, head="residual", **kwargs):
        super().__init__(backbone, autocast=False, **kwargs)  # noise keeps its float32 in any precision: bfloat16 has ties
        self.classes, self.mask_ratio, self.dropout = classes, mask_ratio, dropout
        self.masked = round(mask_ratio * backbone.grid**2)
        self.head_kind = head
        if head == "residual":
            filters = max(1, backbone.width // EXPANSION)
            self.residual = Bottleneck(filters, norm=backbone.norm, dtype=self.dtype_policy, name="residual")
        elif head != "linear":
            raise ValueError(f"Expected head to be 'residual' or 'linear'. Received: {head!r}")
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
            self.backbone.pooling.trainable = False  # once built: layers that a layer builds do not take it over
        self.head.build((None, width))

    def call(self, inputs, training=False):
        vectors = self.embed(inputs, training=training)
        if self.head_kind == "residual":
            vectors = self.residual(vectors[:, None, None, :], training=training)[:, 0, 0, :]
        return self.head(self.drop(vectors, training=training))

    def embed(self, inputs, training=False):
        """The vectors that the head operates on: (B, width)."""
        image, noise = (inputs["image"], inputs.get("mask_noise")) if isinstance(inputs, dict) else (inputs, None)
        patches = extract_patches(image, self.backbone.grid)
        visible_indices = None
        if training and self.masked and noise is not None:
            visible_indices, _ = block_mask(noise, self.backbone.grid, 1, self.masked)
            patches = gather_patches(patches, visible_indices)
        context = self.backbone(scale_pixels(patches), visible_indices, training=training)
        return self.backbone.pool(context) if self.head_kind == "residual" else ops.mean(context, axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape["image"] if isinstance(input_shape, dict) else input_shape)[0], self.classes

    def get_config(self):
        return {
            **super().get_config(),
            "classes": self.classes,
            "mask_ratio": self.mask_ratio,
            "dropout": self.dropout,
            "head": self.head_kind,
        }
