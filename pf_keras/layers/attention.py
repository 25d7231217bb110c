import keras
from keras import ops

from pf_keras.layers.common import dense


@keras.saving.register_keras_serializable("pf_keras")
class Attention(keras.layers.Layer):
    """Multi-head attention of queries (B, Q, D) over a context (B, V, D); returns (B, Q, D).

    The softmax is computed in float32 whatever the compute type.
    """

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, queries_shape, context_shape=None):
        width = queries_shape[-1]
        self.query = dense(width, self, "query")
        self.key_value = dense(2 * width, self, "key_value")  # one product for both: they share their input
        self.output_projection = dense(width, self, "output_projection")
        for layer in (self.query, self.key_value, self.output_projection):
            layer.build((None, None, width))

    def call(self, queries, context):
        width = queries.shape[-1]

        def split(x):
            return ops.reshape(x, (-1, x.shape[1], self.heads, width // self.heads))

        key, value = ops.split(self.key_value(context), 2, axis=-1)
        # (B, Q, heads, D / heads)
        # Not by Keras's flash attention: on a TPU under JAX, without a mask, that is causal and does not scale.
        mixed = ops.dot_product_attention(split(self.query(queries)), split(key), split(value), flash_attention=False)
        return self.output_projection(ops.reshape(mixed, (-1, queries.shape[1], width)))

    def compute_output_shape(self, queries_shape, context_shape=None):
        return queries_shape

    def get_config(self):
        return {**super().get_config(), "heads": self.heads}
