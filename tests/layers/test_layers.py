"""Every layer behaves like a Keras layer: shapes, config, saving, precision, gradients."""

import numpy as np
import pytest
from layer_checks import check_layer

from pf_keras import layers


def floats(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype("float32")


INDICES = np.array([[0, 5, 10], [15, 3, 6]], "int32")

CASES = {
    "Attention": (lambda **k: layers.Attention(2, **k), floats(2, 3, 8), floats(2, 5, 8)),
    "AttentionPooling": (lambda **k: layers.AttentionPooling(2, **k), floats(2, 5, 8)),
    "AttentionPooling with positions": (lambda **k: layers.AttentionPooling(2, **k), floats(2, 5, 8), floats(2, 3, 8)),
    "Bottleneck": (lambda **k: layers.Bottleneck(2, **k), floats(3, 4, 4, 8)),
    "Bottleneck strided": (lambda **k: layers.Bottleneck(4, strides=2, **k), floats(3, 5, 5, 8)),
    "Bottleneck group": (lambda **k: layers.Bottleneck(4, norm="group", **k), floats(3, 4, 4, 8)),
    "FactorizedPositions": (lambda **k: layers.FactorizedPositions(4, 8, **k), INDICES),
    "Mlp": (lambda **k: layers.Mlp(2, dropout=0.1, **k), floats(2, 3, 8)),
    "ResidualUpsampling": (lambda **k: layers.ResidualUpsampling(6, **k), floats(3, 2, 2, 8)),
    "ResidualUpsampling group": (lambda **k: layers.ResidualUpsampling(8, norm="group", **k), floats(3, 2, 2, 8)),
    "TransformerBlock": (lambda **k: layers.TransformerBlock(2, dropout=0.1, **k), floats(2, 3, 8)),
    "TransformerBlock pre_norm": (lambda **k: layers.TransformerBlock(2, 2, "pre_norm", **k), floats(2, 3, 8)),
    "Transformer": (lambda **k: layers.Transformer(2, 2, mlp_ratio=2, **k), floats(2, 3, 8)),
    "Transformer pre_norm": (lambda **k: layers.Transformer(2, 2, norm_order="pre_norm", **k), floats(2, 3, 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_layer_is_a_keras_layer(name, tmp_path):
    make, *inputs = CASES[name]
    check_layer(make, *inputs, tmp_path=tmp_path)


def test_every_public_layer_is_checked():
    assert {name.split()[0] for name in CASES} == set(layers.__all__)
