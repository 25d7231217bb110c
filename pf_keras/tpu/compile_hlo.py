"""Compile for a TPU that this machine does not have. Needs JAX and libtpu (`jax[tpu]`), and private parts of JAX."""

import re
from collections.abc import Callable

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def topology_devices(topology: str):
    """The devices of libtpu's topology of this name, such as `v3:4x4`."""
    from jax.experimental import topologies

    single = {"chips_per_host_bounds": [1, 1, 1]} if topology.endswith(":1x1") else {}
    return topologies.get_topology_desc(platform="tpu", topology_name=topology, **single).devices


def compile_hlo(hlo: bytes, devices, all_to_all: str):
    """Compile an HLO module that every device runs as one replica.

    Args:
        hlo: serialized module.
        devices: of `topology_devices`.
        all_to_all: target of the custom calls that stand for an exchange between all replicas over axis 0.
    """
    import numpy as np
    from jax._src.interpreters import mlir
    from jax._src.lib import _jax, xla_client
    from jaxlib.mlir import ir

    with mlir.make_ir_context():
        module = ir.Module.parse(_jax.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(hlo)))
        _prepare(module, len(devices), all_to_all)
        assignment = xla_client.DeviceAssignment.create(np.array([[device.id] for device in devices]))
        options = xla_client.CompileOptions()
        build = options.executable_build_options
        for target in (options, build):
            target.num_replicas, target.num_partitions, target.device_assignment = len(devices), 1, assignment
        return devices[0].client.compile(
            module, executable_devices=xla_client.DeviceList(tuple(devices)), compile_options=options
        )


def _prepare(module, replicas: int, all_to_all: str) -> None:
    """Remove the copies that TensorFlow puts at its return values, which libtpu refuses, and put in `all_to_all`."""
    import numpy as np
    from jaxlib.mlir import ir

    found = []

    def collect(op):
        exchange = op.name.endswith(".custom_call") and op.attributes["call_target_name"].value == all_to_all
        if op.name == "mhlo.copy" or exchange:
            found.append(op)
        return ir.WalkResult.ADVANCE

    module.operation.walk(collect)
    groups = ir.DenseElementsAttr.get(np.arange(replicas, dtype=np.int64)[None])
    number = ir.IntegerType.get_signless(64)
    for op in found:
        value = op.operands[0]
        if op.name != "mhlo.copy":
            sizes = {"split_dimension": 0, "concat_dimension": 0, "split_count": replicas}
            attributes = {name: ir.IntegerAttr.get(number, size) for name, size in sizes.items()}
            value = ir.Operation.create(
                op.name.replace("custom_call", "all_to_all"), results=[op.results[0].type], operands=[value],
                attributes={**attributes, "replica_groups": groups}, ip=ir.InsertionPoint(op),
                loc=op.location,
            ).results[0]  # fmt: skip
        op.results[0].replace_all_uses_with(value)
        op.erase()


def measure(compile_: Callable) -> dict:
    """What the compiler reports of the program that a function compiles.

    Returns:
        `fits`, and `peak_hbm_bytes` per core. Where it fits also `flops` per core, else `refusal`, the compiler's words.
    """
    import jax

    try:
        program = compile_()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+)([KMGT]?) of|\(([\d.]+)([KMGT]?)\) exceeds available HBM", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not used:
            raise
        number, unit = (found for found in used.groups() if found is not None)
        return {"fits": False, "peak_hbm_bytes": int(float(number) * UNITS[unit]), "refusal": _words(str(error))}
    memory = program.memory_analysis() if hasattr(program, "memory_analysis") else program.get_compiled_memory_stats()
    cost = program.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    return {"fits": True, "peak_hbm_bytes": memory.peak_memory_in_bytes, "flops": cost["flops"]}


def _words(message: str) -> str:
    return " ".join(message.split())[:300].rstrip(".")
