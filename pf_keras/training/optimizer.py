"""AdamW as in BERT: weight decay times the learning rate, and none on biases, norms, positions and queries."""

import sys
from collections.abc import Iterable

import keras
from keras import ops

from pf_keras.config import FinetuneConfig, PretrainConfig
from pf_keras.layers import kernels
from pf_keras.layers.transformer import FactorizedPositions
from pf_keras.training import learning_rate  # as a module, which may be half imported: it imports Keras, and Keras this

INITIAL_WEIGHT = 0.05  # how much of an average of the weights the initial weights may make up without a warning


@keras.saving.register_keras_serializable("pf_keras")
class AdamW(keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` that clips by the norm of the whole gradient over all replicas, and records that norm.

    Keras clips the gradient of each replica before it sums them, which is not the same.

    Args:
        clip_norm: the largest norm of the gradient; 0 turns clipping off.
        ema: decay of a running average of the weights, in [0, 1); 0 is off. It is Keras's `use_ema` with this momentum, but
            `fit` leaves the weights as they are at its end, because a training may take several calls of `fit`.
            `pf_keras.training.averaging` reads the average.
        *args, **kwargs: those of `keras.optimizers.AdamW`.

    Attributes:
        gradient_norm: float32 variable, the norm of the last gradient before clipping.

    Raises:
        ValueError: one of Keras's own kinds of clipping is set, or both `ema` and `use_ema`; later, that
            `gradient_accumulation_steps` meets several replicas, for which Keras has no implementation.
    """

    def __init__(self, *args, clip_norm: float = 0.0, ema: float = 0.0, **kwargs):
        if ema:
            if not 0 < ema < 1 or kwargs.get("use_ema"):
                raise ValueError(f"Expected ema in [0, 1), without use_ema. Received: ema={ema}, {kwargs}")
            kwargs |= {"use_ema": True, "ema_momentum": ema}
        super().__init__(*args, **kwargs)
        self.ema = ema
        for name in ("clipnorm", "clipvalue", "global_clipnorm"):
            if getattr(self, name) is not None:
                raise ValueError(f"Expected clip_norm as the only kind of clipping. Received: {name}={getattr(self, name)}")
        self.clip_norm = clip_norm
        self._rate_scales = {}

    def scale_rates(self, scales: Iterable[tuple[keras.Variable, float]]) -> None:
        """Scale the learning rate of some variables of the built optimizer by pairs `(variable, factor)`.

        Weight decay keeps the full learning rate. The factors are not saved with the optimizer.
        """
        self._rate_scales = {self._get_variable_index(variable): factor for variable, factor in scales}

    def _apply_weight_decay(self, variables):
        """Do nothing, because each update decays. Keras would evaluate the schedule here once for each variable."""

    def update_step(self, gradient, variable, learning_rate):
        if self._use_weight_decay(variable):
            decay, rate = ops.cast(self.weight_decay, variable.dtype), ops.cast(learning_rate, variable.dtype)
            self.assign_sub(variable, variable * decay * rate)
        factor = self._rate_scales.get(self._get_variable_index(variable), 1.0)
        super().update_step(gradient, variable, learning_rate * factor)

    def _backend_update_step(self, gradients, variables, learning_rate):
        if kernels.without_strategy() and not self.amsgrad and all(v.dtype == "float32" for v in variables):
            self._update_by_kernel(gradients, variables, learning_rate)
        else:
            super()._backend_update_step(gradients, variables, learning_rate)

    def _update_by_kernel(self, gradients, variables, learning_rate):
        """Do the same as `update_step` with TensorFlow's fused kernel: one pass over memory instead of one for each product and
        sum, and fewer operations to trace."""
        import tensorflow as tf

        step, rate = tf.cast(self.iterations + 1, "float32"), tf.cast(learning_rate, "float32")
        shared = {"beta1": self.beta_1, "beta2": self.beta_2, "epsilon": self.epsilon}
        shared = {name: tf.constant(value, "float32") for name, value in shared.items()}
        shared |= {f"{name}_power": shared[name] ** step for name in ("beta1", "beta2")}
        decay = rate * self.weight_decay
        variables = [v.value if isinstance(v, keras.Variable) else v for v in variables]
        for gradient, variable in self._all_reduce_sum_gradients(zip(gradients, variables, strict=True)):
            index = self._get_variable_index(variable)
            if self.weight_decay and self._use_weight_decay(variable):
                variable.assign_sub(variable * decay)  # as a factor 1 - decay, a small decay would round to 0
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=self._momentums[index].value.handle,
                v=self._velocities[index].value.handle,
                lr=rate * self._rate_scales.get(index, 1.0),
                grad=tf.cast(gradient, "float32"),
                **shared,
            )

    def build(self, variables) -> None:
        if self.built:
            return
        super().build(variables)
        self.gradient_norm = self.add_variable(
            shape=(), dtype="float32", name="gradient_norm", aggregation="only_first_replica"
        )

    def apply(self, grads, trainable_variables=None):
        if self.gradient_accumulation_steps and _replicas() > 1:
            raise ValueError(
                f"Expected one replica with gradient_accumulation_steps. Received: {_replicas()} replicas. "
                "Call pf_keras.training.accumulate.accumulate(model, parts) after compile instead."
            )
        super().apply(grads, trainable_variables)

    def finalize_variable_values(self, var_list) -> None:
        """Overwrite the weights with their average at the end of `fit` where Keras's `use_ema` asks for it, not with `ema`."""
        if not self.ema:
            super().finalize_variable_values(var_list)

    def _clip(self, gradients):
        squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients if g is not None]
        norm = ops.sqrt(sum(squares))
        self.gradient_norm.assign(norm)
        if not self.clip_norm:
            return gradients
        scale = self.clip_norm / ops.maximum(norm, self.clip_norm)
        return [None if g is None else g * ops.cast(scale, g.dtype) for g in gradients]

    def _clip_gradients(self, gradients):
        # Under TensorFlow these are the gradients of one replica, not yet summed: the next method clips them.
        return gradients if keras.backend.backend() == "tensorflow" else self._clip(gradients)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        import tensorflow as tf

        # The gradient of looked-up rows comes as slices, in which a row may occur several times. Norms need the dense one.
        dense = [(g if g is None else tf.convert_to_tensor(g), v) for g, v in grads_and_vars]
        gradients, variables = zip(*super()._all_reduce_sum_gradients(dense), strict=True)
        return list(zip(self._clip(gradients), variables, strict=True))

    def get_config(self) -> dict:
        config = super().get_config()
        if self.ema:  # which turns on `use_ema` itself
            config |= {"ema": self.ema, "use_ema": False}
        return {**config, "clip_norm": self.clip_norm}


def _replicas() -> int:
    """How many replicas of a `tf.distribute` strategy share a step. 1 under JAX, whose devices share one array."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def build_optimizer(model: keras.Model, settings: PretrainConfig | FinetuneConfig, steps: int, warmup_steps: int) -> AdamW:
    """The optimizer of a model for a training of `steps`.

    Weight decay excludes variables by identity, not by name, so that a saved optimizer does not know them. Build the
    optimizer again for a model that you load.

    Args:
        model: a built model.
        settings: the section of the config.
        steps: of the whole training.
        warmup_steps: over which the learning rate rises.
    """
    optimizer = AdamW(
        learning_rate.schedule(settings, steps, warmup_steps),
        weight_decay=settings.weight_decay,
        beta_2=settings.beta_2,
        clip_norm=settings.clip_norm,
        ema=settings.ema,
    )
    if settings.ema**steps > INITIAL_WEIGHT:
        print(
            f"warning: an ema of {settings.ema} averages over about {1 / (1 - settings.ema):.0f} steps, but the training has "
            f"{steps}: the average keeps {settings.ema**steps:.0%} of the initial weights",
            file=sys.stderr,
        )
    optimizer.exclude_from_weight_decay(var_list=no_decay(model))
    optimizer.build(model.trainable_variables)
    return optimizer


def no_decay(model: keras.Model) -> list[keras.Variable]:
    """The trainable variables that weight decay excludes: vectors (biases, norms, queries) and positions."""
    positions = [
        variable
        for layer in model._flatten_layers()
        if isinstance(layer, FactorizedPositions)
        for variable in layer.trainable_variables
    ]
    return positions + [v for v in model.trainable_variables if len(v.shape) <= 1]
