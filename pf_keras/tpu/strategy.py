"""A `TPUStrategy` for a TPU that does not exist. Steps can be traced under it, and never run.

It uses private parts of TensorFlow, which 2.19.1 and 2.21 have.
"""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace


def strategy_without_tpu(cores: int):
    """A `TPUStrategy` of one host with this many cores."""
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.tpu import device_assignment, tpu_strategy_util, tpu_system_metadata
    from tensorflow.python.tpu import topology as tpu_topology

    coordinates = np.array([[[core, 0, 0, 0] for core in range(cores)]], "int32")
    topology = tpu_topology.Topology(mesh_shape=[cores, 1, 1, 1], device_coordinates=coordinates)
    prefix = "/job:localhost/replica:0/task:0/device:"
    places = [("CPU", 0), *(("TPU", core) for core in range(cores))]
    devices = [SimpleNamespace(name=f"{prefix}{kind}:{i}", device_type=kind) for kind, i in places]
    metadata = tpu_system_metadata.TPUSystemMetadata(
        num_cores=cores, num_hosts=1, num_of_cores_per_host=cores, topology=topology, devices=devices
    )

    class Resolver(tf.distribute.cluster_resolver.TPUClusterResolver):
        def __init__(self):
            super().__init__(tpu="local")

        def get_tpu_system_metadata(self):
            return metadata

    tpu_strategy_util._INITIALIZED_TPU_SYSTEMS[""] = topology
    assignment = device_assignment.device_assignment(topology, num_replicas=cores)
    return tf.distribute.TPUStrategy(Resolver(), experimental_device_assignment=assignment)


@contextlib.contextmanager
def variables_of_one_replica(strategy) -> Iterator[dict]:
    """Enter the scope of a strategy. Its variables hold zeros that they share, and its replicas share the variables.

    So a model takes hardly any memory, however many cores the strategy has.

    Args:
        strategy: of `strategy_without_tpu`.

    Yields:
        `{id of the handle that a traced graph captures: variable of a replica}`, which grows as variables are created.
    """
    import tensorflow as tf

    zeros, variables, newest = {}, {}, []

    def of_replica(next_creator, **options):
        if newest:
            return newest[0]
        value = options["initial_value"]
        value = tf.convert_to_tensor(value() if callable(value) else value, options.get("dtype"))
        shared = zeros.setdefault((tuple(value.shape), value.dtype), tf.zeros(value.shape, value.dtype))
        newest.append(next_creator(**{**options, "initial_value": shared}))
        return newest[0]

    def of_all_replicas(next_creator, **options):
        newest.clear()
        variable = next_creator(**options)
        variables[id(variable._packed_variable.packed_handle)] = newest[0]
        return variable

    # Creators that are entered later are called first: this one, the strategy's, then `of_replica` for each core.
    with tf.variable_creator_scope(of_replica), strategy.scope(), tf.variable_creator_scope(of_all_replicas):
        yield variables
