import keras
from keras import ops


@keras.saving.register_keras_serializable("pf_keras")
class FactorizedPositions(keras.layers.Layer):
    """Learned position vectors of a patch grid: a row's plus a column's (paper, 2.1, after Selfie).

    Call with indices int32 (B, K) of patches, row-major; returns (B, K, width).
    """

    def __init__(self, grid, width, **kwargs):
        super().__init__(**kwargs)
        self.grid, self.width = grid, width

    def build(self, input_shape=None):
        def table(name):  # an initializer for each: one gives the same values every time
            initial = keras.initializers.TruncatedNormal(stddev=0.02)
            return self.add_weight(shape=(self.grid, self.width), initializer=initial, name=name)

        self.rows, self.columns = table("rows"), table("columns")

    def call(self, indices):
        return ops.take(self.rows, indices // self.grid, axis=0) + ops.take(self.columns, indices % self.grid, axis=0)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.width)

    def get_config(self):
        return {**super().get_config(), "grid": self.grid, "width": self.width}
