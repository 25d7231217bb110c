"""The same numbers from the same run, under TensorFlow on a CPU."""


def add_in_order():
    """Keep TensorFlow from adding gradients in the order in which they happen to be ready.

    Its graph optimizer for memory turns a sum of three or more tensors (the gradient of what is used three times) into
    one that adds each as it comes, and `enable_op_determinism` does not hold it back. No public option turns that part
    off alone; switching off the whole optimizer, or running one operation at a time, costs speed, this does not.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
    from tensorflow.python.eager import context

    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    context.context()._config = config
    tf.config.optimizer.set_experimental_options({})  # so that options made before are made anew
