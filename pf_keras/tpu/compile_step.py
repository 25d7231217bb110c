"""Compile the pre-training step of a config for a TPU that this machine does not have. Needs JAX and libtpu (`jax[tpu]`).

It compiles Keras's training step under the JAX backend, lowered from shapes alone, so that no batch and no weight exists.
`compile_for` runs this module in a process of its own, because libtpu may end the process that it compiles in.
"""

import importlib.util
import json
import re
import sys

from pf_keras.config import Config
from pf_keras.tpu.process import ask
from pf_keras.tpu.slices import Slice

SECONDS = 3600
ENVIRONMENT = {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",  # the TPU is only a target of compilation
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second process fails on libtpu's lock file
    "TPU_SKIP_MDS_QUERY": "1",  # else libtpu asks a metadata server for minutes
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v3-8",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def has_compiler() -> bool:
    """Whether JAX and libtpu are installed."""
    return all(importlib.util.find_spec(name) for name in ("jax", "libtpu"))


def compile_for(config: Config, slice_: Slice, batch: int) -> dict:
    """Compile the step for all cores of a slice.

    Args:
        config: of a pre-training.
        slice_: the TPU slice.
        batch: images per core.

    Returns:
        `fits`, and `peak_hbm_bytes` per core; where it fits also `flops` per core and step.

    Raises:
        UserError: the compiler fails or takes too long.
    """
    request = {"config": config.to_dict(), "topology": slice_.topology, "batch": batch}
    return ask("pf_keras.tpu.compile_step", request, ENVIRONMENT, SECONDS, f"Compiling for {slice_.name}")


def lower(config: Config, topology: str, batch: int):
    """The step lowered for the devices of a topology. The batch is split over them, the state repeated on each."""
    import jax
    import keras
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from pf_keras.models import build_pretrainer
    from pf_keras.noise import pretrain_noise
    from pf_keras.training.optimizer import build_optimizer

    single = {"chips_per_host_bounds": [1, 1, 1]} if topology.endswith(":1x1") else {}
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **single).devices
    mesh = Mesh(np.array(devices), ("batch",))
    repeated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
    images = batch * len(devices)

    keras.config.set_dtype_policy(tpu_precision(config))
    with keras.StatelessScope(initialize_variables=False):
        model = build_pretrainer(config)
    model.compile(optimizer=build_optimizer(model, config.pretrain, config.pretrain.steps, config.pretrain.warmup_steps))

    def shapes(variables):
        return [jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=repeated) for v in variables]

    def rows(*shape, dtype="float32"):
        return jax.ShapeDtypeStruct((images, *shape), dtype, sharding=split)

    state = tuple(
        shapes(variables)
        for variables in (
            model.trainable_variables, model.non_trainable_variables, model.optimizer.variables, model.metrics_variables
        )
    )  # fmt: skip
    side = config.model.image_size
    inputs = {
        "image": rows(side, side, 3, dtype="uint8"),
        **{name: rows(*shape) for name, shape in pretrain_noise(config).items()},
    }
    # As `fit` calls it: the new state reuses the memory of the old one.
    step = jax.jit(model.train_step, donate_argnums=0, out_shardings=(None, repeated))
    return step.lower(state, (inputs,))


def tpu_precision(config: Config) -> str:
    """The Keras dtype policy that a run has on a TPU."""
    return "mixed_bfloat16" if config.run.precision == "auto" else config.run.precision


def measure(lowered) -> dict:
    """What the compiler reports of a lowered step, see `compile_for`."""
    import jax

    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+)([KMGT]?) of|\(([\d.]+)([KMGT]?)\) exceeds available HBM", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not used:
            raise
        number, unit = (found for found in used.groups() if found is not None)
        return {"fits": False, "peak_hbm_bytes": int(float(number) * UNITS[unit])}
    peak = program.memory_analysis().peak_memory_in_bytes
    return {"fits": True, "peak_hbm_bytes": peak, "flops": program.cost_analysis()["flops"]}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(measure(lower(Config.from_dict(asked["config"]), asked["topology"], asked["batch"]))))
