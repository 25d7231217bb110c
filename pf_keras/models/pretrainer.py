"""The pre-training model: it decodes the masked patches of an image from the visible ones (paper, 2.1)."""

import dataclasses

import keras
from keras import ops

from pf_keras.config import AugmentConfig, Config, MaskConfig, ModelConfig, PretrainConfig, TargetConfig
from pf_keras.models.arguments import checked
from pf_keras.models.backbone import Backbone, OnBackbone
from pf_keras.models.decoder import PatchDecoder
from pf_keras.models.inputs import images_of, noise_of
from pf_keras.patches.augment import NOISE, augment_patches
from pf_keras.patches.grid import extract_patches, gather_patches
from pf_keras.patches.masking import block_mask, mask_noise_size, sample_targets
from pf_keras.patches.targets import target_levels


@keras.saving.register_keras_serializable("pf_keras")
class Pretrainer(OnBackbone):
    """Predict the levels of the target pixels of masked patches.

    Train it with `fit` and without `y`: the loss is the cross-entropy of the target pixels with smoothed labels.

    Args:
        backbone: a `Backbone`.
        mask_ratio, block: see `pf_keras.config.MaskConfig`.
        target_size, target_bits, target_crop, target_channels: see `pf_keras.config.TargetConfig`.
        decoder_width: see `pf_keras.config.ModelConfig`.
        augment: a dict of fields of `pf_keras.config.AugmentConfig`. Missing fields have its defaults.
        label_smoothing: see `pf_keras.config.PretrainConfig`.
        decode_fraction: see `pf_keras.config.MaskConfig`. Evaluation decodes all masked patches.

    Inputs, images or a dict. Noise that it lacks is drawn by the model, in inference always the same:
        image: uint8 `(B, H, W, 3)`.
        mask_noise: float32 `(B, mask_noise_size(grid, block))` in [0, 1), see `pf_keras.patches.masking`.
        decode_noise: float32 `(B, M)` in [0, 1). Only used in training with a `decode_fraction` below 1.
        augment_noise: float32 `(B, V, len(NOISE))` in [0, 1), see `pf_keras.patches.augment`. Only used in training.

    Output, a dict, where M is the number of decoded patches:
        logits: float32 `(B, M, size, size, channels, 2**bits)`.
        targets: int32 `(B, M, size, size, channels)`, the true levels.
        visible_indices: int32 `(B, V)`.
        masked_indices: int32 `(B, M)`, of the decoded patches.

    Raises:
        ValueError: the sub-crop of the jitter is larger than a patch, or an argument is out of range. Later: images are not
            uint8, or have another size; `compile` was given a loss.
    """

    def __init__(
        self,
        backbone: Backbone,
        mask_ratio: float = MaskConfig.ratio,
        block: int = MaskConfig.block,
        target_size: int = TargetConfig.size,
        target_bits: int = TargetConfig.bits,
        target_crop: str = TargetConfig.crop,
        target_channels: int = TargetConfig.channels,
        decoder_width: int = ModelConfig.decoder_width,
        augment: dict | None = None,
        label_smoothing: float = PretrainConfig.label_smoothing,
        decode_fraction: float = MaskConfig.decode_fraction,
        **kwargs,
    ):
        # Without autocast the noise stays float32. In bfloat16 blocks would tie, and the largest values would become 1.
        super().__init__(backbone, autocast=False, **kwargs)
        self.mask_ratio, self.block = mask_ratio, block
        self.target_size, self.target_bits, self.target_crop = target_size, target_bits, target_crop
        self.target_channels = target_channels
        self.decoder_width, self.label_smoothing = decoder_width, label_smoothing
        self.augment = checked(AugmentConfig, **(augment or {}))
        mask = checked(MaskConfig, ratio=mask_ratio, block=block, decode_fraction=decode_fraction)
        side = backbone.image_size // backbone.grid
        jitter = self.augment.jitter_size
        if self.augment.enabled and jitter > side:
            raise ValueError(f"Expected augment['jitter_size'] to be at most the patch size {side}. Received: {jitter}")
        checked(
            Config,
            model=checked(ModelConfig, **backbone.arguments, decoder_width=decoder_width),
            mask=mask,
            augment=self.augment,
            target=checked(TargetConfig, size=target_size, bits=target_bits, crop=target_crop, channels=target_channels),
            pretrain=checked(PretrainConfig, label_smoothing=label_smoothing),
        )
        self.noise_seed = keras.random.SeedGenerator()
        self.masked = round(mask_ratio * backbone.grid**2)
        self.decode_fraction = decode_fraction
        self.decoded = max(1, round(decode_fraction * self.masked))
        self.decoder = PatchDecoder(
            target_size, 2**target_bits, decoder_width, backbone.norm, target_channels, dtype=self.dtype_policy, name="decoder"
        )
        self.cross_entropy = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)

    def build(self, input_shape=None):
        super().build()
        self.decoder.build((None, None, self.backbone.width))

    def call(self, inputs, training=False):
        def noise(name, *shape):
            return noise_of(inputs, name, shape, self.noise_seed, training)

        patches = extract_patches(images_of(inputs, self.backbone.image_size), self.backbone.grid)
        mask_noise = noise("mask_noise", mask_noise_size(self.backbone.grid, self.block))
        visible_indices, masked_indices = block_mask(mask_noise, self.backbone.grid, self.block, self.masked)
        if training and self.decoded < self.masked:
            masked_indices = sample_targets(noise("decode_noise", self.masked), masked_indices, self.decoded)
        # Evaluation does not augment, so that its scores can be compared across augmentations.
        augment = self.augment if training else AugmentConfig(enabled=False)
        drawn = noise("augment_noise", visible_indices.shape[1], len(NOISE)) if augment.enabled else None
        visible = augment_patches(gather_patches(patches, visible_indices), drawn, augment)
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
        """The true levels of patches: uint8 `(..., p, p, 3)` to int32 `(..., size, size, channels)`."""
        return target_levels(patches, self.target_size, self.target_bits, self.target_crop, self.target_channels)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if getattr(self, "loss", None) is not None:  # of `compile`
            raise ValueError(f"A Pretrainer has a loss of its own. Leave loss={self.loss!r} out of compile.")
        labels = ops.one_hot(y_pred["targets"], 2**self.target_bits, dtype="float32")
        if sample_weight is not None:  # (B,), a weight for each image
            sample_weight = ops.reshape(sample_weight, (-1, 1, 1, 1, 1))
        return self.cross_entropy(labels, y_pred["logits"], sample_weight)

    def get_config(self) -> dict:
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
            "decode_fraction": self.decode_fraction,
        }


@keras.saving.register_keras_serializable("pf_keras")
class PretrainScores(keras.Model):
    """Scores of a pre-trainer for each example, without augmentation and label smoothing. Call `predict` on it.

    Args:
        pretrainer: a `Pretrainer`.

    Inputs:
        As for `Pretrainer`.

    Output, a dict:
        cross_entropy: float32 `(B,)`, the mean over the example's target pixels.
        level_counts: float32 `(B, channels, 2**bits)`, how many target pixels have each level.
    """

    def __init__(self, pretrainer: Pretrainer, **kwargs):
        super().__init__(autocast=False, **kwargs)  # keeps the noise in float32, like `Pretrainer`
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

    def get_config(self) -> dict:
        return {**super().get_config(), "pretrainer": keras.saving.serialize_keras_object(self.pretrainer)}

    @classmethod
    def from_config(cls, config: dict) -> "PretrainScores":
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("pretrainer")), **config)
