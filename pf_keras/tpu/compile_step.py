"""Compile the pre-training step of a config for a TPU that is not there. Needs JAX and libtpu (`jax[tpu]`).

`compile_for` runs this file in a process of its own, since libtpu may end the process that it compiles in. The step
is the one that Keras trains with under its JAX backend, lowered from shapes alone: no batch and no weight exists.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys

from pf_keras.errors import UserError

TIME_LIMIT = 3600  # seconds
ENVIRONMENT = {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",  # the TPU is a target of compilation only
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second process fails on libtpu's lock file
    "TPU_SKIP_MDS_QUERY": "1",  # else libtpu asks a metadata server, for minutes
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v3-8",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def has_compiler():
    """Whether JAX and libtpu are installed."""
    return all(importlib.util.find_spec(name) for name in ("jax", "libtpu"))


def compile_for(config, slice_, batch):
    """Compile the step with `batch` images a core for all cores of a `Slice`.

    Returns a dict: `fits`, `peak_hbm_bytes` a core, and where it fits `flops` and `bytes` a core and step.
    Raises UserError where the compiler ended without an answer.
    """
    request = {"config": config.to_dict(), "topology": slice_.topology, "batch": batch}
    try:
        process = subprocess.run(
            [sys.executable, "-m", "pf_keras.tpu.compile_step"],
            input=json.dumps(request), capture_output=True, text=True, timeout=TIME_LIMIT,
            env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"expected the compiler to end within {TIME_LIMIT} s, received no answer for {slice_.name}: "
            "take a faster machine or a smaller model"
        ) from error
    if process.returncode:
        lines = [line for line in process.stderr.splitlines() if line.strip()]
        last = ([line for line in lines if "Error: " in line] or lines or ["nothing"])[-1]
        raise UserError(
            f"expected the step to compile for {slice_.name}, received exit code {process.returncode} and: {last[:300]}"
        )
    return json.loads(process.stdout.splitlines()[-1])


def lower(config, topology, batch):
    """The step lowered for the devices of a topology, the batch split over them and the state repeated on each."""
    import jax
    import keras
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from pf_keras.augment import NOISE
    from pf_keras.masking import block_count
    from pf_keras.models import build_pretrainer
    from pf_keras.training.optimizer import build_optimizer

    single = {"chips_per_host_bounds": [1, 1, 1]} if topology.endswith(":1x1") else {}
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **single).devices
    mesh = Mesh(np.array(devices), ("batch",))
    repeated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
    images = batch * len(devices)

    precision = config.run.precision
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "auto" else precision)
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
        "mask_noise": rows(block_count(config.model.grid, config.mask.block)),
        "augment_noise": rows(config.visible, len(NOISE)),
    }
    # As `fit` calls it: the old state's memory serves the new one.
    step = jax.jit(model.train_step, donate_argnums=0, out_shardings=(None, repeated))
    return step.lower(state, (inputs,))


def measure(lowered):
    """What the compiler says of a lowered step: see `compile_for`."""
    import jax

    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+)([KMGT]?) of|\(([\d.]+)([KMGT]?)\) exceeds available HBM", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not used:
            raise
        number, unit = (found for found in used.groups() if found is not None)
        return {"fits": False, "peak_hbm_bytes": int(float(number) * UNITS[unit])}
    cost = program.cost_analysis()
    memory = program.memory_analysis()
    return {
        "fits": True,
        "peak_hbm_bytes": memory.peak_memory_in_bytes,
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
    }


if __name__ == "__main__":
    from pf_keras.config import Config

    request = json.load(sys.stdin)
    print(json.dumps(measure(lower(Config.from_dict(request["config"]), request["topology"], request["batch"]))))
