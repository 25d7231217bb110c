"""The transformer and its parts: attention, MLP, blocks, attention pooling and positions (paper, 2.1).

In the shapes, B is the number of images, V of visible patches, M of targets, and D is the width.
"""

import functools

import keras
from keras import ops

from pf_keras.layers.kernels import LayerNormalization, fused


def dense(units: int, parent: keras.Layer, name: str, **kwargs) -> keras.layers.Dense:
    """A Dense layer with BERT's initial weights, a truncated normal of 0.02, in the dtype policy of `parent`."""
    initial = keras.initializers.TruncatedNormal(stddev=0.02)
    return keras.layers.Dense(units, kernel_initializer=initial, dtype=parent.dtype_policy, name=name, **kwargs)


def layer_norm(parent: keras.Layer, name: str) -> LayerNormalization:
    """Layer normalisation in the dtype policy of `parent`."""
    return LayerNormalization(epsilon=1e-6, dtype=parent.dtype_policy, name=name)


@keras.saving.register_keras_serializable("pf_keras")
class Attention(keras.layers.Layer):
    """Multi-head attention of queries over a context. The softmax is computed in float32 in any precision.

    Args:
        heads: number of heads, a divisor of D.

    Inputs:
        queries: `(B, Q, D)`.
        context: `(B, V, D)`.

    Output:
        `(B, Q, D)`.

    Raises:
        ValueError: `heads` does not divide D.
    """

    def __init__(self, heads: int, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, queries_shape, context_shape=None):
        width = queries_shape[-1]
        if width % self.heads:
            raise ValueError(f"Expected heads to divide the width {width}. Received: {self.heads}")
        self.query = dense(width, self, "query")
        self.key_value = dense(2 * width, self, "key_value")  # one product for both, as they share their input
        self.output_projection = dense(width, self, "output_projection")
        for layer in (self.query, self.key_value, self.output_projection):
            layer.build((None, None, width))

    def attend(self, queries, context):
        """The attention weights of a built layer, and the values that they mix.

        Args:
            queries: `(B, Q, D)`.
            context: `(B, V, D)`.

        Returns:
            float32 `(B, heads, Q, V)`, whose sum over the last axis is 1, and the values, `(B, V, D)`.
        """
        # Why not Keras's dot_product_attention: on a CPU its einsums take up to 1.7 times as long, and on a TPU under
        # JAX its flash attention without a mask is causal and does not scale the scores.
        key, value = ops.split(self.key_value(context), 2, axis=-1)
        query = self._split(self.query(queries)) * (queries.shape[-1] // self.heads) ** -0.5
        scores = ops.matmul(query, ops.transpose(self._split(key), (0, 1, 3, 2)))  # (B, heads, Q, V)
        return ops.softmax(ops.cast(scores, "float32")), value

    def call(self, queries, context):
        weights, value = self.attend(queries, context)
        mixed = ops.matmul(ops.cast(weights, self.compute_dtype), self._split(value))
        mixed = ops.transpose(mixed, (0, 2, 1, 3))  # (B, Q, heads, D / heads)
        return self.output_projection(ops.reshape(mixed, (-1, ops.shape(queries)[1], queries.shape[-1])))

    def _split(self, x):
        """`(B, N, D)` to `(B, heads, N, D / heads)`."""
        shape = (-1, ops.shape(x)[1], self.heads, x.shape[-1] // self.heads)
        return ops.transpose(ops.reshape(x, shape), (0, 2, 1, 3))

    def compute_output_shape(self, queries_shape: tuple, context_shape: tuple | None = None) -> tuple:
        return queries_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "heads": self.heads}


_gelu = fused(functools.partial(ops.gelu, approximate=True))


@keras.saving.register_keras_serializable("pf_keras")
class Mlp(keras.layers.Layer):
    """Two dense layers with a tanh-approximated GELU between them (paper, 2.1).

    Args:
        ratio: width of the hidden layer, as a multiple of D.
        dropout: dropout rate of the output.

    Input and output:
        `(..., D)`.
    """

    def __init__(self, ratio: int = 4, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.ratio, self.dropout = ratio, dropout

    def build(self, input_shape):
        width = input_shape[-1]
        self.widen = dense(self.ratio * width, self, "widen")
        self.narrow = dense(width, self, "narrow")
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="drop")
        self.widen.build((None, None, width))
        self.narrow.build((None, None, self.ratio * width))

    def call(self, x, training=None):
        hidden = _gelu(self.widen(x), training=training)
        return self.drop(self.narrow(hidden), training=training)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "ratio": self.ratio, "dropout": self.dropout}


