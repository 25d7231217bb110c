"""The parts of the transformer against NumPy."""

import keras
import numpy as np
import pytest
from keras import ops
from tiny import randomize, run, runner

from pf_keras.layers import Attention, AttentionPooling, FactorizedPositions, Mlp, Transformer, TransformerBlock


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def built(layer, *shapes):
    layer.build(*shapes)
    return randomize(layer)


def affine(dense, x):
    return x @ dense.kernel.numpy() + dense.bias.numpy()


def attend(layer, queries, context):
    """Attention of one image, head by head."""
    width = queries.shape[-1]
    size = width // layer.heads
    query = affine(layer.query, queries)
    key, value = np.split(affine(layer.key_value, context), 2, axis=-1)
    mixed = np.zeros(queries.shape)
    for head in range(layer.heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[:, part] @ key[:, part].T / np.sqrt(size)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed[:, part] = weights @ value[:, part]
    return affine(layer.output_projection, mixed)


def normed(layer, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return scaled * layer.gamma.numpy() + layer.beta.numpy()


def mlp(layer, x):
    hidden = affine(layer.widen, x)
    gelu = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    return affine(layer.narrow, gelu)


def test_attention_matches_numpy():
    layer = built(Attention(2), (None, 3, 8), (None, 5, 8))
    queries, context = floats(2, 3, 8), floats(2, 5, 8, seed=1)
    ours = run(layer, queries, context)
    for image in range(2):
        np.testing.assert_allclose(ours[image], attend(layer, queries[image], context[image]), atol=1e-5)


def test_mlp_matches_numpy():
    layer = built(Mlp(3), (None, 4, 8))
    assert layer.widen.units == 24
    x = floats(2, 4, 8)
    np.testing.assert_allclose(run(layer, x), mlp(layer, x), atol=1e-5)


@pytest.mark.parametrize("norm_order", ["post_norm", "pre_norm"])
def test_transformer_block_matches_numpy(norm_order):
    layer = built(TransformerBlock(2, norm_order=norm_order), (None, 5, 8))
    x = floats(1, 5, 8)
    ours = run(layer, x)[0]
    x = x[0]
    if norm_order == "pre_norm":
        inner = normed(layer.attention_norm, x)
        x = x + attend(layer.attention, inner, inner)
        x = x + mlp(layer.mlp, normed(layer.mlp_norm, x))
    else:
        x = normed(layer.attention_norm, x + attend(layer.attention, x, x))
        x = normed(layer.mlp_norm, x + mlp(layer.mlp, x))
    np.testing.assert_allclose(ours, x, atol=2e-5)


def test_attention_pooling_matches_numpy():
    layer = built(AttentionPooling(2), (None, 5, 8), (None, 3, 8))
    context, positions = floats(2, 5, 8), floats(2, 3, 8, seed=1)
    ours = run(layer, context, positions)
    for image in range(2):
        queries = positions[image] + layer.query.numpy()
        queries = queries + attend(layer.attention, normed(layer.query_norm, queries), context[image])
        expected = normed(layer.final_norm, queries + mlp(layer.mlp, normed(layer.mlp_norm, queries)))
        np.testing.assert_allclose(ours[image], expected, atol=2e-5)
    alone = run(layer, context)
    np.testing.assert_allclose(alone, run(layer, context, np.zeros((2, 1, 8), "float32")), atol=1e-6)


def test_dropout_is_only_active_in_training():
    layer = built(TransformerBlock(2, dropout=0.5), (None, 5, 8))
    x = floats(1, 5, 8)
    np.testing.assert_array_equal(run(layer, x), run(layer, x))
    assert np.abs(run(layer, x) - run(layer, x, training=True)).max() > 0.1


@pytest.mark.parametrize("norm_order", ["post_norm", "pre_norm"])
def test_drop_path_skips_whole_images_and_keeps_the_mean(norm_order):
    """Of the two parts of a block an image has both, one, or none. What is kept is divided by the probability to keep it."""
    rate, images = 0.3, 2000
    layer = built(TransformerBlock(2, norm_order=norm_order, drop_path=rate), (None, 3, 8))
    x = np.repeat(floats(1, 3, 8), images, axis=0)
    ours = run(layer, x, training=True)
    one = x[0]

    def outcome(attention, mlp_kept):
        scale = 1 / (1 - rate)
        if norm_order == "pre_norm":
            inner = normed(layer.attention_norm, one)
            y = one + attention * scale * attend(layer.attention, inner, inner)
            return y + mlp_kept * scale * mlp(layer.mlp, normed(layer.mlp_norm, y))
        y = normed(layer.attention_norm, one + attention * scale * attend(layer.attention, one, one))
        return normed(layer.mlp_norm, y + mlp_kept * scale * mlp(layer.mlp, y))

    counts = []
    for kept in ((1, 1), (1, 0), (0, 1), (0, 0)):
        expected = outcome(*kept)
        counts.append(int((np.abs(ours - expected).max(axis=(1, 2)) < 1e-3).sum()))
    assert sum(counts) == images
    # each count is binomial: four standard deviations are at most 4 * sqrt(2000 / 4) = 90
    np.testing.assert_allclose(counts, images * np.array([0.49, 0.21, 0.21, 0.09]), atol=90)
    np.testing.assert_allclose(run(layer, x[:1])[0], outcome(1 - rate, 1 - rate), atol=2e-5)  # nothing is skipped or scaled


def test_drop_path_keeps_the_mean_of_a_part():
    layer = built(TransformerBlock(2, norm_order="pre_norm", drop_path=0.4), (None, 3, 8))
    layer.mlp.narrow.kernel.assign(np.zeros(layer.mlp.narrow.kernel.shape))  # one part is left, so that the mean is exact
    layer.mlp.narrow.bias.assign(np.zeros(8))
    x = np.repeat(floats(1, 3, 8), 4000, axis=0)
    part, kept = run(layer, x[:1])[0] - x[0], run(layer, x, training=True).mean(axis=0) - x[0]
    # the mean of 4000 values that are 0 or 1 / 0.6 has a standard deviation of 0.013
    np.testing.assert_allclose(kept, part, atol=4 * 0.013 * np.abs(part).max())


def test_drop_path_rises_linearly_over_the_blocks_and_draws_anew():
    layer = built(Transformer(4, 2, drop_path=0.2), (None, 3, 8))
    np.testing.assert_allclose([block.drop_path for block in layer.blocks], [0.05, 0.1, 0.15, 0.2])
    x = np.repeat(floats(1, 3, 8), 50, axis=0)
    call = runner(layer, training=True)
    if keras.backend.backend() == "tensorflow":  # a stateless call under JAX does not count up the seed
        assert np.abs(call(x) - call(x)).max() > 0.1
    np.testing.assert_array_equal(run(layer, x), run(layer, x))
    assert Transformer.from_config(layer.get_config()).drop_path == 0.2
    with pytest.raises(ValueError, match=r"Expected drop_path in \[0, 1\). Received: 1"):
        TransformerBlock(2, drop_path=1)


def test_a_position_is_a_row_vector_plus_a_column_vector():
    layer = built(FactorizedPositions(3, 4), (None, 2))
    indices = np.array([[0, 5], [7, 7]], "int32")
    ours = run(layer, indices)
    for image in range(2):
        for place in range(2):
            row, column = divmod(indices[image, place], 3)
            expected = layer.rows.numpy()[row] + layer.columns.numpy()[column]
            np.testing.assert_allclose(ours[image, place], expected, atol=1e-6)


def test_all_positions_differ_initially():
    layer = FactorizedPositions(4, 8)
    layer.build()
    positions = ops.convert_to_numpy(layer(np.arange(16)[None]))[0]
    assert len(np.unique(positions, axis=0)) == 16


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="heads to divide the width 9. Received: 2"):
        Attention(2).build((None, 3, 9))


def test_attention_over_sequences_of_unknown_length():
    layer = built(Attention(2), (None, None, 8), (None, None, 8))
    inputs = [keras.Input((None, 8)) for _ in range(2)]
    model = keras.Model(inputs, layer(*inputs))
    queries, context = floats(2, 3, 8), floats(2, 5, 8, seed=1)
    np.testing.assert_allclose(model.predict([queries, context], verbose=0), run(layer, queries, context), atol=1e-5)
