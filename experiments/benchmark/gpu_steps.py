"""What the benchmark `gpu` measures in processes of their own, under JAX and without TensorFlow."""

import contextlib
import os
import statistics
import tempfile
import time

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else libtpu, where it is installed, looks for a TPU for minutes

import jax
import keras
import numpy as np

from experiments.benchmark.kernels import kernels_by_time
from experiments.benchmark.measuring import answer, take_turns
from experiments.benchmark.models import compiled_pretrainer, random_batch
from pf_keras.config import Config, load_config
from pf_keras.tpu.flops import pretrain_flops
from pf_keras.training.devices import Devices
from pf_keras.training.gpus import grow_memory

METRICS = 3  # where a state of Keras's JAX trainer has the values of metrics
PRODUCTS = 20  # in one timed chain
PROFILED = 3  # steps
HASTY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # halves the time to compile for a CPU


class Step:
    """The pre-training step of Keras's JAX trainer with its state, and one random batch on the device.

    The initial weights are made on the CPU, so that they are the same bits for every device.

    Args:
        config: of the run.
        precision: a Keras dtype policy.
        images: of the batch.
        compiler: options of XLA.
    """

    def __init__(self, config: Config, precision: str, images: int, compiler: dict | None = None):
        device = jax.devices()[0]
        keras.config.set_dtype_policy(precision)
        keras.utils.set_random_seed(config.run.seed)
        with jax.default_device(jax.devices("cpu")[0]):
            model = compiled_pretrainer(config, Devices(device.platform, 1))
        kinds = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables, model.metrics_variables)
        values = [[np.asarray(variable.value) for variable in kind] for kind in kinds]
        self.norm = [v is model.optimizer.gradient_norm for v in model.optimizer.variables].index(True)
        self.state = jax.device_put(tuple(values), device)
        self.batch = jax.device_put((random_batch(config, images),), device)
        began = time.perf_counter()
        self.compiled = jax.jit(model.train_step, donate_argnums=0).lower(self.state, self.batch).compile(compiler)
        self.compile_seconds = time.perf_counter() - began

    def run(self, steps: int) -> None:
        """Do so many steps, and wait for the last."""
        for _ in range(steps):
            logs, self.state = self.compiled(self.state, self.batch)
        jax.block_until_ready((logs, self.state))

    def next_loss(self) -> tuple[float, float]:
        """Do one step. Returns its loss and the norm of its gradient."""
        state = list(self.state)
        state[METRICS] = [jax.numpy.zeros_like(value) for value in state[METRICS]]  # else the loss is a mean over the steps
        logs, self.state = self.compiled(tuple(state), self.batch)
        return float(logs["loss"]), float(self.state[2][self.norm])


def device() -> dict:
    """Which device JAX uses first, and how many like it there are."""
    found = jax.devices()
    return {"platform": found[0].platform, "kind": found[0].device_kind, "count": len(found)}


def speed(config: str, overrides: dict, images: int, side: int, rounds: int, steps: int) -> dict:
    """Times steps in bfloat16, and products of `side` x `side` bfloat16 matrices, in turns. Then profiles some steps."""
    settings = load_config(config).override(overrides)
    step = Step(settings, "mixed_bfloat16", images)
    step.run(1)
    plan, memory = step.compiled.memory_analysis(), jax.devices()[0].memory_stats() or {}
    planned = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes
    multiply = products(side)
    seconds = take_turns({"products": multiply, "steps": lambda: step.run(steps)}, rounds)
    rates = {
        "step": [pretrain_flops(settings) * images * steps / taken for taken in seconds["steps"]],
        "products": [PRODUCTS * 2 * side**3 / taken for taken in seconds["products"]],
    }
    return {
        "step_seconds": statistics.median(seconds["steps"]) / steps,
        "rates": rates,
        "planned_bytes": planned,
        "peak_bytes": memory.get("peak_bytes_in_use"),  # None on a CPU
        "compile_seconds": step.compile_seconds,
        "kernels": profile(step),
    }


def products(side: int):
    """A function that multiplies bfloat16 matrices of normal numbers. Products of zeros would be faster."""
    left, right = jax.random.normal(jax.random.key(0), (2, side, side), "bfloat16") * side**-0.5

    @jax.jit
    def chain(left, right):
        return jax.lax.fori_loop(0, PRODUCTS, lambda _, product: left @ product, right)

    def multiply():
        chain(left, right).block_until_ready()

    return multiply


def profile(step: Step) -> list[dict]:
    """The kernels of a step by their time, see `kernels_by_time`."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            step.run(PROFILED)
        return kernels_by_time(folder, PROFILED)


def losses(config: str, overrides: dict, images: int, precisions: list[str], steps: int) -> dict:
    """`[[loss, gradient norm], ...]` of the first steps by precision. The first step has a learning rate of 0.

    Float32 products are exact to float32 here. By default a GPU rounds their inputs to ten bits.
    """
    settings = load_config(config).override({**overrides, "pretrain.warmup_steps": "2"})
    found, hasty = {}, HASTY if jax.default_backend() == "cpu" else None
    with jax.default_matmul_precision("highest"):
        for precision in precisions:
            step = Step(settings, precision, images, hasty)
            found[precision] = [step.next_loss() for _ in range(steps)]
    return found


def measure(what: str, polite: bool = False, **arguments) -> dict:
    """Run one of the functions above. `polite` leaves the cores to other processes that want them."""
    grow_memory()
    if polite:
        with contextlib.suppress(OSError):
            os.nice(10)
    return {"device": device, "speed": speed, "losses": losses}[what](**arguments)


if __name__ == "__main__":
    answer(measure)
