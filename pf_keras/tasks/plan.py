"""`--mode=plan`: whether a pre-training compiles for a TPU slice and fits, and what it costs, before you pay for the slice."""

import math
import sys
from collections.abc import Callable

import keras

from pf_keras.config import Config
from pf_keras.errors import UserError
from pf_keras.models.build import count_parameters
from pf_keras.request import Request
from pf_keras.tpu.compile_step import compile_for, has_compiler
from pf_keras.tpu.flops import pretrain_flops
from pf_keras.tpu.op_check import check_pretraining
from pf_keras.tpu.slices import GIB, Slice, find_slice
from pf_keras.training.devices import Devices
from pf_keras.training.identity import RunIdentity, find_run
from pf_keras.training.lock import lock
from pf_keras.training.workdir import Workdir

PEAK_FRACTION = 0.3  # what others reach: MAE's ViT-L 29% on TPU v3, big_vision's ViT-S 27%
DECODED_PER_CORE = 450  # images/s that a host core decodes and crops, measured with ImageNet's JPEGs
BYTES_PER_IMAGE = 110_000  # of ImageNet's JPEGs
STATE_BYTES = 12  # per parameter: its float32 value and AdamW's two moments
COMPILATIONS = 6  # at most, to find the largest batch


def run(request: Request) -> dict:
    """Plan `request.config` for `request.topology`. Prints a table, and returns the content of `result.json`.

    Raises:
        UserError: the batch does not fit, or TensorFlow cannot run the step on a TPU. The table and `result.json` are
            written before.
    """
    config, slice_ = request.config, find_slice(request.topology)
    Devices("tpu", slice_.cores).check_training(pretrain=config.pretrain)
    workdir = Workdir(request.workdir)
    if (run := find_run(workdir)) and run.mode != "plan":
        raise UserError(f"{workdir.path} is the workdir of a --mode={run.mode}. Choose another --workdir for --mode=plan.")
    workdir.folder("figures")  # fails now, not after minutes, where the workdir cannot be written
    lock(workdir.path)

    result = estimate(config, slice_)
    if keras.backend.backend() == "tensorflow":
        try:
            result["ops_without_tpu_kernel"] = check_pretraining(config)
        except UserError as error:  # the check needs private parts of TensorFlow; the rest of the plan does not
            print(f"warning: TPU kernels were not checked: {error}", file=sys.stderr)
    if has_compiler():
        result |= compiled(config, slice_, result["parameters"])
    workdir.write_json(workdir.config_file, RunIdentity("plan", config).to_dict())
    workdir.write_result(result)
    print(table(result))
    if result["ops_without_tpu_kernel"]:
        raise UserError(
            f"TensorFlow has no TPU kernel for {', '.join(result['ops_without_tpu_kernel'])}, which the training step uses. "
            "Replace these operations, or train with KERAS_BACKEND=jax."
        )
    if result["fits"] is False:
        largest = result["largest_batch_per_core"]
        do = f"pretrain.batch={largest * slice_.cores}, the largest batch found to fit" if largest else "a smaller model"
        raise UserError(
            f"A step with {result['batch_per_core']} images per core needs {gib(result['peak_hbm_bytes'])}, but a core of "
            f"{slice_.name} has {gib(result['hbm_bytes'])}. Use {do}."
        )
    return result


def estimate(config: Config, slice_: Slice) -> dict:
    """What follows from formulas. What needs a compiler or TensorFlow is None."""
    flops = pretrain_flops(config)
    throughput = PEAK_FRACTION * slice_.kind.peak * slice_.cores / flops
    batch, images = config.pretrain.batch, config.pretrain.batch * config.pretrain.steps
    parameters = count_parameters(config)
    return {
        "topology": slice_.name,
        "cores": slice_.cores,
        "hosts": slice_.hosts,
        "batch": batch,
        "batch_per_core": batch // slice_.cores,
        "parameters": parameters,
        "fits": None,
        "ops_without_tpu_kernel": None,
        "peak_hbm_bytes": None,
        "hbm_bytes": slice_.kind.hbm,
        "largest_batch_per_core": None,
        "flops_per_image": flops,
        "flops_per_step": flops * batch,
        "compiler_flops_per_image": None,
        "share_of_peak": PEAK_FRACTION,
        "step_seconds": batch / throughput,
        "images_per_second": throughput,
        "hours": images / throughput / 3600,
        "decode_cores": math.ceil(throughput / DECODED_PER_CORE),
        "storage_bytes_per_second": throughput * BYTES_PER_IMAGE,
        "checkpoint_bytes": parameters * STATE_BYTES,
    }


