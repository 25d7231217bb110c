from pf_keras.layers.attention import Attention
from pf_keras.layers.attention_pooling import AttentionPooling
from pf_keras.layers.bottleneck import Bottleneck
from pf_keras.layers.mlp import Mlp
from pf_keras.layers.positions import FactorizedPositions
from pf_keras.layers.transformer import Transformer, TransformerBlock
from pf_keras.layers.upsampling import ResidualUpsampling

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
