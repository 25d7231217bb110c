"""Which devices a run uses, how a batch is spread over them, and the precision that suits them."""

import contextlib
import json
import os
from dataclasses import dataclass

import keras

from pf_keras.errors import UserError
from pf_keras.training.determinism import add_in_order
from pf_keras.training.execution import build_from_shapes, several_steps
from pf_keras.training.follower import follower_workdir
from pf_keras.training.workdir import Workdir


@dataclass(frozen=True)
class Devices:
    """The devices that share a run.

    kind: `tpu`, `gpu` or `cpu`; replicas: how many share a batch; strategy: TensorFlow's, or None.
    chief: whether this process is the one that writes the run's files.
    """

    kind: str
    replicas: int
    strategy: object = None
    chief: bool = True

    def __str__(self):
        return f"{self.replicas} {self.kind}{'s' * (self.replicas > 1)}, {keras.config.dtype_policy().name}"

    def scope(self):
        """Where models, optimizers and metrics are to be made."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    @property
    def jit_compile(self):
        """XLA where it is the only way or the faster one; TensorFlow's own CPU kernels are faster than XLA's.

        A TPU compiles by itself, and a step of several replicas holds their exchange, which this kind of XLA refuses.
        """
        if keras.backend.backend() == "jax":
            return True
        return self.kind == "gpu" and self.replicas == 1

    def compile(self, model, steps_per_execution=1, **options):
        """`model.compile` as these devices need it; within `scope()`."""
        model.compile(jit_compile=self.jit_compile, steps_per_execution=steps_per_execution, **options)
        if self.strategy or (steps_per_execution > 1 and keras.backend.backend() == "tensorflow"):
            model.train_function = several_steps(model)
        if self.strategy:
            model._maybe_symbolic_build = build_from_shapes(model)

    def spread(self, make_batches):
        """The batches of all hosts and replicas, for `fit` and `predict`.

        make_batches: a function of `host`, `hosts` and `replicas` (`data.pipeline.training_batches` says what they
        are) to a tf.data dataset.
        """
        if not self.strategy:
            hosts = _jax_hosts()
            return make_batches(host=hosts[0], hosts=hosts[1], replicas=hosts[1])
        return self.strategy.distribute_datasets_from_function(
            lambda context: make_batches(
                host=context.input_pipeline_id,
                hosts=context.num_input_pipelines,
                replicas=context.num_replicas_in_sync,
            )
        )

    def workdir(self, path):
        """The `Workdir` of a run at `path`, for the process that writes it; a `follower_workdir` for any other."""
        return Workdir(path) if self.chief else follower_workdir(path)

    def definition(self):
        """What `Workdir.start` keeps of them: the precision, since `run.precision=auto` is another one on other devices."""
        return {"precision": keras.config.dtype_policy().name}

    def check_batch(self, batch):
        """Raises UserError where the replicas do not divide the batch."""
        if batch % self.replicas:
            near = max(1, round(batch / self.replicas)) * self.replicas
            raise UserError(
                f"expected a batch that {self.replicas} replicas divide, received {batch}: use {near}, for example"
            )


def open_devices(precision="auto", tpu=""):
    """Take every device of the best kind at hand, and set Keras's precision for what is built from now on.

    precision: `auto` is bfloat16 compute on TPU and GPU and float32 on CPU; or a Keras dtype policy's name.
    tpu: a Cloud TPU's name, `local` on a TPU VM, a `grpc://` address, or nothing for no TPU.
    Raises UserError where there is no such TPU. Comes before any other use of TensorFlow: workers that train together
    (the environment's TF_CONFIG) have to meet first.
    """
    devices = _jax_devices(tpu) if keras.backend.backend() == "jax" else _tensorflow_devices(tpu)
    if precision == "auto":
        precision = "float32" if devices.kind == "cpu" else "mixed_bfloat16"
    keras.config.set_dtype_policy(precision)
    return devices


def _tensorflow_devices(tpu):
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        add_in_order()
    if tpu:
        strategy = tf.distribute.TPUStrategy(_connect(tpu))
        return Devices("tpu", strategy.num_replicas_in_sync, strategy)
    if workers_of_a_step() > 1:  # of a TF_CONFIG that is none it says more than TensorFlow
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        resolver = strategy.cluster_resolver
        chief = resolver.task_type == "chief" or ("chief" not in resolver.cluster_spec().jobs and resolver.task_id == 0)
        kind = "gpu" if tf.config.list_logical_devices("GPU") else "cpu"
        return Devices(kind, strategy.num_replicas_in_sync, strategy, chief)
    for kind in ("gpu", "cpu"):
        found = [device.name for device in tf.config.list_logical_devices(kind.upper())]
        if len(found) > 1:
            return Devices(kind, len(found), tf.distribute.MirroredStrategy(found))
        if found:
            return Devices(kind, 1)
    raise UserError("expected a GPU or a CPU, received none from TensorFlow: check CUDA_VISIBLE_DEVICES")


def workers_of_a_step():
    """How many processes share a step with this one and itself, by the environment. Raises UserError for one that is no
    TF_CONFIG."""
    if keras.backend.backend() != "tensorflow":
        return 1
    try:
        content = json.loads(os.environ.get("TF_CONFIG") or "{}")
        cluster = content.get("cluster", {})
        if cluster:
            cluster[content["task"]["type"]][int(content["task"]["index"])]
        return sum(len(cluster.get(kind, ())) for kind in ("chief", "worker"))
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        raise UserError(
            f"expected TF_CONFIG as TensorFlow's JSON, received text that fails at: {error}: unset it, or give it a cluster "
            "and this process's task in it"
        ) from error


def _connect(tpu):
    """The resolver of a TPU, connected and initialised; what it held before is lost."""
    import tensorflow as tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (tf.errors.OpError, OSError, ValueError, RuntimeError, ImportError) as error:
        if "No OpKernel was registered" in str(error):
            reason, do = "a TensorFlow without TPU support", "install requirements-tpu.txt on the TPU VM"
        else:
            reason, do = " ".join(str(error).split())[:200], "check the name, the zone and that it runs"
        raise UserError(f"expected a TPU at --tpu={tpu}, received {reason}: {do}") from error
    return resolver


def _jax_devices(tpu):
    import jax
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # it reads the data, and would take memory that JAX has taken for itself
    try:
        devices = jax.devices("tpu" if tpu else None)
    except RuntimeError as error:
        raise UserError(
            f"expected a TPU at --tpu={tpu}, received a JAX that finds none: run on the TPU VM, with jax[tpu] installed"
        ) from error
    if len(devices) > 1:
        # Each host reads its own part of the batch: see `Devices.spread`.
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=keras.distribution.list_devices(), auto_shard_dataset=False)
        )
    kind = {"tpu": "tpu", "gpu": "gpu"}.get(devices[0].platform, "cpu")
    return Devices(kind, len(devices), chief=jax.process_index() == 0)


def _jax_hosts():
    """`(host, hosts)` of this process."""
    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()
