"""`--mode=plan`: what a pre-training needs of a TPU slice, known before the slice is paid for."""

import math
import sys

from pf_keras.errors import UserError
from pf_keras.models.size import count_parameters
from pf_keras.tpu.compile_step import compile_for, has_compiler
from pf_keras.tpu.flops import pretrain_flops
from pf_keras.tpu.slices import GIB, find_slice
from pf_keras.training.workdir import Workdir

SHARE_OF_PEAK = 0.3  # what others reach: MAE's ViT-L 29% on TPU v3, big_vision's ViT-S 27%
DECODED_PER_CORE = 450  # images/s that a core of the host decodes and crops, measured with ImageNet's JPEGs
BYTES_PER_IMAGE = 110_000  # of ImageNet's JPEGs
STATE_BYTES = 12  # a parameter: its float32 value and AdamW's two moments
COMPILATIONS = 6  # at most, to find the largest batch


def run(request):
    """Plan `request.config` for `request.topology`; returns what `result.json` holds.

    Raises UserError, after the table and `result.json` are written, where the batch does not fit.
    """
    config, slice_ = request.config, find_slice(request.topology)
    if config.pretrain.batch % slice_.cores:
        raise UserError(
            f"expected a pretrain.batch that the {slice_.cores} cores of {slice_.name} divide, received "
            f"{config.pretrain.batch}: use {math.ceil(config.pretrain.batch / slice_.cores) * slice_.cores}, for example"
        )
    workdir = Workdir(request.workdir)
    if workdir.config_file.exists() and workdir.mode() != "plan":
        raise UserError(f"expected --workdir to be new or of --mode=plan, received {workdir.path} of {workdir.mode()}")
    workdir.folder("figures")  # a place that cannot be written is known now, not after minutes

    result = estimate(config, slice_)
    if has_compiler():
        result |= compiled(config, slice_, result["parameters"])
    workdir.write_json(workdir.config_file, {"mode": "plan", "config": config.to_dict()})
    workdir.write_result(result)
    print(table(result))
    if result["fits"] is False:
        raise UserError(
            f"expected a step of at most {gib(result['hbm_bytes'])} a core of {slice_.name}, received one of "
            f"{gib(result['peak_hbm_bytes'])} with {result['batch_per_core']} images a core: "
            f"the largest batch found to fit is {result['largest_batch_per_core'] or 'none'}"
        )
    return result


def estimate(config, slice_):
    """The figures that follow from formulas alone; what only a compiler knows is None."""
    flops = pretrain_flops(config)
    rate = SHARE_OF_PEAK * slice_.kind.peak * slice_.cores / flops
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
        "peak_hbm_bytes": None,
        "hbm_bytes": slice_.kind.hbm,
        "largest_batch_per_core": None,
        "flops_per_image": flops,
        "flops_per_step": flops * batch,
        "compiler_flops_per_image": None,
        "share_of_peak": SHARE_OF_PEAK,
        "step_seconds": batch / rate,
        "images_per_second": rate,
        "hours": images / rate / 3600,
        "decode_cores": math.ceil(rate / DECODED_PER_CORE),
        "storage_bytes_per_second": rate * BYTES_PER_IMAGE,
        "checkpoint_bytes": parameters * STATE_BYTES,
    }


def compiled(config, slice_, parameters):
    """The figures of the compiler: for the config's batch a core, and for the largest that it finds room for."""

    def compile_batch(images):
        print(f"compiling for {slice_.name}, {images} images a core", file=sys.stderr, flush=True)
        answer = compile_for(config, slice_, images)
        verdict = "fits" if answer["fits"] else "does not fit"
        print(f"    {gib(answer['peak_hbm_bytes'])} a core: {verdict}", file=sys.stderr, flush=True)
        return answer

    batch = config.pretrain.batch // slice_.cores
    first = compile_batch(batch)
    return {
        "fits": first["fits"],
        "peak_hbm_bytes": first["peak_hbm_bytes"],
        "compiler_flops_per_image": first["flops"] / batch if first["fits"] else None,
        "largest_batch_per_core": largest_batch(
            compile_batch, batch, first, parameters * STATE_BYTES, slice_.kind.hbm
        ),
    }


def largest_batch(compile_batch, batch, answer, fixed, room):
    """The largest batch a core that was compiled and fits, or None; `COMPILATIONS` more at most.

    Memory grows along a straight line from what the state alone needs, until it is short: then the compiler recomputes
    more and needs less than the line says. So the line gives the first guess, and where that fits it is doubled until
    one fails; then the gap is halved until it is a tenth.
    compile_batch: a function of the batch to `compile_for`'s answer; answer: that for `batch`.
    fixed: bytes of the state; room: bytes a core.
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


def table(result):
    """The result for people, a line a figure."""
    known = result["fits"] is not None
    verdict = {True: "fits", False: "DOES NOT FIT", None: "not known: libtpu is not installed (pip install 'jax[tpu]')"}
    largest = result["largest_batch_per_core"]
    compiler = result["compiler_flops_per_image"]
    lines = {
        "slice": f"{result['topology']}: {result['cores']} cores, {result['hosts']} hosts",
        "parameters": f"{result['parameters'] / 1e6:.1f}M",
        "batch": f"{result['batch']} images, {result['batch_per_core']} a core",
        "peak memory a core": (f"{gib(result['peak_hbm_bytes'])} of " if known else "of ") + gib(result["hbm_bytes"]),
        "verdict": verdict[result["fits"]],
        "largest batch a core": f"{largest} compiled and fits" if largest else "not known",
        "FLOPs an image": f"{result['flops_per_image'] / 1e9:.1f} G by formula"
        + (f", {compiler / 1e9:.1f} G by the compiler" if compiler else ""),
        "FLOPs a step": f"{result['flops_per_step'] / 1e12:.2f} T",
        f"step, at {result['share_of_peak']:.0%} of peak": f"{result['step_seconds'] * 1e3:.1f} ms",
        "images a second": f"{result['images_per_second']:,.0f}",
        "whole schedule": f"{result['hours']:.1f} hours, {result['hours'] / 24:.2f} days",
        "decode cores": f"{result['decode_cores']} on all hosts, at {DECODED_PER_CORE} images/s each",
        "read from storage": f"{result['storage_bytes_per_second'] / 1e6:,.0f} MB/s, at {BYTES_PER_IMAGE // 1000} kB an image",
        "checkpoint": f"{result['checkpoint_bytes'] / 1e9:.2f} GB",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def gib(size):
    return f"{size / GIB:.2f} GiB"
