"""The same numbers from the same run with TensorFlow on a CPU."""


def add_in_order() -> None:
    """Stop TensorFlow from adding gradients in the order in which they happen to be ready.

    Its memory optimizer turns a sum of three or more tensors, such as the gradient of what is used three times, into one
    that adds each tensor as it comes, and `enable_op_determinism` does not prevent that. No public option turns off that part
    alone. Turning off the whole graph optimizer, or running one operation at a time, costs speed; this does not.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
    from tensorflow.python.eager import context

    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    context.context()._config = config
    tf.config.optimizer.set_experimental_options({})  # so that options created before are created again