def compiled(config: Config, slice_: Slice, parameters: int) -> dict:
    """What the compiler reports of the config's batch, and the largest batch per core that it finds to fit."""

    parts = config.pretrain.accumulate

    def compile_batch(images: int) -> dict:
        print(f"compiling for {slice_.name}, {images} images per core", file=sys.stderr, flush=True)
        answer = in_parts(compile_for(config, slice_, images // parts), parts, parameters, slice_.kind.hbm)
        verdict = "fits" if answer["fits"] else "does not fit"
        print(f"    {gib(answer['peak_hbm_bytes'])} per core: {verdict}", file=sys.stderr, flush=True)
        return answer

    batch = config.pretrain.batch // slice_.cores
    first = compile_batch(batch)
    state = parameters * STATE_BYTES
    largest = largest_batch(lambda images: compile_batch(images * parts), batch // parts, first, state, slice_.kind.hbm)
    return {
        "fits": first["fits"],
        "peak_hbm_bytes": first["peak_hbm_bytes"],
        "compiler_flops_per_image": first["flops"] / batch if first["fits"] else None,
        "largest_batch_per_core": largest and largest * parts,
    }


def in_parts(answer: dict, parts: int, parameters: int, room: int) -> dict:
    """What the compiler reports of a step with one part of a batch, with the sum of the gradients of all `parts` added."""
    if parts == 1:
        return answer
    needed = answer["peak_hbm_bytes"] + 4 * parameters
    answer |= {"peak_hbm_bytes": needed, "fits": answer["fits"] and needed <= room}
    return {**answer, "flops": answer["flops"] * parts} if "flops" in answer else answer


def largest_batch(compile_batch: Callable[[int], dict], batch: int, answer: dict, fixed: int, room: int) -> int | None:
    """The largest batch per core that was compiled and fits, after at most `COMPILATIONS` more compilations.

    Memory grows in a straight line with the batch, from what the state alone needs. Where memory runs short, the compiler
    recomputes more and needs less than the line predicts. So the line gives the first guess. Where that fits, it is doubled
    until a batch fails. Then the interval is halved until it is a tenth of the batch.

    Args:
        compile_batch: a function of the images per core to the answer of `compile_for`.
        batch: images per core, compiled already.
        answer: of `compile_for` for `batch`.
        fixed: bytes of the state.
        room: bytes per core.
    """
    fitting, failing = 0, math.inf
    for left in range(COMPILATIONS, -1, -1):
        if answer["fits"]:
            fitting = max(fitting, batch)
        else:
            failing = min(failing, batch)
        needed = answer["peak_hbm_bytes"]
        if not left or needed <= fixed or failing - fitting <= max(1, fitting // 10):
            break
        guess = int((room - fixed) * batch / (needed - fixed))
        if failing == math.inf:
            batch = max(guess, 2 * fitting)
        elif fitting:
            batch = (fitting + failing) // 2
        else:
            batch = min(guess, failing - 1)
        if batch < 1:
            break
        answer = compile_batch(batch)
    return fitting or None


def table(result: dict) -> str:
    """The result to read, one value per line."""
    known = result["fits"] is not None
    verdict = {True: "fits", False: "DOES NOT FIT", None: "not known: libtpu is not installed (pip install 'jax[tpu]')"}
    largest, compiler, ops = (
        result[name] for name in ("largest_batch_per_core", "compiler_flops_per_image", "ops_without_tpu_kernel")
    )
    lines = {
        "slice": f"{result['topology']}: {result['cores']} cores, {result['hosts']} hosts",
        "parameters": f"{result['parameters'] / 1e6:.1f}M",
        "batch": f"{result['batch']} images, {result['batch_per_core']} per core",
        "peak memory per core": (f"{gib(result['peak_hbm_bytes'])} of " if known else "of ") + gib(result["hbm_bytes"]),
        "verdict": verdict[result["fits"]],
        "largest batch per core": f"{largest} compiled and fits" if largest else "not known",
        "operations TPUs cannot run": "only checked under TensorFlow" if ops is None else ", ".join(ops) or "none",
        "FLOPs per image": f"{result['flops_per_image'] / 1e9:.1f} G by formula"
        + (f", {compiler / 1e9:.1f} G by the compiler" if compiler else ""),
        "FLOPs per step": f"{result['flops_per_step'] / 1e12:.2f} T",
        f"step, at {result['share_of_peak']:.0%} of peak": f"{result['step_seconds'] * 1e3:.1f} ms",
        "images per second": f"{result['images_per_second']:,.0f}",
        "whole schedule": f"{result['hours']:.1f} hours, {result['hours'] / 24:.2f} days",
        "decode cores": f"{result['decode_cores']} on all hosts, at {DECODED_PER_CORE} images/s each",
        "read from storage": f"{result['storage_bytes_per_second'] / 1e6:,.0f} MB/s, at {BYTES_PER_IMAGE // 1000} kB per image",
        "checkpoint": f"{result['checkpoint_bytes'] / 1e9:.2f} GB",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def gib(size: float) -> str:
    """Bytes to read, in GiB."""
    return f"{size / GIB:.2f} GiB"
