import functools

import keras
from keras import ops

from pf_keras.layers.fused import fused


@keras.saving.register_keras_serializable("pf_keras")
class LayerNormalization(keras.layers.LayerNormalization):
    """Keras's layer normalisation, the same numbers; over the last axis as one kernel where one device trains.

    The name is Keras's too, since checkpoints call a layer by its class: those of either are read as the other.
    """

    def call(self, inputs, training=None):
        last = self.axis in ([-1], [len(inputs.shape) - 1])
        if not (last and self.scale and self.center) or self.rms_scaling:
            return super().call(inputs)
        outputs = _normalize(self.epsilon)(inputs, self.gamma.value, self.beta.value, training=training)
        return ops.cast(outputs, self.compute_dtype)


@functools.cache
def _normalize(epsilon):
    return fused(lambda x, gamma, beta: ops.layer_normalization(x, gamma, beta, axis=-1, epsilon=epsilon))
