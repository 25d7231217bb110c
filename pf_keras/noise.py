"""Names, order and shapes of a training example's noise: uniform random numbers in [0, 1).

Noise decides every random choice about an example. The input pipeline draws it as a function of the seed, the
epoch and the example, and the model is a pure function of the batch.
"""

from pf_keras.config import Config
from pf_keras.patches.augment import NOISE
from pf_keras.patches.masking import mask_noise_size

# The input pipeline itself uses CROP, for the random crop, STRONG, for strong augmentation, and MIX, for mixup and CutMix. The
# model uses the rest.
ATTEMPTS = 10  # at a window that fits into the image
CROP = ("top", "left", "flip", *["area"] * ATTEMPTS, *["aspect_ratio"] * ATTEMPTS)
STRONG = ("rotation", "shear_x", "shear_y", "brightness", "contrast", "saturation", "hue", "grey")
MIX = ("kind", "kept", "row", "column")
BY_PIPELINE = ("strong_noise", "mix_noise")  # noise that the input pipeline uses itself

Shapes = dict[str, tuple[int, ...]]


def pretrain_noise(config: Config) -> Shapes:
    """The shapes of a pre-training example's noise, by the name of the model's input."""
    mask = {"mask_noise": (mask_noise_size(config.model.grid, config.mask.block),)}
    decode = {"decode_noise": (config.masked,)} if config.decoded < config.masked else {}
    return {**mask, **decode, "augment_noise": (config.visible, len(NOISE))}


def finetune_noise(config: Config) -> Shapes:
    """The shapes of a fine-tuning example's noise, by name. The pipeline itself uses `strong_noise` and `mix_noise`."""
    strong = {"strong_noise": (len(STRONG),)} if config.finetune.strong else {}
    mix = {"mix_noise": (len(MIX),)} if config.finetune.mix else {}
    return {**strong, "mask_noise": (config.model.patches,), **mix}
