"""Pre-training on a GPU under JAX in bfloat16: images/s, FLOP/s, memory, kernels, and whether its losses are the CPU's.

    python -m experiments.benchmark gpu [--quick]

Measures the configs `imagenette` and `imagenet` with their batches on the first GPU. It needs neither TensorFlow nor data. The
figures come from several processes, which share the GPU at the end. It takes at most 8 minutes; what is not done by then counts
as failed. With --quick it measures a tiny model, also on a CPU where there is no GPU.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from experiments.benchmark.measuring import Row, in_process
from pf_keras.config import load_config
from pf_keras.errors import UserError

SECONDS = 480
TINY = {"model.grid": "4", "model.width": "16", "model.depth": "1", "model.heads": "2", "model.stem_width": "8",
        "model.stacks": "(1,)", "model.stack_widths": "(4,)", "model.decoder_width": "8", "pretrain.batch": "8"}  # fmt: skip
MODELS = {False: {"imagenette": {}, "imagenet": {}}, True: {"digits": TINY}}  # the overrides of a config, by --quick
SPEED = {False: {"side": 8192, "rounds": 7, "steps": 10}, True: {"side": 256, "rounds": 3, "steps": 2}}
AIM = 0.5  # a step's FLOP/s divided by those of matrix products
IMAGES, STEPS = 4, 4  # of the compared losses. Four steps have three learning rates above 0.
# The largest relative difference of a loss or gradient norm. In float32 only sums have another order. On a CPU bfloat16 differs
# from float32 by 0.014 (imagenette).
AIMS = {"float32": 1e-3, "mixed_bfloat16": 0.03}
SHOWN = 8  # kernels of a model
NO_GPU = "no GPU: these are the CPU's figures"
Ask = Callable[..., dict]


def run(options: argparse.Namespace) -> list[Row]:
    """The rows of the benchmark `gpu`.

    Raises:
        UserError: there is no GPU, without `options.quick`.
    """
    ask = partial(ask_process, until=time.monotonic() + SECONDS)
    device = ask(what="device")
    gpu = device["platform"] == "gpu"
    if not gpu and not options.quick:
        raise UserError(
            "JAX finds no GPU, and a CPU would take days. Check nvidia-smi and that jax[cuda12] is installed, or use --quick."
        )
    if not gpu:
        print(NO_GPU, file=sys.stderr)
    note = f"the first, {device['kind']}, is measured" if gpu else NO_GPU
    counted = Row("GPUs", device["count"] if gpu else 0, note=note)
    return [counted, *figures(ask, MODELS[options.quick], SPEED[options.quick], gpu)]


def figures(ask: Ask, models: dict[str, dict], speed: dict, gpu: bool) -> list[Row]:
    """The rows of the models. What fails is a row too, so that the rest is not lost.

    Args:
        ask: `ask_process` with a time limit.
        models: the overrides of each config.
        speed: further arguments of `gpu_steps.speed`.
        gpu: whether there is one. Then work on the CPU gives way to what is timed, and the FLOP/s have an aim.
    """
    failed, rows, named = [], [], [{"config": name, "overrides": changes} for name, changes in models.items()]
    with ThreadPoolExecutor() as pool:
        compare = partial(pool.submit, attempt, failed, ask, what="losses", images=IMAGES, steps=STEPS)
        by_cpu = [compare(**each, precisions=["float32"], polite=gpu, JAX_PLATFORMS="cpu") for each in named]
        for each in named:  # one at a time, because they are timed
            images = load_config(each["config"]).override(each["overrides"]).pretrain.batch
            if found := attempt(failed, ask, what="speed", images=images, **each, **speed):
                rows += speed_rows(each["config"], images, found, AIM if gpu else None)
        by_device = [compare(**each, precisions=list(AIMS)) for each in named]
        for each, expected, losses in zip(named, by_cpu, by_device, strict=True):
            if expected.result() and losses.result():
                rows += loss_rows(each["config"], expected.result()["float32"], losses.result())
    return [*rows, Row("measurements that failed", len(failed), aim=0, note="; ".join(failed))]


def ask_process(until: float, JAX_PLATFORMS: str = "", **request) -> dict:
    """Have `gpu_steps` measure something in another process, which ends at the time `until` at the latest."""
    return in_process("gpu_steps", request, timeout=max(1.0, until - time.monotonic()), JAX_PLATFORMS=JAX_PLATFORMS)


def attempt(failed: list[str], ask: Ask, **request) -> dict | None:
    """The answer to a request, or None after an error, which is added to `failed` and printed."""
    try:
        return ask(**request)
    except UserError as error:
        where = " on the CPU" if request.get("JAX_PLATFORMS") else ""
        failed.append(f"{request['what']} of {request['config']}{where}: {error}")
        print(f"warning: {failed[-1]}", file=sys.stderr)


def speed_rows(name: str, images: int, found: dict, aim: float | None) -> list[Row]:
    """The rows of an answer of `gpu_steps.speed`. `aim` is for the fraction of the rate of matrix products."""
    rates = found["rates"]
    fractions = [step / product for step, product in zip(rates["step"], rates["products"], strict=True)]
    step, product = (statistics.median(rates[kind]) / 1e12 for kind in ("step", "products"))
    range_ = f"{min(fractions):.3g} to {max(fractions):.3g} in {len(fractions)} rounds"
    rows = [
        Row(f"{name}: throughput", images / found["step_seconds"], "images/s",
            note=f"batch {images}, bfloat16, {found['step_seconds'] * 1e3:.4g} ms a step, without input"),
        Row(f"{name}: FLOP/s of a step / of bfloat16 matrix products", statistics.median(fractions), "x", aim, high=True,
            note=f"{step:.4g} / {product:.4g} TFLOP/s; {range_}"),
        Row(f"{name}: memory of a step as compiled", found["planned_bytes"] / 2**30, "GiB",
            note=f"compiled in {found['compile_seconds']:.0f} s"),
    ]  # fmt: skip
    if found["peak_bytes"] is not None:
        rows.append(Row(f"{name}: peak memory in use", found["peak_bytes"] / 2**30, "GiB"))
    kernels = found["kernels"]
    total = sum(kernel["seconds"] for kernel in kernels)
    rows.append(Row(f"{name}: time in kernels / time of a step", total / found["step_seconds"], "x",
                    note=f"{len(kernels)} kinds; time in kernels is from a profile"))  # fmt: skip
    for kernel in kernels[:SHOWN]:
        note = f"{kernel['seconds'] * 1e3:.3g} ms in {kernel['calls']:.4g} calls a step"
        rows.append(Row(f"{name}: kernel {kernel['name']}", kernel["seconds"] / total, "of the time in kernels", note=note))
    return rows


def loss_rows(name: str, expected: list[list[float]], found: dict[str, list[list[float]]]) -> list[Row]:
    """The rows that compare answers of `gpu_steps.losses` with the CPU's in float32."""
    rows, cpu = [], " ".join(f"{loss:.5g}" for loss, _ in expected)
    for precision, values in found.items():
        pairs = [pair for one, other in zip(values, expected, strict=True) for pair in zip(one, other, strict=True)]
        losses = " ".join(f"{loss:.5g}" for loss, _ in values)
        rows.append(
            Row(f"{name}: {precision} losses and gradient norms against the CPU's in float32",
                max(abs(value / reference - 1) for value, reference in pairs), "", AIMS[precision],
                note=f"the largest relative difference in {STEPS} steps of {IMAGES} images; losses {losses}, CPU's {cpu}")
        )  # fmt: skip
    return rows
