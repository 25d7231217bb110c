"""Keras layers with the same results and faster kernels.

`LayerNormalization`, `BatchNormalization` and `Conv2D` replace the Keras layers of the same name. They have the same weights
and compute the same numbers, up to rounding. A checkpoint names a layer by its class, so they keep Keras's class names: they
load weights that Keras's layers saved, and Keras's layers load theirs. `DoublingConv2D` replaces an upsampling layer and a
convolution.

The gains below were measured on a CPU. docs/performance.md has the details.
"""

import functools
from collections.abc import Callable

import keras
from keras import ops


def without_strategy() -> bool:
    """Whether TensorFlow runs without a `tf.distribute` strategy, so that its own kernels may replace Keras's operations.

    Replicas use Keras's operations. So does JAX, which compiles the whole step anyway.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.distribute.has_strategy()


@functools.cache
def compiles() -> bool:
    """Whether the backend compiles with XLA for the device at hand. tensorflow-tpu has no compiler for CPUs."""
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    with tf.init_scope():
        try:
            tf.function(tf.identity, jit_compile=True)(tf.zeros(1))
        except tf.errors.NotFoundError:
            return False
    return True


def fused(function: Callable) -> Callable:
    """Compile a function with XLA for training: one kernel computes it, another its gradient.

    TensorFlow alone runs a kernel, and passes over the memory, for every operation. A graph with compiled parts
    only loads where TensorFlow has XLA, so inference uses the plain function.

    Args:
        function: a function of tensors that returns a tensor.

    Returns:
        A function of the same tensors with a keyword argument `training`.
    """

    @functools.cache
    def compiled():
        import tensorflow as tf

        forward = tf.function(function, jit_compile=True, autograph=False)

        @tf.function(jit_compile=True, autograph=False)
        def gradient(upstream, *inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = function(*inputs)
            return tape.gradient(outputs, inputs, output_gradients=upstream)

        @tf.custom_gradient
        def both(*inputs):
            return forward(*inputs), lambda upstream: gradient(upstream, *inputs)

        return both

    def call(*inputs, training):
        return (compiled() if training and without_strategy() and compiles() else function)(*inputs)

    return call


class CompiledWherePossible:
    """Keras compiles a model with such a layer only where `compiles()`. With tensorflow-tpu it would try to on a CPU."""

    @property
    def supports_jit(self) -> bool:
        return self._supports_jit and compiles()

    @supports_jit.setter
    def supports_jit(self, value: bool) -> None:
        self._supports_jit = value


@keras.saving.register_keras_serializable("pf_keras")
class LayerNormalization(CompiledWherePossible, keras.layers.LayerNormalization):
    """Keras's layer normalisation, compiled into one kernel in training when it is over the last axis.

    With GELU compiled too, a step of the CIFAR-10 model takes 0.87 of the time.
    """

    def call(self, inputs, training=None):
        last = self.axis in ([-1], [len(inputs.shape) - 1])
        if not (last and self.scale and self.center) or self.rms_scaling:
            return super().call(inputs)
        outputs = _layer_normalization(self.epsilon)(inputs, self.gamma.value, self.beta.value, training=training)
        return ops.cast(outputs, self.compute_dtype)


@functools.cache
def _layer_normalization(epsilon):
    return fused(lambda x, gamma, beta: ops.layer_normalization(x, gamma, beta, axis=-1, epsilon=epsilon))


@keras.saving.register_keras_serializable("pf_keras")
class BatchNormalization(CompiledWherePossible, keras.layers.BatchNormalization):
    """Keras's batch normalisation, by TensorFlow's fused kernel in training.

    Keras passes over the input once each for sums, squares and a count. With the fused kernel a step of the CIFAR-10
    model takes 0.86 of the time. Several devices always share the statistics of the whole batch: TensorFlow's replicas
    synchronise them, and under JAX the batch is one array.
    """

    def __init__(self, **kwargs):
        super().__init__(synchronized=keras.backend.backend() == "tensorflow", **kwargs)

    def call(self, inputs, training=None, mask=None):
        plain = self.axis in (-1, 3) and self.scale and self.center and mask is None and not self.renorm
        supported = len(inputs.shape) == 4 and self.variable_dtype == "float32" and self.compute_dtype != "float64"
        if not (training and self.trainable and plain and supported and without_strategy()):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=self.gamma, offset=self.beta, mean=tf.zeros(0), variance=tf.zeros(0), epsilon=self.epsilon,
            exponential_avg_factor=1.0, is_training=True,
        )  # fmt: skip
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], "float32")
        variance *= tf.maximum(count - 1, 1) / count  # the kernel's variance is unbiased, Keras's is not
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return outputs

    def get_config(self) -> dict:
        config = super().get_config()
        del config["synchronized"]
        return config


@keras.saving.register_keras_serializable("pf_keras")
class Conv2D(CompiledWherePossible, keras.layers.Conv2D):
    """Keras's convolution, as one matrix product on maps so small that every output pixel sees every input pixel.

    A 3x3 kernel does so on a 2x2 map. A ResNet makes such maps of a patch, and the decoder starts from one. There a
    convolution multiplies 36 pixels, of which 20 are padding. The product takes half to a tenth of the time.
    """

    def convolution_op(self, inputs, kernel):
        height, width, channels = inputs.shape[1:]
        if not self._sees_all(height, width):
            return super().convolution_op(inputs, kernel)
        # Output (i, j) sees input (y, x) through kernel[middle + y - i, middle + x - j]. With the kernel flipped, the
        # weights from one input pixel to all outputs are a window of it.
        flipped, (down, right) = ops.flip(kernel, (0, 1)), (size // 2 for size in self.kernel_size)
        windows = [flipped[down - y :][:height, right - x :][:, :width] for y in range(height) for x in range(width)]
        matrix = ops.transpose(ops.stack(windows), (0, 3, 1, 2, 4))  # (input pixels, C, height, width, filters)
        matrix = ops.reshape(matrix, (height * width * channels, height * width * self.filters))
        outputs = ops.matmul(ops.reshape(inputs, (-1, height * width * channels)), matrix)
        return ops.reshape(outputs, (-1, height, width, self.filters))

    def _sees_all(self, *sides):
        plain = self.padding == "same" and self.data_format == "channels_last" and self.groups == 1
        return plain and all(
            side and side <= size // 2 + 1 and size % 2 and stride == dilation == 1
            for side, size, stride, dilation in zip(
                sides, self.kernel_size, self.strides, self.dilation_rate, strict=True
            )
        )


@keras.saving.register_keras_serializable("pf_keras")
class DoublingConv2D(CompiledWherePossible, keras.layers.Conv2D):
    """Nearest-neighbour upsampling by two and a 3x3 convolution with same padding, in one operation.

    Only four of the nine pixels under the kernel differ. A transposed convolution with a 4x4 kernel, made of sums of
    the 3x3 kernel, gives the same result with 4/9 of the products, and the upsampled map is never stored. The two
    layers of the 224 px Imagenette decoder fell from 131 to 64 ms and from 159 to 49 ms.

    Args:
        filters: number of output channels.

    Input:
        `(B, h, w, C)`.

    Output:
        `(B, 2h, 2w, filters)`.
    """

    def __init__(self, filters: int, **kwargs):
        super().__init__(filters, 3, padding="same", **kwargs)

    def convolution_op(self, inputs, kernel):
        taps = ops.pad(ops.transpose(ops.flip(kernel, (0, 1)), (0, 1, 3, 2)), [(1, 1), (1, 1), (0, 0), (0, 0)])
        sums = taps[:-1] + taps[1:]
        sums = sums[:, :-1] + sums[:, 1:]  # (4, 4, filters, C)
        return ops.conv_transpose(inputs, sums, strides=2, padding="same", data_format="channels_last")

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, _ = input_shape
        return batch, 2 * height, 2 * width, self.filters

    def get_config(self) -> dict:
        config = super().get_config()
        del config["kernel_size"], config["padding"]
        return config
