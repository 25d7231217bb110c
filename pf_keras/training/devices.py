"""Which devices a run uses, how a batch is distributed over them, and the precision that suits them."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import keras

from pf_keras.config import FinetuneConfig, PretrainConfig, RunConfig
from pf_keras.errors import UserError
from pf_keras.processes import cores
from pf_keras.training.accumulate import accumulate
from pf_keras.training.determinism import add_in_order
from pf_keras.training.execution import build_from_shapes, several_steps
from pf_keras.training.gpus import grow_memory, plugin_errors, warn_without_gpu
from pf_keras.training.parallel import in_parallel, use_cores
from pf_keras.training.tpu_connection import check_tpu, connect
from pf_keras.training.workers import join_workers, workers_of_a_step

_chief = True  # see is_chief


@dataclass(frozen=True)
class Devices:
    """The devices that share a run.

    Args:
        kind: `tpu`, `gpu` or `cpu`.
        replicas: how many share a batch.
        strategy: TensorFlow's, or None for one device and under JAX.
        chief: whether this process writes the run's files.
        parallel_parts: how many parts of a batch are computed at the same time, see `training.parallel`.
    """

    kind: str
    replicas: int
    strategy: object = None
    chief: bool = True
    parallel_parts: int = 1

    def __str__(self) -> str:
        return f"{self.replicas} {self.kind}{'s' * (self.replicas > 1)}, {keras.config.dtype_policy().name}"

    def scope(self) -> contextlib.AbstractContextManager:
        """Where models, optimizers and metrics must be created."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    @property
    def jit_compile(self) -> bool:
        """Whether Keras compiles the step with XLA.

        TensorFlow's own CPU kernels are faster than XLA's. A TPU compiles anyway, and the step of several replicas holds
        their exchange, which this kind of compilation refuses.
        """
        if keras.backend.backend() == "jax":
            return True
        return self.kind == "gpu" and self.replicas == 1

    def compile(self, model: keras.Model, steps_per_execution: int = 1, parts: int = 1, **options) -> None:
        """Call `model.compile` as these devices need it. Use it within `scope()`.

        Args:
            model: to compile.
            steps_per_execution: see `pf_keras.config.RunConfig`.
            parts: how many parts a batch is computed in, one after the other, see `training.accumulate`.
            **options: of `model.compile`.
        """
        model.compile(jit_compile=self.jit_compile, steps_per_execution=steps_per_execution, **options)
        if self.parallel_parts > 1:
            in_parallel(model, self.parallel_parts)
        if parts > 1:
            accumulate(model, parts)
        elif self.strategy or (steps_per_execution > 1 and keras.backend.backend() == "tensorflow"):
            model.train_function = several_steps(model)
        if self.strategy:
            model._maybe_symbolic_build = build_from_shapes(model)

    def distribute(self, make_batches: Callable):
        """The batches of all hosts and replicas, for `fit` and `predict`.

        Args:
            make_batches: a function of `host`, `hosts` and `replicas` to a tf.data dataset, such as
                `data.pipeline.training_batches` with its first arguments bound.
        """
        if not self.strategy:
            host, hosts = 0, 1
            if keras.backend.backend() == "jax":
                import jax

                host, hosts = jax.process_index(), jax.process_count()
            return make_batches(host=host, hosts=hosts, replicas=hosts)
        return self.strategy.distribute_datasets_from_function(
            lambda context: make_batches(
                host=context.input_pipeline_id, hosts=context.num_input_pipelines, replicas=context.num_replicas_in_sync
            )
        )

    def facts(self) -> dict:
        """What of the devices defines a run: the precision that `run.precision=auto` came to."""
        return {"precision": keras.config.dtype_policy().name}

    def check_batch(self, name: str, batch: int) -> None:
        """Raises UserError where the replicas cannot share a batch evenly. `name` is the setting's."""
        if batch % self.replicas:
            near = max(1, batch // self.replicas) * self.replicas
            choice = f"{near} or {near + self.replicas}" if near < batch else f"{near}"
            raise UserError(f"{name} is {batch}, which {self.replicas} replicas cannot split evenly. Use {choice}.")

    def check_training(self, **settings: PretrainConfig | FinetuneConfig) -> None:
        """Check that the replicas can share a batch, and each replica's images its parts.

        Args:
            **settings: the section of the config by its name, as `pretrain=config.pretrain`.

        Raises:
            UserError: they cannot.
        """
        for section, training in settings.items():
            self.check_batch(f"{section}.batch", training.batch)
            images, parts = training.batch // self.replicas, training.accumulate
            if images % parts:
                each = f", {images} on each of {self.replicas} replicas" if self.replicas > 1 else ""
                raise UserError(
                    f"{section}.batch is {training.batch}{each}, which {section}.accumulate={parts} does not divide evenly. "
                    "Change one of the two."
                )
            if parts > 1 and self.parallel_parts > 1:
                raise UserError(
                    f"{section}.accumulate is {parts} and run.parallel_parts is {self.parallel_parts}, but parts of a batch "
                    "are computed either in turn or at the same time. Set one of the two to 1."
                )
            self._check_parallel(f"{section}.batch", training.batch)

    def check_parallel_parts(self) -> None:
        """Raises UserError where a batch is to be computed in parallel parts, but several devices share it already."""
        if self.parallel_parts > 1 and self.replicas > 1:
            raise UserError(
                f"run.parallel_parts is {self.parallel_parts}, which is for the cores of one CPU, but {self.replicas} "
                f"{self.kind}s share each batch already. Use --config.run.parallel_parts=1."
            )

    def _check_parallel(self, name: str, batch: int) -> None:
        if batch % self.parallel_parts:
            raise UserError(
                f"{name} is {batch}, which run.parallel_parts={self.parallel_parts} does not divide evenly. "
                "Change one of the two."
            )

    def check_run(self, run: RunConfig, steps: int, **settings: PretrainConfig | FinetuneConfig) -> None:
        """Check that a training fits these devices.

        Args:
            run: the `run` section of the config.
            steps: of the training.
            **settings: see `check_training`.

        Raises:
            UserError: the replicas cannot share a batch, its parts are not equal, or `run.steps_per_execution` does not divide
                the steps.
        """
        self.check_training(**settings)
        self.check_batch("run.eval_batch", run.eval_batch)
        self._check_parallel("run.eval_batch", run.eval_batch)
        for name, value in (("number of steps", steps), ("run.log_every", run.log_every)):
            if value % run.steps_per_execution:
                raise UserError(
                    f"The {name} is {value}, which is not a multiple of run.steps_per_execution={run.steps_per_execution}. "
                    "Change one of the two."
                )


def open_devices(precision: str = "auto", tpu: str = "", parallel_parts: int = 1) -> Devices:
    """Take every device of the best kind available, and set Keras's precision for what is built from now on.

    The memory of GPUs is taken as it is needed. Several GPUs share each batch: by a `MirroredStrategy` under TensorFlow, by
    Keras's `DataParallel` under JAX.

    Call it before any other use of TensorFlow: workers that train together (the environment's TF_CONFIG) must meet first.

    Args:
        precision: `auto` for bfloat16 compute on TPU and GPU and float32 on the CPU, or the name of a Keras dtype policy.
        tpu: the name of a Cloud TPU, `local` on a TPU VM, a `grpc://` address, or empty for no TPU.
        parallel_parts: how many parts of a batch are computed at the same time, see `training.parallel`.

    Raises:
        UserError: there is no such TPU, or there are parallel parts on several devices.
    """
    if tpu:
        check_tpu(tpu)
    grow_memory()
    jax = keras.backend.backend() == "jax"
    if parallel_parts > 1 and not jax:
        use_cores(parallel_parts, cores())
    with plugin_errors() as errors:
        devices = _jax_devices(tpu) if jax else _tensorflow_devices(tpu)
    devices = replace(devices, parallel_parts=parallel_parts)
    devices.check_parallel_parts()
    if devices.kind == "cpu":
        warn_without_gpu(keras.backend.backend(), errors)
    if precision == "auto":
        precision = "float32" if devices.kind == "cpu" else "mixed_bfloat16"
    keras.config.set_dtype_policy(precision)
    global _chief
    _chief = devices.chief
    return devices


def is_chief() -> bool:
    """Whether this process writes the files of a run, as `open_devices` found."""
    return _chief


def _tensorflow_devices(tpu: str) -> Devices:
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        add_in_order()
    if tpu:
        strategy = tf.distribute.TPUStrategy(connect(tpu))
        return Devices("tpu", strategy.num_replicas_in_sync, strategy)
    if workers_of_a_step() > 1:
        strategy = join_workers()
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
    raise UserError("TensorFlow finds neither a GPU nor a CPU. Check CUDA_VISIBLE_DEVICES.")


def _jax_devices(tpu: str) -> Devices:
    import jax
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # TensorFlow reads the data and must leave the GPU's memory to JAX
    try:
        devices = jax.devices("tpu" if tpu else None)
    except RuntimeError as error:
        raise UserError(f"JAX finds no TPU for --tpu={tpu}. Run on the TPU VM, with jax[tpu] installed.") from error
    if len(devices) > 1:
        # Each host reads its own part of the batch: see `Devices.distribute`.
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=keras.distribution.list_devices(), auto_shard_dataset=False)
        )
    kind = {"tpu": "tpu", "gpu": "gpu"}.get(devices[0].platform, "cpu")
    return Devices(kind, len(devices), chief=jax.process_index() == 0)
