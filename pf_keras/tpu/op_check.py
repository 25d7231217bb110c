"""Find operations of a TensorFlow training step that a TPU cannot run, on a machine without a TPU.

The step is traced under a `TPUStrategy` for a TPU that does not exist, and never run. Every operation of the replicated
computation must be in `xla_tpu_ops.txt`, the operations with a TPU kernel in tensorflow-tpu 2.20. `check_pretraining` runs
this module in a process of its own, because TensorFlow keeps the strategy's devices.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

from pf_keras.config import Config
from pf_keras.tpu.compile_step import tpu_precision
from pf_keras.tpu.process import ask

CORES = 8
SECONDS = 900
ENVIRONMENT = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
# These carry values into and out of the replicated computation, and are not part of the TPU's program.
FRAME = {"TPUReplicatedInput", "TPUReplicatedOutput", "TPUReplicateMetadata", "TPUCompilationResult"}


def check_pretraining(config: Config) -> list[str]:
    """The names of the operations in the pre-training step of a config that have no TPU kernel.

    Raises:
        UserError: tracing the step fails or takes too long.
    """
    return ask("pf_keras.tpu.op_check", config.to_dict(), ENVIRONMENT, SECONDS, "Tracing the step for a TPU")


def strategy_without_tpu():
    """A `TPUStrategy` of eight cores to trace under. It cannot run anything.

    It uses private parts of TensorFlow, which 2.19.1 and 2.21 have.
    """
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.tpu import device_assignment, tpu_strategy_util, tpu_system_metadata
    from tensorflow.python.tpu import topology as tpu_topology

    coordinates = np.array([[[x, y, 0, core] for x in range(2) for y in range(2) for core in range(2)]], "int32")
    topology = tpu_topology.Topology(mesh_shape=[2, 2, 1, 2], device_coordinates=coordinates)
    prefix = "/job:localhost/replica:0/task:0/device:"
    places = [("CPU", 0), *(("TPU", core) for core in range(CORES))]
    devices = [SimpleNamespace(name=f"{prefix}{kind}:{i}", device_type=kind) for kind, i in places]
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


def ops_without_kernel(strategy, step: Callable, *batch) -> list[str]:
    """The names of the operations that each replica runs in `step(*batch)` and that have no TPU kernel.

    Args:
        strategy: of `strategy_without_tpu`.
        step: a function of a replica's batch.
        *batch: nested `tf.TensorSpec`s of a replica's batch.
    """
    import tensorflow as tf

    @tf.function
    def replicated(*batch):
        return strategy.run(step, args=batch)

    graph = replicated.get_concrete_function(*batch).graph.as_graph_def()
    known = set((Path(__file__).parent / "xla_tpu_ops.txt").read_text().split()) | FRAME
    functions = {function.signature.name: function for function in graph.library.function}
    bodies = [graph.node, *(function.node_def for function in functions.values())]
    inside = [node for body in bodies for node in body if "_tpu_replicate" in node.attr]
    return sorted({node.op for node in _with_called(inside, functions)} - known - set(functions))


def _with_called(nodes: Iterable, functions: dict) -> Iterator:
    """The nodes, and the nodes of the functions that they call, to any depth."""
    waiting, seen = list(nodes), set()
    while waiting:
        node = waiting.pop()
        yield node
        values = node.attr.values()
        called = {node.op} | {a.func.name for a in values} | {f.name for a in values for f in a.list.func}
        for name in (called & functions.keys()) - seen:
            seen.add(name)
            waiting.extend(functions[name].node_def)


def _pretraining_ops(config: Config) -> list[str]:
    """What `check_pretraining` returns, in this process."""
    import keras
    import tensorflow as tf

    from pf_keras.models import build_pretrainer
    from pf_keras.noise import pretrain_noise
    from pf_keras.training.optimizer import build_optimizer

    # One block has the same operations as ten, and takes half the time and memory to trace.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, depth=1))
    strategy = strategy_without_tpu()
    keras.config.set_dtype_policy(tpu_precision(config))
    with strategy.scope():
        model = build_pretrainer(config)
        optimizer = build_optimizer(model, config.pretrain, config.pretrain.steps, config.pretrain.warmup_steps)
        model.compile(optimizer=optimizer, jit_compile=False)  # the TPU compiles the whole step itself
    side, rows = config.model.image_size, 2
    batch = {"image": tf.TensorSpec((rows, side, side, 3), tf.uint8)}
    batch |= {name: tf.TensorSpec((rows, *shape), tf.float32) for name, shape in pretrain_noise(config).items()}
    return ops_without_kernel(strategy, lambda batch: model.train_step((batch,)), batch)


if __name__ == "__main__":
    print(json.dumps(_pretraining_ops(Config.from_dict(json.load(sys.stdin)))))
