import keras
from keras import ops


@keras.saving.register_keras_serializable("pf_keras")
class Conv2D(keras.layers.Conv2D):
    """Keras's convolution, the same numbers: as one matrix product where each pixel of a map sees every other.

    That is so for a 3x3 kernel on a map of 2x2, which a ResNet makes of a patch and the decoder begins with. Most of what
    a convolution does there is padding, 36 products of pixels where the map has 16, and kernels for it are slow.
    The name is Keras's too, since checkpoints call a layer by its class.
    """

    def convolution_op(self, inputs, kernel):
        height, width, channels = inputs.shape[1:]
        if not self._sees_all(height, width):
            return super().convolution_op(inputs, kernel)
        # Output (i, j) sees input (y, x) through kernel[middle + y - i, middle + x - j]: a window of the kernel turned round.
        turned, (down, right) = ops.flip(kernel, (0, 1)), (size // 2 for size in self.kernel_size)
        windows = [turned[down - y :][:height, right - x :][:, :width] for y in range(height) for x in range(width)]
        matrix = ops.transpose(ops.stack(windows), (0, 3, 1, 2, 4))  # (inputs, C, height, width, filters)
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
class DoublingConv2D(keras.layers.Conv2D):
    """Nearest-neighbour upsampling by two and a 3x3 convolution, as one: (B, h, w, C) -> (B, 2h, 2w, filters).

    Of the nine pixels that the kernel sees only four differ, so that a transposed convolution with the sums of its taps, a
    kernel of 4x4, does the same with 4/9 of the products, and the map that is twice as large is never made.
    """

    def __init__(self, filters, **kwargs):
        super().__init__(filters, 3, padding="same", **kwargs)

    def convolution_op(self, inputs, kernel):
        taps = ops.pad(ops.transpose(ops.flip(kernel, (0, 1)), (0, 1, 3, 2)), [(1, 1), (1, 1), (0, 0), (0, 0)])
        sums = taps[:-1] + taps[1:]
        sums = sums[:, :-1] + sums[:, 1:]  # (4, 4, filters, C)
        return ops.conv_transpose(inputs, sums, strides=2, padding="same", data_format="channels_last")

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, 2 * height, 2 * width, self.filters

    def get_config(self):
        config = super().get_config()
        del config["kernel_size"], config["padding"]
        return config
