import keras
from keras import ops

from pf_keras.layers.attention import Attention
from pf_keras.layers.common import layer_norm
from pf_keras.layers.mlp import Mlp


@keras.saving.register_keras_serializable("pf_keras")
class AttentionPooling(keras.layers.Layer):
    """A learned query attends over the context (paper, 2.1 and 2.2).

    Call with context (B, V, D) alone for one pooled vector (B, 1, D), or with `positions` (B, M, D), which are added
    to the query, for the context vector of each of M targets (B, M, D).
    The query is kept by a residual connection and an MLP follows, as in a transformer block.
    """

    def __init__(self, heads, mlp_ratio=4, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.mlp_ratio = heads, mlp_ratio

    def build(self, context_shape, positions_shape=None):
        width = context_shape[-1]
        self.query = self.add_weight(
            shape=(width,), initializer=keras.initializers.TruncatedNormal(stddev=0.02), name="query"
        )
        self.query_norm = layer_norm(self, "query_norm")
        self.attention = Attention(self.heads, dtype=self.dtype_policy, name="attention")
        self.mlp_norm = layer_norm(self, "mlp_norm")
        self.mlp = Mlp(self.mlp_ratio, dtype=self.dtype_policy, name="mlp")
        self.final_norm = layer_norm(self, "final_norm")
        queries_shape = (None, None, width)
        self.attention.build(queries_shape, context_shape)
        for layer in (self.query_norm, self.mlp_norm, self.mlp, self.final_norm):
            layer.build(queries_shape)

    def call(self, context, positions=None):
        if positions is None:
            positions = ops.zeros_like(context[:, :1])
        queries = positions + ops.cast(self.query, self.compute_dtype)
        queries = queries + self.attention(self.query_norm(queries), context)
        return self.final_norm(queries + self.mlp(self.mlp_norm(queries)))

    def compute_output_shape(self, context_shape, positions_shape=None):
        return positions_shape or (context_shape[0], 1, context_shape[-1])

    def get_config(self):
        return {**super().get_config(), "heads": self.heads, "mlp_ratio": self.mlp_ratio}
