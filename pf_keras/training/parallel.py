"""Parts of a batch at the same time: how a small model uses all cores of a CPU.

More threads hardly speed up an operation of a small model: two cores gave 1.1 to 1.4 times the images/s of one. Here each core
computes a part of the batch from the first operation to the last gradient instead.
"""

import functools
from collections.abc import Callable, Sequence

import keras
from keras import ops, tree


def use_cores(parts: int, cores: int) -> None:
    """Share the cores between parts that TensorFlow runs at the same time. Call it before any other use of TensorFlow.

    A process whose TensorFlow has started already, such as a notebook, keeps the threads it has: it computes the same parts
    more slowly.

    Args:
        parts: of a batch.
        cores: of this machine.
    """
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // parts))
        tf.config.threading.set_inter_op_parallelism_threads(min(parts, cores))
    except RuntimeError:  # it has started
        pass


def in_parallel(model: keras.Model, parts: int) -> None:
    """Let each step of `fit` and `predict` compute its batch in equal parts that do not wait for each other.

    A training step is the same as with the whole batch, up to rounding, except for what looks at several images. Batch norm
    normalises each part by its own statistics, and its moving statistics take their mean. Dropout draws for each part.

    Args:
        model: a compiled model on one device. Call it after each `compile`.
        parts: divides every batch.
    """
    if keras.backend.backend() == "jax":
        model.train_step = _jax_step(model, parts)
    else:
        model.train_step, model.predict_step = _tensorflow_step(model, parts), _prediction(model, parts)


def split(values, parts: int) -> list:
    """Cut a structure of tensors `(B, ...)` into `parts` structures of `(B / parts, ...)`, in order. None stays None."""

    def cut(value, part):
        size = None if value is None else ops.shape(value)[0] // parts
        return None if value is None else value[part * size : (part + 1) * size]

    return [tree.map_structure(functools.partial(cut, part=part), values) for part in range(parts)]


def join(outputs: Sequence):
    """The opposite of `split`."""
    return tree.map_structure(lambda *pieces: ops.concatenate(pieces), *outputs)


def states_of_parts(variables: Sequence[keras.Variable], values: Sequence, parts: int) -> list[list]:
    """The values of the non-trainable variables that each part begins with.

    All are the same, but the seeds of dropout, which are whole numbers: part k has random numbers of its own.
    """

    def seeded(variable, value, part):
        return value if _is_float(variable) or not part else value + ops.cast([part, 0], value.dtype)

    return [[seeded(v, value, part) for v, value in zip(variables, values, strict=True)] for part in range(parts)]


def joint_state(variables: Sequence[keras.Variable], states: Sequence[Sequence]) -> list:
    """The values of the non-trainable variables after a step: the mean of moving statistics, the seeds of the first part."""
    return [
        sum(values[1:], values[0]) / len(values) if _is_float(variable) else values[0]
        for variable, values in zip(variables, zip(*states, strict=True), strict=True)
    ]


def _is_float(variable):
    return "float" in keras.backend.standardize_dtype(variable.dtype)


def _tensorflow_step(model: keras.Model, parts: int) -> Callable:
    """A `train_step` for Keras's trainer.

    A part is a function without side effects, which TensorFlow may run beside another one. It is not inlined, so that its graph
    is optimised only once.
    """
    import tensorflow as tf

    trainable, fixed = model.trainable_variables, model.non_trainable_variables

    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def part(weights, state, x, y, sample_weight):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            outputs, state = model.stateless_call(weights, state, x, training=True)
            with keras.StatelessScope(state_mapping=zip(trainable, weights, strict=True)):
                loss = model.compute_loss(x, y, outputs, sample_weight, training=True)
            scaled = model.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, weights)
        return loss, [None if g is None else tf.convert_to_tensor(g) for g in gradients], state, outputs

    @tf.autograph.experimental.do_not_convert
    def step(data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights = [tf.convert_to_tensor(variable.value) for variable in trainable]
        states = states_of_parts(fixed, [tf.convert_to_tensor(variable.value) for variable in fixed], parts)
        pieces = split((x, y, sample_weight), parts)
        done = [part(weights, state, *piece) for state, piece in zip(states, pieces, strict=True)]
        losses, gradients, states, outputs = zip(*done, strict=True)
        for variable, value in zip(fixed, joint_state(fixed, states), strict=True):
            variable.assign(value)
        means = [None if of_parts[0] is None else tf.add_n(of_parts) / parts for of_parts in zip(*gradients, strict=True)]
        model.optimizer.apply_gradients(zip(means, trainable, strict=True))
        model._loss_tracker.update_state(tf.add_n(losses) / parts, sample_weight=tf.shape(tree.flatten(x)[0])[0])
        return model.compute_metrics(x, y, join(outputs), sample_weight)

    return step


def _prediction(model: keras.Model, parts: int) -> Callable:
    """A `predict_step` for Keras's trainer under TensorFlow."""
    import tensorflow as tf

    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def part(x):
        return model(x, training=False)

    @tf.autograph.experimental.do_not_convert
    def step(data):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return join([part(piece) for piece in split(x, parts)])

    return step


def _jax_step(model: keras.Model, parts: int) -> Callable:
    """A `train_step` for Keras's trainer under JAX, which compiles it."""
    import jax

    def step(state, data):
        trainable, fixed, optimizer, metrics = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        pieces = split((x, y, sample_weight), parts)
        states = states_of_parts(model.non_trainable_variables, fixed, parts)

        def mean_loss(weights):
            done = [
                model.compute_loss_and_updates(
                    weights, state, metrics, *piece, training=True, optimizer_variables=optimizer
                )
                for state, piece in zip(states, pieces, strict=True)
            ]
            scaled, others = zip(*done, strict=True)
            losses, outputs, after, _ = zip(*others, strict=True)
            return sum(scaled) / parts, (sum(losses) / parts, outputs, after)

        gradients, (loss, outputs, after) = jax.grad(mean_loss, has_aux=True)(trainable)
        trainable, optimizer = model.optimizer.stateless_apply(optimizer, gradients, trainable)
        logs, metrics = model._update_metrics_variables(metrics, loss, x, y, join(outputs), sample_weight)
        return logs, (trainable, joint_state(model.non_trainable_variables, after), optimizer, metrics)

    return step
