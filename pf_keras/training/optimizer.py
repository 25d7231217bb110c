"""AdamW with the paper's schedule, as BERT's: decay times the learning rate, none on what is not a kernel."""

import keras
from keras import ops

from pf_keras.layers import fused
from pf_keras.layers.positions import FactorizedPositions


@keras.saving.register_keras_serializable("pf_keras")
class AdamW(keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` that clips by the norm of the whole gradient over all replicas, and keeps that norm.

    Keras clips each replica's part of the gradient before the parts are summed, which is another thing than clipping
    the gradient. `gradient_norm` is the norm before clipping, for logging; `clip_norm=0` clips nothing.
    Raises ValueError where Keras's own clipping is asked for.
    """

    def __init__(self, *args, clip_norm=0.0, **kwargs):
        super().__init__(*args, **kwargs)
        for name in ("clipnorm", "clipvalue", "global_clipnorm"):
            if getattr(self, name) is not None:
                raise ValueError(f"Expected clip_norm, the one kind of clipping here. Received: {name}={getattr(self, name)}")
        self.clip_norm = clip_norm
        self._rate_scales = {}

    def scale_rates(self, scales):
        """Give variables of the built optimizer a share of the learning rate: pairs `(variable, factor)`.

        Weight decay keeps the whole rate. Not part of the saved optimizer: who builds it anew says it anew.
        """
        self._rate_scales = {self._get_variable_index(variable): factor for variable, factor in scales}

    def _apply_weight_decay(self, variables):
        """Nothing: each update decays. Keras works out the schedule here once for each variable."""

    def update_step(self, gradient, variable, learning_rate):
        if self._use_weight_decay(variable):
            decay, rate = ops.cast(self.weight_decay, variable.dtype), ops.cast(learning_rate, variable.dtype)
            self.assign_sub(variable, variable * decay * rate)
        factor = self._rate_scales.get(self._get_variable_index(variable), 1.0)
        super().update_step(gradient, variable, learning_rate * factor)

    def _backend_update_step(self, gradients, variables, learning_rate):
        if fused.without_strategy() and not self.amsgrad and all(v.dtype == "float32" for v in variables):
            self._update_by_kernel(gradients, variables, learning_rate)
        else:
            super()._backend_update_step(gradients, variables, learning_rate)

    def _update_by_kernel(self, gradients, variables, learning_rate):
        """What `update_step` does to each variable, by TensorFlow's own kernel: one pass over memory, where Keras makes one
        for each product and sum, and fewer operations to trace."""
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
                variable.assign_sub(variable * decay)  # 1 - decay would round a small decay to 0
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=self._momentums[index].value.handle,
                v=self._velocities[index].value.handle,
                lr=rate * self._rate_scales.get(index, 1.0),
                grad=tf.cast(gradient, "float32"),
                **shared,
            )

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.gradient_norm = self.add_variable(
            shape=(), dtype="float32", name="gradient_norm", aggregation="only_first_replica"
        )

    def _clip(self, gradients):
        squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients if g is not None]
        norm = ops.sqrt(sum(squares))
        self.gradient_norm.assign(norm)
        if not self.clip_norm:
            return gradients
        scale = self.clip_norm / ops.maximum(norm, self.clip_norm)
        return [None if g is None else g * ops.cast(scale, g.dtype) for g in gradients]

    def _clip_gradients(self, gradients):
        # Under TensorFlow these are one replica's gradients, not yet summed: see the next method.
        return gradients if keras.backend.backend() == "tensorflow" else self._clip(gradients)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        import tensorflow as tf

        # The gradient of looked-up rows comes as slices, a row perhaps in several of them: neither its norm nor its
        # square is that of the slices.
        dense = [(g if g is None else tf.convert_to_tensor(g), v) for g, v in grads_and_vars]
        gradients, variables = zip(*super()._all_reduce_sum_gradients(dense), strict=True)
        return list(zip(self._clip(gradients), variables, strict=True))

    def get_config(self):
        return {**super().get_config(), "clip_norm": self.clip_norm}


def build_optimizer(model, settings, steps, warmup_steps):
    """The optimizer of a model for a run of `steps`: linear warm-up from 0, cosine decay towards 0, which the rate would
    reach one step after the last.

    `settings` is a `PretrainConfig` or `FinetuneConfig`. Decay is left off biases, norms, positions and queries, which are
    told by identity, not by name, so that a saved optimizer does not know them: build it anew for a model that is loaded (with
    `compile=False`, or this module imported).
    """
    warmup_steps = min(warmup_steps, steps - 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else settings.learning_rate,
        decay_steps=steps - warmup_steps,
        warmup_target=settings.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
    optimizer = AdamW(schedule, weight_decay=settings.weight_decay, beta_2=settings.beta_2, clip_norm=settings.clip_norm)
    optimizer.exclude_from_weight_decay(var_list=undecayed(model))
    optimizer.build(model.trainable_variables)
    return optimizer


def layer_rates(backbone, decay):
    """Layer-wise rates for fine-tuning, as BEiT and MAE have them: pairs `(variable, factor)` for `AdamW.scale_rates`.

    The last block of the transformer learns at `decay` times the rate, each block below at `decay` times that of the one
    above, patch encoder and positions at `decay` times the first block's. What is above the blocks keeps the whole rate.
    """
    levels = [[backbone.patch_encoder, backbone.positions], *([block] for block in backbone.transformer.blocks)]
    return [
        (variable, decay ** (len(levels) - level))
        for level, layers in enumerate(levels)
        for layer in layers
        for variable in layer.trainable_variables
    ]


def undecayed(model):
    """The trainable variables that weight decay leaves alone: vectors (biases, norms, queries) and positions."""
    positions = [
        variable
        for layer in model._flatten_layers()
        if isinstance(layer, FactorizedPositions)
        for variable in layer.trainable_variables
    ]
    return positions + [v for v in model.trainable_variables if len(v.shape) <= 1]
