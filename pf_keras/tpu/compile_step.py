"""Check and compile a training step of a config for a TPU that this machine does not have.

Under TensorFlow the step is traced as under a `TPUStrategy`, checked for what a TPU cannot run, lowered to HLO by TensorFlow
and compiled by libtpu. Under JAX it is compiled from shapes alone. No batch exists. `check_step` runs this module in a process
of its own, because libtpu may end the process that it compiles in, and TensorFlow keeps the devices of a strategy.
"""

import importlib.util
import json
import sys
import time

import keras

from pf_keras.config import Config
from pf_keras.tpu.process import ask, note
from pf_keras.tpu.slices import Slice
from pf_keras.tpu.steps import WORDS, settings_of

SECONDS = 1800
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "JAX_PLATFORMS": "cpu",  # the TPU is only a target of compilation
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second process fails on libtpu's lock file
    "TPU_SKIP_MDS_QUERY": "1",  # else libtpu asks a metadata server for minutes
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v3-8",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def has_compiler() -> bool:
    """Whether JAX and libtpu are installed."""
    return all(importlib.util.find_spec(name) for name in ("jax", "libtpu"))


def check_step(config: Config, slice_: Slice, training: str, images: int) -> dict:
    """Check a step under this process's Keras backend, and compile it for all cores of a slice if libtpu is installed.

    Args:
        config: of the run.
        slice_: the TPU slice.
        training: `pretrain` or `finetune`.
        images: per core.

    Returns:
        Under TensorFlow `ops_without_tpu_kernel` and `dynamic_shapes`, see `op_check`. Without either, and with a compiler,
        `fits`, `peak_hbm_bytes` per core and `compile_seconds`. Where it fits also `flops` per core and step, else `refusal`,
        the compiler's words.

    Raises:
        UserError: the compiler fails or takes too long.
    """
    backend = keras.backend.backend()
    request = {
        "config": config.to_dict(), "topology": slice_.topology, "cores": slice_.cores, "hbm": slice_.kind.hbm,
        "training": training, "images": images, "compile": has_compiler(),
    }  # fmt: skip
    task = f"Compiling the {WORDS[training]} step for {slice_.name}" if has_compiler() else "Tracing the step for a TPU"
    return ask("pf_keras.tpu.compile_step", request, {**ENVIRONMENT, "KERAS_BACKEND": backend}, SECONDS, task)


def _tensorflow(config: Config, asked: dict) -> dict:
    """What `check_step` returns under TensorFlow."""
    from pf_keras.tpu.op_check import with_unknown_shape, without_kernel
    from pf_keras.tpu.trace import trace_step

    note(f"tracing the {WORDS[asked['training']]} step under TPUStrategy")
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
    """What `check_step` returns under JAX: with accumulation, one part of the step, and the sum of the gradients beside it."""
    from pf_keras.tpu.compile_hlo import measure, topology_devices
    from pf_keras.tpu.lower_jax import lower_step

    parts = settings_of(config, asked["training"]).accumulate
    note(f"tracing and lowering the {WORDS[asked['training']]} step with JAX")
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
    return found | ({"compile_seconds": round(time.monotonic() - began, 1)} if "fits" in found else {})


if __name__ == "__main__":
    print(json.dumps(_answer(json.load(sys.stdin))))
