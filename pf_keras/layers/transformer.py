import keras

from pf_keras.layers.attention import Attention
from pf_keras.layers.common import layer_norm
from pf_keras.layers.mlp import Mlp


@keras.saving.register_keras_serializable("pf_keras")
class TransformerBlock(keras.layers.Layer):
    """Self-attention and an MLP, each with a residual connection: (B, V, D) -> (B, V, D).

    norm_order: `post_norm` normalises the sum after each part, as BERT does, `pre_norm` what enters it.
    """

    def __init__(self, heads, mlp_ratio=4, norm_order="post_norm", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        if norm_order not in ("post_norm", "pre_norm"):
            raise ValueError(f"Expected norm_order to be 'post_norm' or 'pre_norm'. Received: {norm_order!r}")
        self.heads, self.mlp_ratio, self.norm_order, self.dropout = heads, mlp_ratio, norm_order, dropout

    def build(self, input_shape):
        self.attention = Attention(self.heads, dtype=self.dtype_policy, name="attention")
        self.attention_norm = layer_norm(self, "attention_norm")
        self.mlp = Mlp(self.mlp_ratio, self.dropout, dtype=self.dtype_policy, name="mlp")
        self.mlp_norm = layer_norm(self, "mlp_norm")
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="drop")
        self.attention.build(input_shape, input_shape)
        for layer in (self.attention_norm, self.mlp, self.mlp_norm):
            layer.build(input_shape)

    def call(self, x, training=False):
        if self.norm_order == "pre_norm":
            normed = self.attention_norm(x)
            x = x + self.drop(self.attention(normed, normed), training=training)
            return x + self.mlp(self.mlp_norm(x), training=training)
        x = self.attention_norm(x + self.drop(self.attention(x, x), training=training))
        return self.mlp_norm(x + self.mlp(x, training=training))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "heads": self.heads,
            "mlp_ratio": self.mlp_ratio,
            "norm_order": self.norm_order,
            "dropout": self.dropout,
        }


@keras.saving.register_keras_serializable("pf_keras")
class Transformer(keras.layers.Layer):
    """`depth` blocks, and a final normalisation where they are pre-norm: (B, V, D) -> (B, V, D) (paper, 2.1)."""

    def __init__(self, depth, heads, mlp_ratio=4, norm_order="post_norm", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.depth, self.heads, self.mlp_ratio = depth, heads, mlp_ratio
        self.norm_order, self.dropout = norm_order, dropout

    def build(self, input_shape):
        self.blocks = [
            TransformerBlock(
                self.heads, self.mlp_ratio, self.norm_order, self.dropout, dtype=self.dtype_policy, name=f"block_{i}"
            )
            for i in range(self.depth)
        ]
        self.final_norm = layer_norm(self, "final_norm") if self.norm_order == "pre_norm" else None
        for layer in [*self.blocks, *filter(None, [self.final_norm])]:
            layer.build(input_shape)

    def call(self, x, training=False):
        for block in self.blocks:
            x = block(x, training=training)
        return self.final_norm(x) if self.final_norm else x

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "depth": self.depth,
            "heads": self.heads,
            "mlp_ratio": self.mlp_ratio,
            "norm_order": self.norm_order,
            "dropout": self.dropout,
        }
