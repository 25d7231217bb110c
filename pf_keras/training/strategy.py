"""Which devices a run uses, and the precision that suits them."""

import contextlib
from dataclasses import dataclass

import keras

from pf_keras.errors import UserError
from pf_keras.training.determinism import add_in_order


@dataclass(frozen=True)
class Devices:
    """kind: `tpu`, `gpu` or `cpu`; replicas: how many share a batch; strategy: TensorFlow's, or None."""

    kind: str
    replicas: int
    strategy: object = None

    def scope(self):
        """Where models, optimizers and metrics are to be made."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    @property
    def jit_compile(self):
        """XLA where it is the only way or the faster one; TensorFlow's own CPU kernels are faster than XLA's."""
        if keras.backend.backend() == "jax":
            return True
        return self.kind == "gpu" and self.replicas == 1

    def check_batch(self, batch):
        """Raises UserError where the replicas do not divide the batch."""
        if batch % self.replicas:
            near = max(1, round(batch / self.replicas)) * self.replicas
            raise UserError(
                f"expected a batch that {self.replicas} replicas divide, received {batch}: use {near}, for example"
            )


def open_devices(precision="auto"):
    """Take every device of the best kind at hand, and set Keras's precision for what is built from now on.

    precision: `auto` is bfloat16 compute on TPU and GPU and float32 on CPU; or a Keras dtype policy's name.
    """
    devices = _jax_devices() if keras.backend.backend() == "jax" else _tensorflow_devices()
    if precision == "auto":
        precision = "float32" if devices.kind == "cpu" else "mixed_bfloat16"
    keras.config.set_dtype_policy(precision)
    return devices


def _tensorflow_devices():
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        add_in_order()
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) > 1:
        strategy = tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
        return Devices("gpu", strategy.num_replicas_in_sync, strategy)
    return Devices("gpu" if gpus else "cpu", 1)


def _jax_devices():
    import jax

    devices = jax.devices()
    kind = {"tpu": "tpu", "gpu": "gpu"}.get(devices[0].platform, "cpu")
    if len(devices) > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=keras.distribution.list_devices()))
    return Devices(kind, len(devices))
