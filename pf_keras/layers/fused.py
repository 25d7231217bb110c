"""Element-wise work as one pass over memory, where TensorFlow's kernels would make one for each operation."""

import functools

import keras


def without_strategy():
    """Whether TensorFlow runs, without a strategy: where a kernel of its own may take the place of Keras's operations."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.distribute.has_strategy()


def fused(function):
    """`function` of tensors to a tensor, with an argument `training`: while training on one device it is compiled by XLA
    into one kernel, and its gradient into another.

    A graph traced while training can only be loaded by a TensorFlow with XLA; one that is served has `function` as it is.
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
        return (compiled() if training and without_strategy() else function)(*inputs)

    return call
