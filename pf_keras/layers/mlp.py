import functools

import keras
from keras import ops

from pf_keras.layers.common import dense
from pf_keras.layers.fused import fused

_gelu = fused(functools.partial(ops.gelu, approximate=True))


@keras.saving.register_keras_serializable("pf_keras")
class Mlp(keras.layers.Layer):
    """Two dense layers with GELU between: (..., D) -> (..., ratio * D) -> (..., D) (paper, 2.1)."""

    def __init__(self, ratio=4, dropout=0.0, **kwargs):
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

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "ratio": self.ratio, "dropout": self.dropout}
