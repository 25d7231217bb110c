"""Where Keras's `fit` needs help under TensorFlow's strategies: several steps an execution, and what it builds from."""

import functools

from pf_keras.errors import UserError


def several_steps(model):
    """A `train_function` for `Model.fit` that does `model.steps_per_execution` steps a call.

    Keras's own does it by a `while_loop` over optional values, which fails under a strategy with several replicas, and
    averages scalar metrics over an axis that they lack under several workers. Here the host loops over the step, which
    is traced once, and the metrics, the same on every replica, are read after the last.
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


def build_from_shapes(model):
    """A `_maybe_symbolic_build` for `Model.fit` that takes the shapes of a batch from the dataset.

    Keras's own reads a first batch and averages it over the workers, which fails on a dict under several of them.
    """
    import tensorflow as tf

    def of_replica(spec):
        return spec._value_specs[0] if hasattr(spec, "_value_specs") else spec

    def build(iterator):
        batch = tf.nest.map_structure(of_replica, iterator._distributed_dataset.element_spec)
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=batch)

    return build


def any_worker(model, *flags):
    """For each flag whether it is true in any of the workers that train `model` together. All have to ask at one step."""
    if not has_workers(model):
        return flags
    return tuple(_mean(model, [float(bool(flag)) for flag in flags]) > 0)


def check_start(model, step):
    """Raises UserError where the workers that train `model` together do not all begin at `step`."""
    if has_workers(model) and tuple(_mean(model, [step, step**2])) != (step, step**2):
        raise UserError(f"expected all workers to see the checkpoints of --workdir, received one at step {step}: share it")


def _mean(model, values):
    """The mean of the values over all workers, which all have to ask for it."""
    import tensorflow as tf

    return _mean_over(model.distribute_strategy)(tf.constant(values, tf.float64)).numpy()


@functools.cache
def _mean_over(strategy):
    import tensorflow as tf

    return tf.function(
        lambda values: strategy.reduce("MEAN", strategy.run(tf.identity, (values,)), axis=None), reduce_retracing=True
    )


def has_workers(model):
    """Whether several processes train `model` by `MultiWorkerMirroredStrategy`."""
    strategy = getattr(model, "distribute_strategy", None)  # JAX's models have none
    if strategy is None:
        return False
    import tensorflow as tf

    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def check_steps(run, steps):
    """Raises UserError where `run.steps_per_execution` does not divide a run of `steps` or its logged windows."""
    for name, value in (("steps of the run", steps), ("run.log_every", run.log_every)):
        if value % run.steps_per_execution:
            raise UserError(
                f"expected the {name} to be a multiple of run.steps_per_execution={run.steps_per_execution}, "
                f"received {value}: change one of the two"
            )
