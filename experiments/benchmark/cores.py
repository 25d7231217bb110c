"""How well pre-training uses the cores of a CPU.

Compares images/s, with the input, on one core and on all, and FLOP/s with the rate at which all cores multiply matrices. The
images are made up, as large as those of the config. Each alternative runs in its own process, in turns.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from experiments.benchmark.measuring import Row, ratio, spread, take_turns
from experiments.commands import ROOT
from pf_keras.config import load_config
from pf_keras.errors import UserError
from pf_keras.processes import cores

CONFIGS = {"cifar10": (32, "png"), "imagenette64": (96, "jpg")}  # the sides and the suffix of their images
IMAGES, STEPS = 2000, 20


def run(options: argparse.Namespace) -> list[Row]:
    """The rows of the benchmark `cores`."""
    if cores() < 2:
        raise UserError("This process may use one core only, so there is nothing to compare.")
    rounds, rows = 3 if options.quick else 7, []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        multiply = products()
        for name, (side, suffix) in CONFIGS.items():
            make_images(Path(folder) / name, side, suffix)
            config = load_config(name)
            requests = {
                "one core": {"count": 1, "parts": 1},
                "all cores, whole batch": {"count": cores(), "parts": 1},
                "all cores": {"count": cores(), "parts": cores()},
                "twice as many parts": {"count": cores(), "parts": 2 * cores()},
            }
            works = {"products": multiply}
            for work, request in requests.items():
                request |= {"config": name, "images": str(Path(folder) / name)}
                works[work] = partial(processes.enter_context(asked(request)), STEPS)
            seconds = take_turns(works, rounds)
            rows += rows_of(name, seconds, config.pretrain.batch * STEPS / statistics.median(seconds["all cores"]))
            whole = dataclasses.replace(config, mask=dataclasses.replace(config.mask, decode_fraction=1.0))
            rows.append(rate_row(name, seconds, whole))
    return rows


def rows_of(name: str, seconds: dict[str, list[float]], images: float) -> list[Row]:
    """The rows that compare numbers of cores and of parts."""
    return [
        Row(f"{name}: all {cores()} cores / one core", ratio(seconds, "one core", "all cores"), "x", 1.85, high=True,
            note=f"{images:.0f} images/s with its input; time {spread(seconds, 'all cores', 'one core')}"),
        Row(f"{name}: {cores()} parts / whole batch, all cores", ratio(seconds, "all cores, whole batch", "all cores"), "x",
            note=spread(seconds, "all cores", "all cores, whole batch")),
        Row(f"{name}: {2 * cores()} parts / {cores()} parts", ratio(seconds, "all cores", "twice as many parts"), "x",
            note=spread(seconds, "twice as many parts", "all cores")),
    ]  # fmt: skip


def rate_row(name: str, seconds: dict[str, list[float]], config) -> Row:
    """The row that compares a step with products of matrices."""
    from pf_keras.tpu.flops import pretrain_flops

    flops = pretrain_flops(config) * config.pretrain.batch * STEPS
    of_products = PRODUCTS * 2 * SIDE**3
    rates = [flops / statistics.median(seconds["all cores"]), of_products / statistics.median(seconds["products"])]
    share = statistics.median(
        flops / step / (of_products / product) for step, product in zip(seconds["all cores"], seconds["products"], strict=True)
    )
    return Row(f"{name}: FLOP/s of a step that decodes all masked patches / of matrix products", share, "", 0.5, high=True,
               note=f"{rates[0] / 1e9:.0f} / {rates[1] / 1e9:.0f} GFLOP/s on all cores")  # fmt: skip


SIDE, PRODUCTS = 2048, 10


def products() -> Callable[[], None]:
    """A function that multiplies large float32 matrices by TensorFlow on all cores."""
    import tensorflow as tf

    matrix = tf.constant(np.random.default_rng(0).standard_normal((SIDE, SIDE), "float32"))

    def multiply():
        for _ in range(PRODUCTS):
            product = tf.matmul(matrix, matrix)
        product.numpy()

    return multiply


def make_images(folder: Path, side: int, suffix: str) -> None:
    """Write made-up images, smooth enough that they are as large as photographs of that size."""
    from PIL import Image

    rng = np.random.default_rng(0)
    place = folder / "train" / "any"
    place.mkdir(parents=True)
    for number in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 4, side // 4, 3), "uint8"))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(place / f"{number:04d}.{suffix}", quality=95)


@contextlib.contextmanager
def asked(request: dict) -> Iterator[Callable[[int], float]]:
    """Start a process that trains as `request` says. Gives a function that has it do so many steps and returns the seconds."""
    line, pipe = [sys.executable, "-m", "experiments.benchmark.cores", json.dumps(request)], subprocess.PIPE
    with subprocess.Popen(line, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:

        def ask(steps: int) -> float:
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
            if answer := process.stdout.readline():
                return float(answer)
            raise UserError(f"The process ended: {' '.join(line)}. Run it to see why.")

        yield ask


def serve(count: int, parts: int, config: str, images: str) -> None:
    """Train on `count` cores with batches of `parts` parts. Reads a number of steps from each line of standard input, does them
    and prints the seconds.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])  # before TensorFlow counts them
    from experiments.benchmark.models import compiled_pretrainer
    from pf_keras.data.pipeline import training_batches
    from pf_keras.data.sources import open_source
    from pf_keras.noise import pretrain_noise
    from pf_keras.training.devices import open_devices

    settings = load_config(config).override({"data.source": f"folder:{images}", "run.parallel_parts": str(parts)})
    devices = open_devices("float32", parallel_parts=parts)
    split = open_source(settings.data).train
    model = compiled_pretrainer(settings, devices)
    model.make_train_function()
    batches = iter(training_batches(split, settings, settings.pretrain.batch, pretrain_noise(settings)))
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            logs = model.train_function(batches)
        float(logs["loss"])
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    serve(**json.loads(sys.argv[1]))
