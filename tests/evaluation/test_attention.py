"""What the model looks at: attention weights against attention written out in NumPy."""

import numpy as np
import pytest
from keras import ops
from PIL import Image
from tiny import random_batch, random_classifier_batch, randomize, tiny_classifier, tiny_config, tiny_pretrainer

from pf_keras.evaluation.attention import (
    draw_looks,
    draw_targets,
    has_pooling,
    image_attention,
    pooling_attention,
    target_attention,
)
from pf_keras.layers import AttentionPooling

HEADS, WIDTH = 4, 32


def reference(pooling, context, positions):
    """The attention weights, head by head and query by query."""

    def values(layer):
        return [np.asarray(ops.convert_to_numpy(weight), "float64") for weight in layer.weights]

    def normed(x, layer):
        scale, shift = values(layer)
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale + shift

    query_kernel, query_bias = values(pooling.attention.query)
    key_kernel, key_bias = (part[..., :WIDTH] for part in values(pooling.attention.key_value))
    learned, side = np.asarray(ops.convert_to_numpy(pooling.query), "float64"), WIDTH // HEADS
    found = np.zeros((len(context), HEADS, positions.shape[1], context.shape[1]))
    for image, head, target in np.ndindex(found.shape[:3]):
        part = slice(head * side, (head + 1) * side)
        query = (normed(positions[image, target] + learned, pooling.query_norm) @ query_kernel + query_bias)[part]
        scores = (context[image] @ key_kernel + key_bias)[:, part] @ query / np.sqrt(side)
        exponentials = np.exp(scores - scores.max())
        found[image, head, target] = exponentials / exponentials.sum()
    return found


@pytest.fixture
def pooling():
    layer = AttentionPooling(HEADS)
    layer.build((None, None, WIDTH), (None, None, WIDTH))
    return randomize(layer)


def test_weights_are_those_of_attention_in_numpy(pooling):
    rng = np.random.default_rng(0)
    context, positions = (rng.normal(size=(3, count, WIDTH)).astype("float32") for count in (5, 2))
    found = ops.convert_to_numpy(pooling_attention(pooling, context, positions))
    np.testing.assert_allclose(found, reference(pooling, context, positions), atol=1e-5)
    alone = ops.convert_to_numpy(pooling_attention(pooling, context))
    np.testing.assert_allclose(alone, reference(pooling, context, np.zeros((3, 1, WIDTH))), atol=1e-5)


def test_weights_lead_to_what_the_layer_pools(pooling):
    """The values mixed by these weights give the output of the layer's own call."""
    context = np.random.default_rng(0).normal(size=(3, 5, WIDTH)).astype("float32")
    weights = pooling_attention(pooling, context)
    value = ops.split(pooling.attention.key_value(context), 2, axis=-1)[1]
    value = ops.transpose(ops.reshape(value, (3, 5, HEADS, WIDTH // HEADS)), (0, 2, 1, 3))
    mixed = ops.reshape(ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3)), (3, 1, WIDTH))
    queries = ops.zeros((3, 1, WIDTH)) + pooling.query
    queries = queries + pooling.attention.output_projection(mixed)
    expected = pooling.final_norm(queries + pooling.mlp(pooling.mlp_norm(queries)))
    found = pooling(context)
    np.testing.assert_allclose(ops.convert_to_numpy(expected), ops.convert_to_numpy(found), atol=1e-5)


def test_attention_of_an_image_is_that_of_the_context_the_classifier_pools():
    config = tiny_config()
    model = randomize(tiny_classifier(config))
    images = random_classifier_batch(config, 3)["image"]
    heat = image_attention(model, images)
    assert heat.shape == (3, 4, 4)
    np.testing.assert_allclose(heat.sum((1, 2)), 1, atol=1e-5)
    pooled = []
    call = model.backbone.pooling.call
    model.backbone.pooling.call = lambda context, positions=None: pooled.append(context) or call(context, positions)
    model(images)
    expected = reference(model.backbone.pooling, ops.convert_to_numpy(pooled[0]), np.zeros((3, 1, WIDTH)))
    np.testing.assert_allclose(heat.reshape(3, -1), expected[:, :, 0].mean(1), atol=1e-4)


@pytest.mark.parametrize("position", ["query", "additive"])
def test_attention_of_a_target_covers_the_visible_patches(position):
    config = tiny_config({"model.decode_position": position})
    model, batch = randomize(tiny_pretrainer(config)), random_batch(config, 5)
    heat, target = target_attention(model, batch)
    outputs = model(batch)
    for i in range(5):
        visible = set(ops.convert_to_numpy(outputs["visible_indices"])[i].tolist())
        assert set(np.flatnonzero(np.isfinite(heat[i]))) == visible and target[i] not in visible
        rows, columns = np.divmod(ops.convert_to_numpy(outputs["masked_indices"])[i], 4)
        distances = (rows - 1.5) ** 2 + (columns - 1.5) ** 2
        assert (target[i] // 4 - 1.5) ** 2 + (target[i] % 4 - 1.5) ** 2 == distances.min()
    np.testing.assert_allclose(np.nansum(heat, (1, 2)), 1, atol=1e-5)


@pytest.mark.parametrize("position", ["query", "additive"])
def test_attention_of_a_target_is_that_of_its_query_over_the_context(position):
    """The context is what the model's own call pools."""
    config = tiny_config({"model.decode_position": position})
    model, batch = randomize(tiny_pretrainer(config)), random_batch(config, 5)
    heat, target = target_attention(model, batch)
    pooled, pooling = [], model.backbone.pooling
    call = pooling.call
    pooling.call = lambda context, positions=None: pooled.append(context) or call(context, positions)
    visible = ops.convert_to_numpy(model(batch)["visible_indices"])
    rows, columns = (
        np.asarray(ops.convert_to_numpy(table)) for table in (model.backbone.positions.rows, model.backbone.positions.columns)
    )
    places = rows[target // 4] + columns[target % 4] if position == "query" else np.zeros((5, WIDTH))
    expected = reference(pooling, ops.convert_to_numpy(pooled[0]), places[:, None])[:, :, 0].mean(1)
    assert np.ptp(expected, axis=1).min() > 1e-3  # so that no two orders of the patches agree
    found = np.take_along_axis(heat.reshape(5, 16), visible, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_linear_head_is_refused(tmp_path, capsys):
    config = tiny_config({"finetune.head": "linear"})
    model = tiny_classifier(config)
    assert not has_pooling(model) and has_pooling(tiny_classifier(tiny_config())) and has_pooling(tiny_pretrainer(config))
    with pytest.raises(ValueError, match="linear head"):
        image_attention(model, random_classifier_batch(config, 1)["image"])
    assert not draw_looks(model, None, config, [], [], tmp_path / "attention.png")
    assert "no heat maps: finetune.head=linear" in capsys.readouterr().err and not (tmp_path / "attention.png").exists()


def test_targets_are_drawn_with_and_without_a_position_in_the_query(tmp_path):
    for position in ("query", "additive"):
        config = tiny_config({"model.decode_position": position})
        draw_targets(tiny_pretrainer(config), random_batch(config, 3), tmp_path / f"{position}.png")
        assert Image.open(tmp_path / f"{position}.png").width > 600
