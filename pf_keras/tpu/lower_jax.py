"""Lower the training step of a config under Keras's JAX backend for a TPU, from shapes alone."""

import keras
import numpy as np

from pf_keras.config import Config
from pf_keras.tpu.steps import batch_rows, build_model, compile_model, precision_on_tpu
from pf_keras.training.devices import Devices


def lower_step(config: Config, training: str, devices, images: int) -> tuple:
    """The step with the whole batch, lowered for devices. The batch is split over them, and the state repeated on each.

    Args:
        config: of the run.
        training: `pretrain` or `finetune`.
        devices: of the topology.
        images: per device.

    Returns:
        The lowered step, and the bytes of the trained weights.
    """
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(devices), ("batch",))
    repeated, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
    keras.config.set_dtype_policy(precision_on_tpu(config))
    with keras.StatelessScope(initialize_variables=False):
        model = build_model(config, training)
    compile_model(model, config, training, Devices("tpu", len(devices)))

    def shapes(variables):
        return [jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=repeated) for v in variables]

    kinds = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables, model.metrics_variables)
    batch = keras.tree.map_structure(
        lambda rows: jax.ShapeDtypeStruct((images * len(devices), *rows.shape), rows.dtype, sharding=split),
        batch_rows(config, training),
    )
    # As `fit` calls it: the new state reuses the memory of the old one.
    step = jax.jit(model.train_step, donate_argnums=0, out_shardings=(None, repeated))
    weights = sum(4 * int(np.prod(v.shape)) for v in model.trainable_variables)
    return step.lower(tuple(map(shapes, kinds)), batch), weights
