import dataclasses

import keras
from keras import ops

from pf_keras.augment import augment_patches
from pf_keras.config import AugmentConfig
from pf_keras.masking import block_mask
from pf_keras.models.decoder import PatchDecoder
from pf_keras.models.on_backbone import OnBackbone
from pf_keras.patches import extract_patches, gather_patches
from pf_keras.targets import target_levels


@keras.saving.register_keras_serializable("pf_keras")
class Pretrainer(OnBackbone):
    """Decode the masked patches of an image from its visible ones (paper, 2.1).

    Input, a dict:
        `image`          uint8 (B, H, W, 3)
        `mask_noise`     float32 (B, block_count(grid, block)), see `masking.block_mask`
        `augment_noise`  float32 (B, V, len(augment.NOISE)), used while training
    Output, a dict:
        `logits`          float32 (B, M, size, size, channels, 2**bits)
        `targets`         int32 (B, M, size, size, channels), the levels of the masked patches
        `visible_indices` int32 (B, V) and `masked_indices` int32 (B, M)

    The loss of `fit` is the cross-entropy of the target pixels, with labels smoothed. It needs no `y`.
    `augment` is a dict of fields of `pf_keras.config.AugmentConfig`, which has the defaults of those left out.
    Raises ValueError where jitter's sub-crop is larger than a patch.
    """

    def __init__(
        self,
        backbone,
        mask_ratio=0.6,
        block=2,
        target_size=8,
        target_bits=2,
        target_crop="centre_crop",
        target_channels=1,
        decoder_width=256,
        augment=None,
        label_smoothing=0.01,
        **kwargs,
    ):
        # Noise keeps its float32 in any precision: in bfloat16 blocks would tie, and the largest draws become 1.
        super().__init__(backbone, autocast=False, **kwargs)
        self.mask_ratio, self.block = mask_ratio, block
        self.target_size, self.target_bits, self.target_crop = target_size, target_bits, target_crop
        self.target_channels = target_channels
        self.decoder_width, self.label_smoothing = decoder_width, label_smoothing
        self.augment = AugmentConfig(**(augment or {}))
        side = backbone.image_size // backbone.grid
        if self.augment.enabled and self.augment.jitter_size > side:
            raise ValueError(f"Expected augment['jitter_size'] up to the patch's {side}. Received: {self.augment.jitter_size}")
        self.masked = round(mask_ratio * backbone.grid**2)
        self.decoder = PatchDecoder(
            target_size, 2**target_bits, decoder_width, backbone.norm, target_channels, dtype=self.dtype_policy, name="decoder"
        )
        self.cross_entropy = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)

    def build(self, input_shape=None):
        super().build()
        self.decoder.build((None, None, self.backbone.width))

    def call(self, inputs, training=False):
        patches = extract_patches(inputs["image"], self.backbone.grid)
        visible_indices, masked_indices = block_mask(
            inputs["mask_noise"], self.backbone.grid, self.block, self.masked
        )
        # The augmentation of an evaluation is none: its figures do not depend on what training adds.
        augment = self.augment if training else AugmentConfig(enabled=False)
        visible = augment_patches(gather_patches(patches, visible_indices), inputs.get("augment_noise"), augment)
        context = self.backbone(visible, visible_indices, training=training)
        logits = self.decoder(self.backbone.pool_targets(context, masked_indices), training=training)
        masked = gather_patches(patches, masked_indices)
        return {
            "logits": logits,
            "targets": self.target_levels(masked),
            "visible_indices": visible_indices,
            "masked_indices": masked_indices,
        }

    def target_levels(self, patches):
        """The targets of these patches: uint8 (..., p, p, 3) -> int32 (..., size, size, channels)."""
        return target_levels(patches, self.target_size, self.target_bits, self.target_crop, self.target_channels)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        labels = ops.one_hot(y_pred["targets"], 2**self.target_bits, dtype="float32")
        if sample_weight is not None:  # of an image
            sample_weight = ops.reshape(sample_weight, (-1, 1, 1, 1, 1))
        return self.cross_entropy(labels, y_pred["logits"], sample_weight)

    def get_config(self):
        return {
            **super().get_config(),
            "mask_ratio": self.mask_ratio,
            "block": self.block,
            "target_size": self.target_size,
            "target_bits": self.target_bits,
            "target_crop": self.target_crop,
            "target_channels": self.target_channels,
            "decoder_width": self.decoder_width,
            "augment": dataclasses.asdict(self.augment),
            "label_smoothing": self.label_smoothing,
        }


@keras.saving.register_keras_serializable("pf_keras")
class PretrainScores(keras.Model):
    """A pre-trainer's figures for each example, without smoothing or augmentation; for `predict`.

    Output, a dict: `cross_entropy` float32 (B,), the mean over the example's target pixels, and `level_counts`
    float32 (B, channels, 2**bits), how often each level occurs in them.
    """

    def __init__(self, pretrainer, **kwargs):
        super().__init__(autocast=False, **kwargs)  # as the pre-trainer
        self.pretrainer = pretrainer

    def build(self, input_shape=None):
        if not self.pretrainer.built:
            self.pretrainer.build()
        self.built = True

    def call(self, inputs):
        outputs = self.pretrainer(inputs, training=False)
        loss = ops.sparse_categorical_crossentropy(outputs["targets"], outputs["logits"], from_logits=True)
        counts = ops.one_hot(outputs["targets"], outputs["logits"].shape[-1], dtype="float32")
        return {"cross_entropy": ops.mean(loss, axis=(1, 2, 3, 4)), "level_counts": ops.sum(counts, axis=(1, 2, 3))}

    def get_config(self):
        return {**super().get_config(), "pretrainer": keras.saving.serialize_keras_object(self.pretrainer)}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("pretrainer")), **config)
