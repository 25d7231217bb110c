"""What a model looks at: the attention of its pooling query over the patches of an image.

A model's own call returns only what it pooled, so that the weights are computed again here.
"""

import os
import sys
from collections.abc import Sequence

import keras
import numpy as np
from etils import epath
from keras import ops

from pf_keras.config import Config
from pf_keras.data.readable import photographs, pictures
from pf_keras.data.records import Split
from pf_keras.figures_answers import Cell, Row, brightest, draw_attention, draw_sheet, framed, heat_map
from pf_keras.layers.transformer import AttentionPooling
from pf_keras.models import Classifier
from pf_keras.patches.augment import scale_pixels
from pf_keras.patches.grid import extract_patches, gather_patches
from pf_keras.patches.masking import block_mask

TITLE = "What the model looks at: attention of its pooling query"


def draw_looks(
    model: keras.Model,
    split: Split,
    config: Config,
    indices: Sequence[int],
    lines: Sequence[Sequence[str]],
    path: epath.Path,
    title: str = TITLE,
) -> bool:
    """Draw what a model looks at on a few images. A model without attention pooling has no picture, and says so.

    Args:
        model: see `image_attention`.
        split: that the images are of.
        config: how they are cropped.
        indices: the keys' `index` of the images.
        lines: the text below each image, two lines at most.
        path: of the picture.
        title: above it.

    Returns:
        Whether there is a picture.
    """
    if not has_pooling(model):
        print("no heat maps: finetune.head=linear has no attention pooling", file=sys.stderr)
        return False
    inputs, shown = pictures(split, indices, config, config.model.image_size), photographs(split, indices, config)
    pairs = [(int(index), text) for index, text in zip(indices, lines, strict=True) if int(index) in inputs]
    heats = image_attention(model, np.stack([inputs[index] for index, _ in pairs]))
    draw_attention(title, [shown[index] for index, _ in pairs], heats, [text for _, text in pairs], path)
    return True


def draw_targets(model: keras.Model, batch: dict[str, np.ndarray], path: os.PathLike) -> None:
    """Draw which visible patches a pre-trainer looks at to decode one masked patch of each image.

    Args:
        model: a `Pretrainer`.
        batch: of `reconstruction.examples`.
        path: of the picture.
    """
    grid, (heats, targets) = model.backbone.grid, target_attention(model, batch)
    rows = []
    for image, heat, target in zip(batch["image"], heats, targets, strict=True):
        side = image.shape[0] // grid
        hidden = np.isnan(heat).repeat(side, axis=0).repeat(side, axis=1)[..., None]
        seen = framed(np.where(hidden, np.uint8(128), image), grid, target)
        cells = [framed(image, grid, target), seen, framed(heat_map(image, heat), grid, target)]
        rows.append([Cell(cell, text) for cell, text in zip(cells, ([], [], [brightest(heat)]), strict=True)])
    pairs = [Row([cell for row in rows[start : start + 2] for cell in row]) for start in range(0, len(rows), 2)]
    title = "What the model looks at to decode the patch in the red frame"
    if model.backbone.decode_position == "additive":
        title += " (the same for all patches: decode_position=additive)"
    headings = ("image, what the model sees, its attention",)
    draw_sheet(title, pairs, path, group=3, headings=headings)


def pooling_attention(pooling: AttentionPooling, context, positions=None):
    """The attention weights of a built `AttentionPooling`.

    Args:
        pooling: the layer.
        context: float `(B, V, D)`.
        positions: float `(B, M, D)`, of the targets. Without them the learned query alone is used.

    Returns:
        float32 `(B, heads, M, V)`, whose sum over the last axis is 1. M is 1 without positions.
    """
    context = ops.cast(context, pooling.compute_dtype)
    positions = ops.zeros_like(context[:, :1]) if positions is None else ops.cast(positions, pooling.compute_dtype)
    queries = pooling.query_norm(positions + ops.cast(pooling.query, pooling.compute_dtype))
    return pooling.attention.attend(queries, context)[0]


def has_pooling(model: keras.Model) -> bool:
    """Whether a model pools by attention. A classifier with a linear head takes the mean of the patches instead."""
    return not (isinstance(model, Classifier) and model.head_kind != "residual")


def image_attention(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """The attention of the learned query over the patches of whole images, the mean over the heads.

    Args:
        model: a `Classifier` with the residual head, or a `Pretrainer`. A pre-training adds the position of a target to its
            query, and never trains the query alone.
        images: uint8 `(B, S, S, 3)`.

    Returns:
        float32 `(B, grid, grid)`, whose sum over an image is 1.

    Raises:
        ValueError: the classifier has a linear head.
    """
    if not has_pooling(model):
        raise ValueError("Expected a model with attention pooling. Received: a Classifier with the linear head")
    backbone = model.backbone
    context = backbone(scale_pixels(extract_patches(ops.convert_to_tensor(images), backbone.grid)), training=False)
    weights = ops.mean(pooling_attention(backbone.pooling, context)[:, :, 0], axis=1)
    return ops.convert_to_numpy(weights).reshape(-1, backbone.grid, backbone.grid)


def target_attention(model: keras.Model, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The attention of a pre-trainer over the visible patches, when it decodes one masked patch of each image.

    That patch is the masked one nearest to the centre of the image. With `decode_position=additive` its position is not in the
    query, so that the attention is the same for all patches of the image.

    Args:
        model: a `Pretrainer`.
        batch: `image` uint8 `(B, S, S, 3)` and `mask_noise`, see `Pretrainer`.

    Returns:
        float32 `(B, grid, grid)`, the mean over the heads, NaN where a patch is masked; and int `(B,)`, the index of the
        decoded patch.
    """
    backbone = model.backbone
    grid = backbone.grid
    visible, masked = block_mask(ops.convert_to_tensor(batch["mask_noise"]), grid, model.block, model.masked)
    patches = extract_patches(ops.convert_to_tensor(batch["image"]), grid)
    context = backbone(scale_pixels(gather_patches(patches, visible)), visible, training=False)
    visible, masked = ops.convert_to_numpy(visible), ops.convert_to_numpy(masked)
    target = np.take_along_axis(masked, _nearest_to_the_centre(masked, grid)[:, None], axis=1)
    positions = backbone.positions(ops.convert_to_tensor(target)) if backbone.decode_position == "query" else None
    weights = ops.mean(pooling_attention(backbone.pooling, context, positions)[:, :, 0], axis=1)
    heat = np.full((len(target), grid * grid), np.nan, "float32")
    np.put_along_axis(heat, visible, ops.convert_to_numpy(weights), axis=1)
    return heat.reshape(-1, grid, grid), target[:, 0]


def _nearest_to_the_centre(masked: np.ndarray, grid: int) -> np.ndarray:
    """int `(B,)`: which of the masked patches, `(B, M)`, is nearest to the centre of the image."""
    distance = np.square(masked // grid - (grid - 1) / 2) + np.square(masked % grid - (grid - 1) / 2)
    return distance.argmin(axis=1)
