"""The layers of the model. They run on every Keras backend."""

import keras  # noqa: F401 - first, so that pf_keras can register its layers (see pf_keras/__init__.py)

from pf_keras.layers.resnet import Bottleneck, ResidualUpsampling
from pf_keras.layers.transformer import Attention, AttentionPooling, FactorizedPositions, Mlp, Transformer, TransformerBlock

__all__ = [
    "Attention",
    "AttentionPooling",
    "Bottleneck",
    "FactorizedPositions",
    "Mlp",
    "ResidualUpsampling",
    "Transformer",
    "TransformerBlock",
]
