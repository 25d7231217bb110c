"""Connecting to a TPU. What can be seen to be missing is an error at once, because libtpu asks the network for minutes."""

import glob
import os
import socket

from pf_keras.errors import UserError
from pf_keras.training.time_limit import time_limit

CHIPS = ("/dev/accel*", "/dev/vfio/[0-9]*")  # the device files of a TPU VM's chips
ANSWER_SECONDS = 10


def check_tpu(tpu: str) -> None:
    """Check, without TensorFlow, that there can be such a TPU.

    Args:
        tpu: the value of --tpu, not empty.

    Raises:
        UserError: this machine has no TPU, or nothing answers at the address.
    """
    local = tpu == "local" or os.environ.get("KERAS_BACKEND") == "jax"  # JAX uses the TPU of its machine, whatever the name
    if local and not any(map(glob.glob, CHIPS)):
        raise UserError(
            f"Cannot use the TPU --tpu={tpu}: this machine has no TPU ({' or '.join(CHIPS)}). "
            "Run on the TPU VM, or leave out --tpu."
        )
    if tpu.startswith("grpc://"):
        host, _, port = tpu.removeprefix("grpc://").rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
        except (OSError, ValueError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"Cannot use the TPU --tpu={tpu}: nothing answers there within {ANSWER_SECONDS} s ({reason}). Check the "
                "address (grpc://HOST:PORT), the firewall, and that the TPU is running."
            ) from error


def connect(tpu: str):
    """The resolver of a TPU, connected and initialised. What the TPU held before is lost. Raises UserError where that fails."""
    import tensorflow as tf

    from pf_keras.training.workers import WAIT_VARIABLE, wait_seconds

    wait = wait_seconds()
    late = (
        f"Cannot use the TPU --tpu={tpu}: it did not connect within {wait} s. Check that a TPU is at this address and "
        f"that it is running. {WAIT_VARIABLE}=SECONDS changes the limit."
    )
    try:
        with time_limit(wait, late):
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu)
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
    except (tf.errors.OpError, OSError, ValueError, RuntimeError, ImportError) as error:
        if "No OpKernel was registered" in str(error):
            reason, do = "this TensorFlow has no TPU support", "Install requirements-tpu.txt on the TPU VM."
        else:
            reason, do = " ".join(str(error).split())[:200], "Check the name, the zone, and that the TPU is running."
        raise UserError(f"Cannot use the TPU --tpu={tpu}: {reason}. {do}") from error
    return resolver