@keras.saving.register_keras_serializable("pf_keras")
class TransformerBlock(keras.layers.Layer):
    """Self-attention, then an MLP, each with a residual connection.

    Args:
        heads: number of attention heads, a divisor of D.
        mlp_ratio: hidden width of the MLP, as a multiple of D.
        norm_order: `post_norm` normalises the sum after each residual connection, as BERT does. `pre_norm` normalises
            the input of each part instead.
        dropout: dropout rate of the output of each part.
        drop_path: how often an image skips a part in training, in [0, 1). What is kept is scaled up to the same mean.

    Input and output:
        `(B, V, D)`.

    Raises:
        ValueError: unknown `norm_order`, or a `drop_path` outside [0, 1).
    """

    def __init__(
        self,
        heads: int,
        mlp_ratio: int = 4,
        norm_order: str = "post_norm",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 <= drop_path < 1:
            raise ValueError(f"Expected drop_path in [0, 1). Received: {drop_path}")
        if norm_order not in ("post_norm", "pre_norm"):
            raise ValueError(f"Expected norm_order to be 'post_norm' or 'pre_norm'. Received: {norm_order!r}")
        self.heads, self.mlp_ratio, self.norm_order, self.dropout = heads, mlp_ratio, norm_order, dropout
        self.drop_path = drop_path

    def build(self, input_shape):
        self.attention = Attention(self.heads, dtype=self.dtype_policy, name="attention")
        self.attention_norm = layer_norm(self, "attention_norm")
        self.mlp = Mlp(self.mlp_ratio, self.dropout, dtype=self.dtype_policy, name="mlp")
        self.mlp_norm = layer_norm(self, "mlp_norm")
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="drop")
        # One random number for each image and part.
        self.skip = keras.layers.Dropout(self.drop_path, (None, 1, 1), dtype=self.dtype_policy, name="skip")
        self.attention.build(input_shape, input_shape)
        for layer in (self.attention_norm, self.mlp, self.mlp_norm):
            layer.build(input_shape)

    def call(self, x, training=False):
        def residual(part):
            return self.skip(part, training=training)

        if self.norm_order == "pre_norm":
            normed = self.attention_norm(x)
            x = x + residual(self.drop(self.attention(normed, normed), training=training))
            return x + residual(self.mlp(self.mlp_norm(x), training=training))
        x = self.attention_norm(x + residual(self.drop(self.attention(x, x), training=training)))
        return self.mlp_norm(x + residual(self.mlp(x, training=training)))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "heads": self.heads,
            "mlp_ratio": self.mlp_ratio,
            "norm_order": self.norm_order,
            "dropout": self.dropout,
            "drop_path": self.drop_path,
        }


@keras.saving.register_keras_serializable("pf_keras")
class Transformer(keras.layers.Layer):
    """A stack of transformer blocks. With `pre_norm` a final normalisation follows (paper, 2.1).

    Args:
        depth: number of blocks.
        heads, mlp_ratio, norm_order, dropout: see `TransformerBlock`.
        drop_path: of the last block. It rises linearly over the blocks (stochastic depth, Huang et al., 2016).

    Input and output:
        `(B, V, D)`.
    """

    def __init__(
        self,
        depth: int,
        heads: int,
        mlp_ratio: int = 4,
        norm_order: str = "post_norm",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.depth, self.heads, self.mlp_ratio = depth, heads, mlp_ratio
        self.norm_order, self.dropout, self.drop_path = norm_order, dropout, drop_path

    def build(self, input_shape):
        self.blocks = [
            TransformerBlock(
                self.heads,
                self.mlp_ratio,
                self.norm_order,
                self.dropout,
                self.drop_path * (i + 1) / self.depth,
                dtype=self.dtype_policy,
                name=f"block_{i}",
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

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "depth": self.depth,
            "heads": self.heads,
            "mlp_ratio": self.mlp_ratio,
            "norm_order": self.norm_order,
            "dropout": self.dropout,
            "drop_path": self.drop_path,
        }


@keras.saving.register_keras_serializable("pf_keras")
class AttentionPooling(keras.layers.Layer):
    """A learned query attends over the context (paper, 2.1 and 2.2).

    With positions, each target has its own query: the learned one plus the target's position. As in a pre-norm
    transformer block, a residual connection keeps the query, and an MLP follows.

    Args:
        heads: number of attention heads, a divisor of D.
        mlp_ratio: hidden width of the MLP, as a multiple of D.

    Inputs:
        context: `(B, V, D)`.
        positions: `(B, M, D)`, the positions of the targets. Optional.

    Output:
        `(B, M, D)`, the context vector of each target. Without positions `(B, 1, D)`, one vector per image.
    """

    def __init__(self, heads: int, mlp_ratio: int = 4, **kwargs):
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

    def compute_output_shape(self, context_shape: tuple, positions_shape: tuple | None = None) -> tuple:
        return positions_shape or (context_shape[0], 1, context_shape[-1])

    def get_config(self) -> dict:
        return {**super().get_config(), "heads": self.heads, "mlp_ratio": self.mlp_ratio}


@keras.saving.register_keras_serializable("pf_keras")
class FactorizedPositions(keras.layers.Layer):
    """Learned position vectors of a patch grid: a row vector plus a column vector (paper, 2.1, after Selfie).

    Args:
        grid: patches on each side of the grid.
        width: D, the length of a position vector.

    Input:
        int32 `(B, K)`, indices of patches in row-major order.

    Output:
        `(B, K, D)`.
    """

    def __init__(self, grid: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.grid, self.width = grid, width

    def build(self, input_shape=None):
        def table(name):
            # Each table needs its own initializer, because an initializer object always gives the same values.
            initial = keras.initializers.TruncatedNormal(stddev=0.02)
            return self.add_weight(shape=(self.grid, self.width), initializer=initial, name=name)

        self.rows, self.columns = table("rows"), table("columns")

    def call(self, indices):
        # One table of all positions: its gradient is dense. TensorFlow's gradient of a gather has a row for each use, with
        # which optimizers such as Keras's AdamW take several steps instead of one.
        table = ops.expand_dims(self.rows, 1) + ops.expand_dims(self.columns, 0)
        return ops.take(ops.reshape(table, (-1, self.width)), indices, axis=0)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape, self.width)

    def get_config(self) -> dict:
        return {**super().get_config(), "grid": self.grid, "width": self.width}
