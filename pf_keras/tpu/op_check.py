"""Whether a TensorFlow training step holds operations that a TPU cannot do, known without a TPU.

A `TPUStrategy` is built for a TPU that is not there; the step is traced under it and never run. Every operation of the
replicated computation has then to be in `xla_tpu_ops.txt`, the operations with a TPU kernel in tensorflow-tpu 2.20.
The strategy leans on private parts of TensorFlow: 2.19.1 and 2.21 have them.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.tpu import device_assignment, tpu_strategy_util, tpu_system_metadata
from tensorflow.python.tpu import topology as tpu_topology

CORES = 8
# What only carries values into and out of the replicated computation, and is not part of the TPU's program.
FRAME = {"TPUReplicatedInput", "TPUReplicatedOutput", "TPUReplicateMetadata", "TPUCompilationResult"}


class _Device:
    def __init__(self, name, device_type):
        self.name, self.device_type = name, device_type


def strategy_without_tpu():
    """A `TPUStrategy` of eight cores to trace under. It runs nothing."""
    places = np.array([[[x, y, 0, core] for x in range(2) for y in range(2) for core in range(2)]], "int32")
    topology = tpu_topology.Topology(mesh_shape=[2, 2, 1, 2], device_coordinates=places)
    prefix = "/job:localhost/replica:0/task:0/device:"
    devices = [_Device(prefix + "CPU:0", "CPU")] + [_Device(f"{prefix}TPU:{i}", "TPU") for i in range(CORES)]
    metadata = tpu_system_metadata.TPUSystemMetadata(
        num_cores=CORES, num_hosts=1, num_of_cores_per_host=CORES, topology=topology, devices=devices
    )

    class Resolver(tf.distribute.cluster_resolver.TPUClusterResolver):
        def __init__(self):
            super().__init__(tpu="local")

        def get_tpu_system_metadata(self):
            return metadata

    tpu_strategy_util._INITIALIZED_TPU_SYSTEMS[""] = topology
    assignment = device_assignment.device_assignment(topology, num_replicas=CORES)
    return tf.distribute.TPUStrategy(Resolver(), experimental_device_assignment=assignment)


def ops_without_kernel(strategy, step, *batch):
    """The names of the operations in `step(*batch)`, as each replica does it, that have no TPU kernel.

    batch: nested `tf.TensorSpec`s of one replica's batch.
    """

    @tf.function
    def replicated(*batch):
        return strategy.run(step, args=batch)

    graph = replicated.get_concrete_function(*batch).graph.as_graph_def()
    known = set((Path(__file__).parent / "xla_tpu_ops.txt").read_text().split()) | FRAME
    functions = {function.signature.name: function for function in graph.library.function}
    bodies = [graph.node, *(function.node_def for function in functions.values())]
    inside = [node for body in bodies for node in body if "_tpu_replicate" in node.attr]
    return sorted({node.op for node in _with_called(inside, functions)} - known - set(functions))


def _with_called(nodes, functions):
    """The nodes and those of the functions that they call, to any depth."""
    waiting, seen = list(nodes), set()
    while waiting:
        node = waiting.pop()
        yield node
        values = node.attr.values()
        called = {node.op} | {a.func.name for a in values} | {f.name for a in values for f in a.list.func}
        for name in (called & functions.keys()) - seen:
            seen.add(name)
            waiting.extend(functions[name].node_def)
