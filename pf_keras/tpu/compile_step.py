"""Check and compile a training step of a config for a TPU that this machine does not have.

Under TensorFlow the step is traced as under a `TPUStrategy`, checked for what a TPU cannot run, lowered to HLO by TensorFlow
and compiled by libtpu. Under JAX it is compiled from shapes alone. No batch exists. `check_steps` runs this module in a process
of its own, because libtpu may end the process that it compiles in, and TensorFlow keeps the devices of a strategy.
"""

import contextlib
import importlib.util
import json
import sys
import time

import keras

from pf_keras.config import Config
from pf_keras.tpu.process import Question, note
from pf_keras.tpu.slices import GIB, Slice
from pf_keras.tpu.steps import WORDS, settings_of

MODULE = "pf_keras.tpu.compile_step"
SECONDS = 1800
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "JAX_PLATFORMS": "cpu",  # the TPU is only a target of compilation
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second process fails on libtpu's lock file
    "TPU_SKIP_MDS_QUERY": "1",  # else libtpu asks a metadata server for minutes
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v3-8",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # Else TensorFlow computes the constants that count what a batch norm sees, in 18 GB for 1024 images a core of the paper.
    "TF_XLA_FLAGS": "--tf_xla_disable_constant_folding=true",
}


def has_compiler() -> bool:
    """Whether JAX and libtpu are installed."""
    return all(importlib.util.find_spec(name) for name in ("jax", "libtpu"))


def check_steps(config: Config, slice_: Slice, batches: dict[str, int]) -> dict[str, dict]:
    """Check steps under this process's Keras backend, and compile them for all cores of a slice if libtpu is installed.

    Each has a process of its own, and they run side by side.

    Args:
        config: of the run.
        slice_: the TPU slice.
        batches: images per core by training, `pretrain` or `finetune`.

    Returns:
        By training: under TensorFlow `ops_without_tpu_kernel` and `dynamic_shapes`, see `op_check`. Where these are empty, and
        with a compiler, `fits`, `peak_hbm_bytes` per core and `compile_seconds`. Where it fits also `flops` per core and step,
        else `refusal`, the compiler's words.

    Raises:
        UserError: the compiler fails or takes too long.
    """
    environment = {**ENVIRONMENT, "KERAS_BACKEND": keras.backend.backend()}
    shared = {
        "config": config.to_dict(), "topology": slice_.topology, "cores": slice_.cores, "hbm": slice_.kind.hbm,
        "compile": has_compiler(),
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        questions = {}
        for training, images in batches.items():
            step = f"the {WORDS[training]} step"
            task = f"Compiling {step} for {slice_.name}" if has_compiler() else f"Tracing {step} for a TPU"
            request = {**shared, "training": training, "images": images}
            question = Question(MODULE, request, environment, SECONDS, task, f"{WORDS[training]}: ")
            questions[training] = stack.enter_context(question)
        return {training: question.answer() for training, question in questions.items()}


def _tensorflow(config: Config, asked: dict) -> dict:
    """The answer for a step under TensorFlow."""
    from pf_keras.tpu.op_check import with_unknown_shape, without_kernel
    from pf_keras.tpu.trace import trace_step

    note(f"tracing the step under TPUStrategy, {asked['images']} images per core")
    programs = trace_step(config, asked["training"], asked["cores"], asked["images"])
    found = {"ops_without_tpu_kernel": without_kernel(programs), "dynamic_shapes": with_unknown_shape(programs)}
    if any(found.values()) or not asked["compile"]:
        return found
    from pf_keras.tpu.compile_hlo import compile_hlo, measure, topology_devices
    from pf_keras.tpu.lower_tensorflow import ALL_TO_ALL, lower_program

    devices = topology_devices(asked["topology"])
    whole = {"fits": True, "peak_hbm_bytes": 0, "flops": 0}
    for number, program in enumerate(programs, 1):
        of = f", program {number} of {len(programs)}" * (len(programs) > 1)
        note(f"lowering it with TensorFlow{of}")
        hlo = lower_program(program)
        note(f"compiling it with libtpu{of}")
        answer = measure(lambda hlo=hlo: compile_hlo(hlo, devices, ALL_TO_ALL))
        whole = _joined(whole, answer, program.times, program.idle_bytes, asked["hbm"])
        if not whole["fits"]:
            break
    return found | whole


def _jax(config: Config, asked: dict) -> dict:
    """The answer for a step under JAX: with accumulation, one part of the step, and the sum of the gradients beside it."""
    from pf_keras.tpu.compile_hlo import measure, topology_devices
    from pf_keras.tpu.lower_jax import lower_step

    parts = settings_of(config, asked["training"]).accumulate
    note(f"tracing and lowering the step with JAX, {asked['images']} images per core")
    lowered, weights = lower_step(config, asked["training"], topology_devices(asked["topology"]), asked["images"] // parts)
    note("compiling it with libtpu")
    sums = weights if parts > 1 else 0
    return _joined({"fits": True, "peak_hbm_bytes": 0, "flops": 0}, measure(lowered.compile), parts, sums, asked["hbm"])


def _joined(whole: dict, answer: dict, times: int, beside: int, room: int) -> dict:
    """A step with one more program that runs several times, while `beside` bytes stay in memory."""
    needed = answer["peak_hbm_bytes"] + beside
    if not answer["fits"]:
        return {**answer, "peak_hbm_bytes": needed}
    peak, flops = max(whole["peak_hbm_bytes"], needed), whole["flops"] + times * answer["flops"]
    if needed <= room:
        return {"fits": True, "peak_hbm_bytes": peak, "flops": flops}
    refusal = f"the program needs {answer['peak_hbm_bytes']} bytes, beside {beside} bytes that it does not use"
    return {"fits": False, "peak_hbm_bytes": peak, "refusal": refusal}


def _answer(asked: dict) -> dict:
    began = time.monotonic()
    config = Config.from_dict(asked["config"])
    found = (_jax if keras.backend.backend() == "jax" else _tensorflow)(config, asked)
    if "fits" not in found:
        return found
    seconds = time.monotonic() - began
    verdict = "it fits" if found["fits"] else "it does not fit"
    note(f"{verdict}, {found['peak_hbm_bytes'] / GIB:.2f} GiB per core, after {seconds:.0f} s")
    return found | {"compile_seconds": round(seconds, 1)}


if __name__ == "__main__":
    print(json.dumps(_answer(json.load(sys.stdin))))
