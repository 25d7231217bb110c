"""Element-wise work as one pass over memory, where TensorFlow's kernels would make one for each operation."""

import keras


def one_replica():
    """Whether TensorFlow runs, on a single replica: where a kernel of its own may take the place of Keras's operations."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync == 1


def fused(function):
    """`function` of tensors to a tensor, compiled by XLA into one kernel, and its gradient into another.

    For use within a training step where `one_replica()`: a graph with it can only be saved for a TensorFlow with XLA.
    """
    import tensorflow as tf

    @tf.function(jit_compile=True, autograph=False)
    def gradient(upstream, *inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(*inputs)
        return tape.gradient(outputs, inputs, output_gradients=upstream)

    forward = tf.function(function, jit_compile=True, autograph=False)

    @tf.custom_gradient
    def call(*inputs):
        return forward(*inputs), lambda upstream: gradient(upstream, *inputs)

    return call
