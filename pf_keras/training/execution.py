"""Several training steps a call of the device, under TensorFlow and any of its strategies."""

from pf_keras.errors import UserError


def several_steps(model):
    """A `train_function` for `Model.fit` that does `model.steps_per_execution` steps a call.

    Keras's own does it by a `while_loop` over optional values, which fails under a strategy with several replicas. Here
    the host loops over the step, which is traced once, and the metrics are read after the last.
    """
    import tensorflow as tf

    strategy = model.distribute_strategy
    step = tf.function(tf.autograph.experimental.do_not_convert(model.train_step), jit_compile=model.jit_compile)

    @tf.function
    def steps(iterator):
        for _ in tf.range(model.steps_per_execution):
            strategy.run(step, args=(next(iterator),))

    def train_function(iterator):
        steps(iterator)
        return model.get_metrics_result()

    return train_function


def check_steps(run, steps):
    """Raises UserError where `run.steps_per_execution` does not divide a run of `steps` or its logged windows."""
    for name, value in (("steps of the run", steps), ("run.log_every", run.log_every)):
        if value % run.steps_per_execution:
            raise UserError(
                f"expected the {name} to be a multiple of run.steps_per_execution={run.steps_per_execution}, "
                f"received {value}: change one of the two"
            )
