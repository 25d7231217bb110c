"""Where Keras's `fit` needs help with TensorFlow: several steps a call, strategies, several workers."""

import functools
from collections.abc import Callable

import keras

from pf_keras.errors import UserError


def several_steps(model: keras.Model, one_step: Callable | None = None) -> Callable:
    """A `train_function` for `Model.fit` that does `model.steps_per_execution` steps a call.

    Keras's own uses a `while_loop` over optional values, which fails under a strategy with several replicas, and averages
    scalar metrics over an axis that they lack under several workers. This one loops on the host over the step, which is
    traced once. The metrics are the same on every replica and are read after the last step.

    Args:
        model: a compiled model.
        one_step: does a step on the data of all replicas. Default: Keras's `train_step` on each. Its attribute `programs`
            lists what the devices run in a step, as pairs of how often and a function of the data.

    Returns:
        The function, which has the same attribute `programs`.
    """
    import tensorflow as tf

    strategy = model.distribute_strategy
    train_step = tf.function(tf.autograph.experimental.do_not_convert(model.train_step), jit_compile=model.jit_compile)
    if one_step is None:

        def one_step(data):
            return strategy.run(train_step, args=(data,))

        one_step.programs = [(1, one_step)]

    @tf.function
    def steps(iterator):
        for _ in tf.range(model.steps_per_execution):
            one_step(next(iterator))

    def train_function(iterator):
        steps(iterator)
        return model.get_metrics_result()

    train_function.programs = one_step.programs
    return train_function


def build_from_shapes(model: keras.Model) -> Callable:
    """A `_maybe_symbolic_build` for `Model.fit` that takes the shapes of a batch from the dataset.

    Keras's own reads a first batch and averages it over the workers, which fails for a dict under several workers.
    """
    import tensorflow as tf

    def of_replica(spec):
        return spec._value_specs[0] if hasattr(spec, "_value_specs") else spec

    def build(iterator):
        batch = tf.nest.map_structure(of_replica, iterator._distributed_dataset.element_spec)
        with model.distribute_strategy.scope():
            model._symbolic_build(data_batch=batch)

    return build


def any_worker(model: keras.Model, *flags: object) -> tuple:
    """For each flag, whether it is true in any worker that trains `model`. All workers must ask at the same step."""
    if not has_workers(model):
        return flags
    return tuple(_mean(model, [float(bool(flag)) for flag in flags]) > 0)


def check_start(model: keras.Model, step: int) -> None:
    """Raises UserError where the workers that train `model` do not all start at `step`."""
    if has_workers(model) and tuple(_mean(model, [step, step**2])) != (step, step**2):
        raise UserError(f"This worker starts at step {step}, others at another step. All workers must see the same --workdir.")


def has_workers(model: keras.Model) -> bool:
    """Whether several processes train `model` with `MultiWorkerMirroredStrategy`."""
    strategy = getattr(model, "distribute_strategy", None)  # models under JAX have none
    if strategy is None:
        return False
    import tensorflow as tf

    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _mean(model: keras.Model, values: list):
    """The mean of the values over all workers, which must all ask for it."""
    import tensorflow as tf

    return _mean_over(model.distribute_strategy)(tf.constant(values, tf.float64)).numpy()


@functools.cache
def _mean_over(strategy):
    import tensorflow as tf

    return tf.function(
        lambda values: strategy.reduce("MEAN", strategy.run(tf.identity, (values,)), axis=None), reduce_retracing=True
    )
