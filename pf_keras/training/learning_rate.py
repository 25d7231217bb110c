"""How the learning rate changes over the steps, and over the layers."""

import keras

from pf_keras.config import FinetuneConfig, PretrainConfig


def schedule(
    settings: PretrainConfig | FinetuneConfig, steps: int, warmup_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up from 0 to `peak(settings)`, then cosine decay to 0, which it would reach one step after the last.

    Args:
        settings: the section of the config.
        steps: of the whole training.
        warmup_steps: over which the learning rate rises.
    """
    warmup_steps, highest = min(warmup_steps, steps - 1), peak(settings)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else highest,
        decay_steps=steps - warmup_steps,
        warmup_target=highest if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def peak(settings: PretrainConfig | FinetuneConfig) -> float:
    """The highest learning rate: `learning_rate`, or `learning_rate_per_256` times the batch over 256 (Goyal et al., 2017)."""
    return settings.learning_rate_per_256 * settings.batch / 256 or settings.learning_rate


def describe_scaling(settings: PretrainConfig | FinetuneConfig) -> str:
    """How `learning_rate_per_256` gives the learning rate, for a message. Empty where it is not set."""
    scaled = settings.learning_rate_per_256
    if not scaled:
        return ""
    product = f"learning_rate_per_256={scaled:g} times {settings.batch} / 256"
    return f"learning rate {peak(settings):g}: {product}, in place of learning_rate={settings.learning_rate:g}"


def layer_rates(backbone: keras.Model, decay: float) -> list[tuple[keras.Variable, float]]:
    """Layer-wise learning-rate decay for fine-tuning, as in BEiT and MAE.

    Everything above the transformer learns at the full learning rate. Each layer below multiplies it by `decay`: first the
    last block of the transformer, then the block before it, and so on, and at the bottom the patch encoder and the positions.

    Args:
        backbone: a `Backbone`.
        decay: in (0, 1].

    Returns:
        Pairs `(variable, factor)` for `AdamW.scale_rates`.
    """
    levels = [[backbone.patch_encoder, backbone.positions], *([block] for block in backbone.transformer.blocks)]
    return [
        (variable, decay ** (len(levels) - level))
        for level, layers in enumerate(levels)
        for layer in layers
        for variable in layer.trainable_variables
    ]


def learning_rate_at(optimizer: keras.optimizers.Optimizer, step: int) -> float:
    """The learning rate of an update, counted from 0."""
    rate = optimizer._learning_rate
    return float(rate(step) if callable(rate) else rate)
