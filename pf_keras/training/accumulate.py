"""Gradient accumulation: computes a batch in equal parts, in sequence, in the memory that one part needs."""

from collections.abc import Callable

import keras
from keras import tree

from pf_keras.training.execution import several_steps


def accumulate(model: keras.Model, parts: int) -> None:
    """Let each step of `fit` compute its batch in `parts` equal parts, sum their gradients and update the weights once.

    The step is the same as with the whole batch, up to rounding, except for what looks at several images: batch norm sees the
    images of a part, and dropout draws for each part.

    Part k has the images k, k + parts, k + 2 * parts and so on of each replica, so that JAX moves no image between devices.

    Args:
        model: a compiled model with a built optimizer. Call it after each `compile`.
        parts: divides the batch of every replica.
    """
    if keras.backend.backend() == "jax":
        model.train_function = _jax_steps(model, parts)
    else:
        model.train_function = several_steps(model, _tensorflow_step(model, parts))


def _tensorflow_step(model: keras.Model, parts: int) -> Callable:
    """A function that does one step on the data of all replicas.

    The loop over the parts is outside of `strategy.run`, because replicas cannot exchange values, as batch norm does, within
    a loop of their own.
    """
    import tensorflow as tf

    strategy, optimizer, unused = model.distribute_strategy, model.optimizer, set()
    with strategy.scope():
        # Each replica sums its own gradients. The optimizer adds up the replicas'.
        local = {"synchronization": tf.VariableSynchronization.ON_READ, "aggregation": tf.VariableAggregation.SUM}
        sums = [tf.Variable(tf.zeros(v.shape, v.dtype), trainable=False, **local) for v in model.trainable_variables]

    def add(data, number):
        part = tree.map_structure(lambda t: tf.gather(tf.reshape(t, (-1, parts, *t.shape[1:])), number, axis=1), data)
        x, y, weights = keras.utils.unpack_x_y_sample_weight(part)
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = model.compute_loss(x, y, outputs, weights, training=True)
            model._loss_tracker.update_state(
                loss * strategy.num_replicas_in_sync, sample_weight=tf.shape(tree.flatten(x)[0])[0]
            )
            loss = optimizer.scale_loss(loss)
        for index, gradient in enumerate(tape.gradient(loss, model.trainable_variables)):
            if gradient is None:
                unused.add(index)
            else:
                sums[index].assign_add(tf.convert_to_tensor(gradient))  # which may be slices
        model.compute_metrics(x, y, outputs, weights)

    def update():
        means = [None if index in unused else total / parts for index, total in enumerate(sums)]
        optimizer.apply_gradients(zip(means, model.trainable_variables, strict=True))
        for total in sums:
            total.assign(tf.zeros_like(total))

    add, update = (
        tf.function(tf.autograph.experimental.do_not_convert(function), jit_compile=model.jit_compile)
        for function in (add, update)
    )

    @tf.autograph.experimental.do_not_convert
    def step(data):
        def add_part(number):
            strategy.run(add, args=(data, number))
            return number + 1

        # One at a time, which is what saves memory.
        tf.while_loop(lambda number: number < parts, add_part, (tf.constant(0),), parallel_iterations=1)
        strategy.run(update)

    step.programs = [
        (parts, lambda data: strategy.run(add, args=(data, tf.constant(0)))),
        (1, lambda data: strategy.run(update)),
    ]
    return step


def _jax_steps(model: keras.Model, parts: int) -> Callable:
    """A `train_function` for Keras's trainer under JAX. A loop within the step would need less memory too, but on a CPU XLA's
    convolutions take several times as long in one."""
    import jax
    from jax import numpy as jnp

    gradient_of = jax.value_and_grad(model.compute_loss_and_updates, has_aux=True)

    def add(trainable, optimizer, carried, data, number):
        sums, non_trainable, metrics = carried
        part = tree.map_structure(
            lambda t: jax.lax.dynamic_index_in_dim(t.reshape(-1, parts, *t.shape[1:]), number, axis=1, keepdims=False), data
        )
        x, y, weights = keras.utils.unpack_x_y_sample_weight(part)
        (_, (loss, outputs, non_trainable, metrics)), gradients = gradient_of(
            trainable, non_trainable, metrics, x, y, weights, training=True, optimizer_variables=optimizer
        )
        logs, metrics = model._update_metrics_variables(metrics, loss, x, y, outputs, weights)
        return ([total + g for total, g in zip(sums, gradients, strict=True)], non_trainable, metrics), logs

    def update(trainable, optimizer, sums):
        return model.optimizer.stateless_apply(optimizer, [total / parts for total in sums], trainable)

    compiled = []

    def compile_for(state):
        """The functions of a step, which leave the variables on the devices where `state` has them."""
        trainable, non_trainable, optimizer, metrics = ([value.sharding for value in values] for values in state)
        return [
            jax.jit(lambda values: [jnp.zeros_like(value) for value in values], out_shardings=trainable),
            jax.jit(add, donate_argnums=2, out_shardings=((trainable, non_trainable, metrics), None)),
            jax.jit(update, donate_argnums=(0, 1), out_shardings=(trainable, optimizer)),
        ]

    def one_step(state, data):
        compiled[:] = compiled or compile_for(state)
        zeros, add_part, update_weights = compiled
        trainable, non_trainable, optimizer, metrics = state
        carried, data = (zeros(trainable), non_trainable, metrics), tree.map_structure(jnp.asarray, data)
        for number in range(parts):
            carried, logs = add_part(trainable, optimizer, carried, data, number)
        sums, non_trainable, metrics = carried
        trainable, optimizer = update_weights(trainable, optimizer, sums)
        return logs, (trainable, non_trainable, optimizer, metrics)

    return model._make_function(one_step)
