"""`--mode=plan`: whether a training compiles for a TPU slice and fits, and what it costs, before you pay for the slice."""

import math
import sys
from collections.abc import Callable

import keras

from pf_keras.config import Config
from pf_keras.errors import UserError
from pf_keras.models.build import count_parameters
from pf_keras.request import Request
from pf_keras.tasks.finetune import steps_of
from pf_keras.tpu.compile_step import check_steps
from pf_keras.tpu.scaling import BYTES_PER_IMAGE, DECODED_PER_CORE, STATE_BYTES, Machine, predict
from pf_keras.tpu.slices import GIB, Slice, find_slice
from pf_keras.tpu.steps import WORDS, settings_of
from pf_keras.training.devices import Devices
from pf_keras.training.identity import RunIdentity, find_run
from pf_keras.training.lock import lock
from pf_keras.training.workdir import Workdir

COMPILATIONS = 6  # at most, to find the largest batch
SHOWN = 3  # operations in a message
# What `check_steps` answers that goes into the result as it is.
ANSWERS = ("ops_without_tpu_kernel", "dynamic_shapes", "fits", "peak_hbm_bytes", "refusal", "compile_seconds")


def run(request: Request) -> dict:
    """Plan `request.config` for `request.topology`. Prints a table, and returns the content of `result.json`.

    Raises:
        UserError: a step does not fit, or TensorFlow cannot run it on a TPU. The table and `result.json` are written before.
    """
    config, slice_ = request.config, find_slice(request.topology)
    if request.training not in (*WORDS, "both"):
        raise UserError(f"--training={request.training} is no training. Use {', '.join(WORDS)} or both.")
    trainings = tuple(WORDS) if request.training == "both" else (request.training,)
    devices = Devices("tpu", slice_.cores, parallel_parts=config.run.parallel_parts)
    devices.check_parallel_parts()
    if "pretrain" in trainings:  # what the run itself would refuse
        config.run.check_every("pretrain.probe_every", config.pretrain.probe_every)
        devices.check_run(config.run, config.pretrain.steps, pretrain=config.pretrain)
    if "finetune" in trainings:
        steps_of(config, devices, 1)  # whatever the number of images
    workdir = Workdir(request.workdir)
    if (run := find_run(workdir)) and run.mode != "plan":
        raise UserError(f"{workdir.path} is the workdir of a --mode={run.mode}. Choose another --workdir for --mode=plan.")
    workdir.folder("figures")  # fails now, not after minutes, where the workdir cannot be written
    lock(workdir.path)

    result = estimate(config, slice_)
    batches = {name: settings_of(config, name).batch // slice_.cores for name in trainings}
    for training, answer in check_steps(config, slice_, batches).items():
        found = facts(config, slice_, training, answer, request.largest_batch)
        result |= {("" if training == "pretrain" else f"{training}_") + name: value for name, value in found.items()}
    workdir.write_json(workdir.config_file, RunIdentity("plan", config).to_dict())
    workdir.write_result(result)
    print(table(result))
    for training in trainings:
        refuse(result, training, slice_)
    return result


def refuse(result: dict, training: str, slice_: Slice) -> None:
    """Raises UserError where a step of the result cannot run."""
    prefix, step = "" if training == "pretrain" else f"{training}_", f"the {WORDS[training]} step"
    if ops := result[f"{prefix}ops_without_tpu_kernel"]:
        raise UserError(
            f"TensorFlow has no TPU kernel for {some(ops)}, which {step} uses. "
            "Replace these operations, or train with KERAS_BACKEND=jax."
        )
    if dynamic := result[f"{prefix}dynamic_shapes"]:
        raise UserError(
            f"A TPU needs static shapes, but {step} has a shape that depends on values: {some(dynamic)}. "
            "Replace the first of these operations by one with a static shape, such as a mask."
        )
    if result[f"{prefix}fits"] is False:
        largest = result[f"{prefix}largest_batch_per_core"]
        do = "Use a smaller batch, or --largest_batch to find the largest that fits"
        if largest is not None:
            do = f"Use {training}.batch={largest * slice_.cores}, the largest found to fit"
        if largest == 0:
            do = "Use a smaller model"
        raise UserError(
            f"{step.capitalize()} with {result[f'{prefix}batch_per_core']} images per core needs "
            f"{gib(result[f'{prefix}peak_hbm_bytes'])}, but a core of {slice_.name} has {gib(result['hbm_bytes'])} "
            f"({result[f'{prefix}refusal']}). {do}."
        )


def some(found: list[str]) -> str:
    """The first of the operations, to read."""
    return ", ".join(found[:SHOWN]) + f" and {len(found) - SHOWN} more" * (len(found) > SHOWN)


def estimate(config: Config, slice_: Slice) -> dict:
    """What follows from formulas, of the pre-training and the slice."""
    backend = keras.backend.backend()
    return {
        "topology": slice_.name,
        "lowering": backend,
        "cores": slice_.cores,
        "hosts": slice_.hosts,
        "hbm_bytes": slice_.kind.hbm,
        **predict(config, Machine.from_slice(slice_), backend),
    }


def facts(config: Config, slice_: Slice, training: str, answer: dict, search: bool) -> dict:
    """What goes into the result about a step. Without libtpu, `fits` and what follows from it are None.

    Args:
        config: of the run.
        slice_: the TPU slice.
        training: `pretrain` or `finetune`.
        answer: of `check_steps` for the batch of the config.
        search: whether to search for the largest batch per core that fits, 0 if none does.
    """
    settings = settings_of(config, training)
    batch, parts = settings.batch // slice_.cores, settings.accumulate
    largest = None
    if search and "fits" in answer:
        known = {batch // parts: answer}

        def compile_batch(images):
            known[images] = check_steps(config, slice_, {training: images * parts})[training]
            return known[images]

        none = 0
        try:
            largest_batch(compile_batch, batch // parts, answer, count_parameters(config) * STATE_BYTES, slice_.kind.hbm)
        except UserError as error:
            print(f"warning: the search for the largest batch of {training} ended early: {error}", file=sys.stderr)
            none = None  # a smaller one may fit
        fitting = [images for images, found in known.items() if found["fits"]]
        largest = parts * max(fitting) if fitting else none
    return {
        "batch": settings.batch,
        "batch_per_core": batch,
        **{name: answer.get(name) for name in ANSWERS},
        "largest_batch_per_core": largest,
        "compiler_flops_per_image": answer["flops"] / batch if "flops" in answer else None,
    }


def largest_batch(compile_batch: Callable[[int], dict], batch: int, answer: dict, fixed: int, room: int) -> int | None:
    """The largest batch per core that was compiled and fits, after at most `COMPILATIONS` more compilations.

    Memory grows in a straight line with the batch, from what the state alone needs. Where memory runs short, the compiler
    recomputes more and needs less than the line predicts. So the line gives the first guess. Where that fits, it is doubled
    until a batch fails. Then the interval is halved until it is a tenth of the batch.

    Args:
        compile_batch: a function of the images per core to the answer of `check_steps`.
        batch: images per core, compiled already.
        answer: of `check_steps` for `batch`.
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
    lines = {
        "slice": f"{result['topology']}: {result['cores']} cores, {result['hosts']} hosts",
        "lowering": {"tensorflow": "TensorFlow's, under TPUStrategy", "jax": "JAX's"}[result["lowering"]],
        "parameters": f"{result['parameters'] / 1e6:.1f}M",
    }
    for training, words in WORDS.items():
        lines |= step_lines(result, "" if training == "pretrain" else f"{training}_", words)
    lines |= {
        "FLOPs per image of pre-training": f"{result['flops_per_image'] / 1e9:.1f} G by formula",
        "FLOPs per step": f"{result['flops_per_step'] / 1e12:.2f} T",
        f"compute, at {result['share_of_peak']:.0%} of peak": milliseconds(result["compute_seconds"]),
        f"optimizer, at {result['share_of_bandwidth']:.0%} of memory": milliseconds(result["update_seconds"]),
        f"all-reduce, at {result['share_of_bandwidth']:.0%} of links": (
            f"{milliseconds(result['all_reduce_seconds'])}, of {result['gradient_bytes'] / 1e6:,.0f} MB of gradients"
        ),
        "step": f"{milliseconds(result['step_seconds'])}, if none of the three overlap",
        "images per second": f"{result['images_per_second']:,.0f}",
        "whole schedule": f"{result['hours']:.1f} hours, {result['hours'] / 24:.2f} days",
        "decode cores": (
            f"{result['decode_cores']} on all hosts, {result['decode_cores_per_host']} on each, "
            f"at {DECODED_PER_CORE} images/s a core"
        ),
        "read from storage": f"{result['storage_bytes_per_second'] / 1e6:,.0f} MB/s, at {BYTES_PER_IMAGE // 1000} kB per image",
        "checkpoint": f"{result['checkpoint_bytes'] / 1e9:.2f} GB, {result['checkpoint_seconds']:.0f} s to write",
        f"preempted every {result['preempted_every_seconds'] / 3600:.0f} hours": (
            f"loses {result['lost_to_preemption']:.1%} with checkpoints every {minutes(result['checkpoint_every_seconds'])}, "
            f"{result['lost_at_best']:.1%} with one every {minutes(result['best_checkpoint_every_seconds'])}, which is best"
        ),
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def step_lines(result: dict, prefix: str, words: str) -> dict[str, str]:
    """The lines of the table about one step, if it was checked."""
    found = {name.removeprefix(prefix): value for name, value in result.items() if name.startswith(prefix)}
    if "fits" not in found:
        return {}
    refused = found["ops_without_tpu_kernel"] or found["dynamic_shapes"]
    if found["fits"] is None:
        verdict = "not compiled" if refused else "not known: libtpu is not installed (pip install 'jax[tpu]')"
    else:
        verdict = f"{'fits' if found['fits'] else 'DOES NOT FIT'}: {gib(found['peak_hbm_bytes'])} of {gib(result['hbm_bytes'])}"
        verdict += f" per core, compiled in {found['compile_seconds']:.0f} s"
    lines = {
        f"{words}, batch": f"{found['batch']} images, {found['batch_per_core']} per core",
        f"{words}, verdict": verdict,
    }
    if result["lowering"] == "tensorflow":
        lines[f"{words}, without TPU kernel"] = some(found["ops_without_tpu_kernel"]) or "none"
        lines[f"{words}, dynamic shapes"] = some(found["dynamic_shapes"]) or "none"
    if found["largest_batch_per_core"]:
        lines[f"{words}, largest batch"] = f"{found['largest_batch_per_core']} per core compiled and fits"
    if found["compiler_flops_per_image"]:
        lines[f"{words}, FLOPs per image"] = f"{found['compiler_flops_per_image'] / 1e9:.1f} G by the compiler"
    return lines


def milliseconds(seconds: float | None) -> str:
    """Seconds to read, in milliseconds. None is a part of the step whose rate is not published."""
    return "not known" if seconds is None else f"{seconds * 1e3:.1f} ms"


def minutes(seconds: float) -> str:
    """Seconds to read, in minutes."""
    return f"{seconds / 60:.1f} min"


def gib(size: float) -> str:
    """Bytes to read, in GiB."""
    return f"{size / GIB:.2f} GiB"
