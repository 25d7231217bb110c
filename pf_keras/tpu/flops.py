"""How many FLOPs an image costs, by formula: two for each multiplication of a matrix product or a convolution."""

from pf_keras.config import Config, ModelConfig
from pf_keras.layers.resnet import EXPANSION
from pf_keras.models.decoder import stages
from pf_keras.models.patch_encoder import STEMS


def pretrain_flops(config: Config) -> int:
    """FLOPs of one image in a pre-training step, forward and backward.

    The backward pass costs twice the forward pass: one gradient for the weights and one for the inputs. The first convolution
    needs no gradient for its inputs, which are pixels.
    """
    return 3 * sum(forward_flops(config).values()) - config.visible * _stem(config.model)[0]


def forward_flops(config: Config) -> dict[str, int]:
    """FLOPs of the forward pass of one image in a pre-training step, by part of the model."""
    model, visible, masked = config.model, config.visible, config.decoded
    width, ratio = model.width, model.mlp_ratio
    mlp = 4 * ratio * width**2  # per token
    block = visible * (8 * width**2 + mlp) + 4 * visible**2 * width
    pooling = masked * (4 * width**2 + mlp) + visible * 4 * width**2 + 4 * masked * visible * width
    if model.decode_position == "additive":  # one query for all targets
        pooling = 4 * width**2 + mlp + visible * 4 * width**2 + 4 * visible * width
    return {
        "patch encoder": visible * _patch_encoder(model),
        "transformer": model.depth * block,
        "attention pooling": pooling,
        "decoder": masked * _decoder(config),
    }


def _conv(size: int, inputs: int, outputs: int, side: int, strides: int = 1) -> int:
    """FLOPs of a convolution with `side` x `side` outputs. Padding counts, except on a map so small that the convolution is
    one matrix product (see `layers.kernels`)."""
    seen = side if strides == 1 and side <= size // 2 + 1 else size
    return 2 * seen**2 * inputs * outputs * side**2


def _stem(model: ModelConfig) -> tuple[int, int]:
    """FLOPs of the stem per patch, and the side of its output."""
    size, strides = STEMS[model.stem]
    side = -(-model.patch_size // strides)
    return _conv(size, 3, model.stem_width, side, strides), side


def _patch_encoder(model: ModelConfig) -> int:
    total, side = _stem(model)
    if model.stem == "imagenet":
        side = -(-side // 2)
    channels = model.stem_width
    for stack, (blocks, filters) in enumerate(zip(model.stacks, model.stack_widths, strict=True)):
        for block in range(blocks):
            before, wide, strides = side, EXPANSION * filters, 2 if stack > 0 and block == 0 else 1
            side = -(-side // strides)
            total += _conv(1, channels, filters, before) + _conv(1, filters, wide, side)
            total += _conv(3, filters, filters, side, strides)
            if before != side or channels != wide:
                total += _conv(1, channels, wide, side)
            channels = wide
    return total + 2 * channels * model.width


def _decoder(config: Config) -> int:
    model, channels = config.model, config.model.decoder_width
    side, widths = stages(config.target.size, channels)
    total = 2 * model.width * side**2 * channels
    for filters in widths:
        total += _conv(1, channels, filters, side) + 2 * 4**2 * channels * filters * side**2  # both before upsampling
        side *= 2
        total += _conv(3, filters, filters, side)
        channels = filters
    return total + _conv(3, channels, config.target.channels * 2**config.target.bits, side)
