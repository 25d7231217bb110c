import keras
from keras import ops

from pf_keras.layers.common import dense


@keras.saving.register_keras_serializable("pf_keras")
class Attention(keras.layers.Layer):
    """Multi-head attention of queries (B, Q, D) over a context (B, V, D); returns (B, Q, D).

    The softmax is computed in float32 whatever the compute type. Raises ValueError where `heads` do not divide D.
    """

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, queries_shape, context_shape=None):
        width = queries_shape[-1]
        if width % self.heads:
            raise ValueError(f"Expected heads to divide the width {width}. Received: {self.heads}")
        self.query = dense(width, self, "query")
        self.key_value = dense(2 * width, self, "key_value")  # one product for both: they share their input
        self.output_projection = dense(width, self, "output_projection")
        for layer in (self.query, self.key_value, self.output_projection):
            layer.build((None, None, width))

    def call(self, queries, context):
        width = queries.shape[-1]

        def split(x):  # (B, N, D) -> (B, heads, N, D / heads)
            return ops.transpose(ops.reshape(x, (-1, ops.shape(x)[1], self.heads, width // self.heads)), (0, 2, 1, 3))

        # Not by Keras's dot_product_attention: on a CPU its einsums take up to 1.7 times as long, and on a TPU under JAX its
        # flash attention, without a mask, is causal and does not scale.
        key, value = ops.split(self.key_value(context), 2, axis=-1)
        query = split(self.query(queries)) * (width // self.heads) ** -0.5
        scores = ops.matmul(query, ops.transpose(split(key), (0, 1, 3, 2)))  # (B, heads, Q, V)
        weights = ops.cast(ops.softmax(ops.cast(scores, "float32")), self.compute_dtype)
        mixed = ops.transpose(ops.matmul(weights, split(value)), (0, 2, 1, 3))  # (B, Q, heads, D / heads)
        return self.output_projection(ops.reshape(mixed, (-1, ops.shape(queries)[1], width)))

    def compute_output_shape(self, queries_shape, context_shape=None):
        return queries_shape

    def get_config(self):
        return {**super().get_config(), "heads": self.heads}
