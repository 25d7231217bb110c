"""Measure the speed of pf_keras on this machine, as ratios within one run.

    python -m experiments.benchmark input   [--images=FOLDER]    the input pipeline against decoding alone
    python -m experiments.benchmark formats                      WebP, TIFF and rotated or large JPEGs against plain ones
    python -m experiments.benchmark step    [--size=paper]       the parts of a training step, and fit against a bare loop
    python -m experiments.benchmark cores                        pre-training on one core and on all
    python -m experiments.benchmark answers [--size=middle]      predict and embed against a bare forward pass
    python -m experiments.benchmark start                        the time to --help, and to the end of the first step
    python -m experiments.benchmark growth  [--quick]            time and memory over image size, mask ratio, batch and depth
    python -m experiments.benchmark peer    --mae=CLONE          FLOP/s against facebookresearch/mae (needs PyTorch)
    python -m experiments.benchmark gpu     [--quick]            pre-training on a GPU under JAX, in 8 minutes
    python -m experiments.benchmark guard                        checks that ratios hold, in minutes; exit code 1 if not

Each prints a table and writes it as JSON to runs/benchmark/NAME.json (--output). Alternatives take turns, so that other work
on the machine slows all of them, and a ratio is the median over the turns. growth measures its points one after another,
each in its own process. docs/performance.md has the results.
"""

import argparse
import importlib
import sys

from experiments.benchmark.measuring import Row, write
from pf_keras.cli import fail
from pf_keras.errors import UserError
from pf_keras.quiet import native_output_diverted

BATCH = {"small": 128, "middle": 16, "paper": 2}  # a CPU needs tenths of a second to seconds for a step
FLAGS = {
    "images": {"default": "", "help": "a folder of photographs; default: cut from scikit-learn's two photographs"},
    "size": {"choices": BATCH, "default": "small", "help": "the size of the model"},
    "batch": {"type": int, "help": "images per step; default: what a CPU does in seconds"},
    "quick": {"action": "store_true", "help": "fewer turns, for growth fewer points, for gpu a tiny model"},
    "mae": {"default": "", "help": "a clone of facebookresearch/mae"},
    "mae_python": {"default": "", "help": "a Python with torch, torchvision and timm"},
}
BENCHMARKS = {
    "input": ("images", "quick"),
    "formats": ("quick",),
    "step": ("size", "batch", "quick"),
    "cores": ("quick",),
    "answers": ("size", "images", "quick"),
    "start": ("quick",),
    "growth": ("quick",),
    "peer": ("size", "batch", "mae", "mae_python"),
    "gpu": ("quick",),
    "guard": ("images",),
}


def main(arguments: list[str]) -> int:
    """Run a benchmark. Returns the exit code: 1 if the guard misses an aim, 2 after a user's mistake."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.benchmark", description=__doc__, formatter_class=layout)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="|".join(BENCHMARKS))
    for name, flags in BENCHMARKS.items():
        benchmark = benchmarks.add_parser(name)
        benchmark.add_argument("--output", default=f"runs/benchmark/{name}.json", help="the JSON file to write")
        for flag in flags:
            benchmark.add_argument(f"--{flag}", **FLAGS[flag])
    options = parser.parse_args(arguments)
    if "batch" in options:
        options.batch = options.batch or BATCH[options.size]
    try:
        with native_output_diverted():
            if options.benchmark != "gpu":  # which starts processes under JAX, where TensorFlow may be missing
                check_backend()
            rows = guard(options) if options.benchmark == "guard" else run(options.benchmark, options)
        write(options.benchmark, rows, options.output)
    except UserError as error:
        return fail(error)
    return 1 if options.benchmark == "guard" and any(row.reached is False for row in rows) else 0


def check_backend() -> None:
    """Raises UserError where Keras runs on something else than TensorFlow."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise UserError(f"KERAS_BACKEND is {keras.backend.backend()}, but this benchmark needs tensorflow. Unset it.")


def run(name: str, options: argparse.Namespace) -> list[Row]:
    """The rows of a benchmark."""
    return importlib.import_module(f"experiments.benchmark.{name}").run(options)


def guard(options: argparse.Namespace) -> list[Row]:
    """The rows with an aim of a quick `input`, `step` (small size) and `start`."""
    quick = argparse.Namespace(images=options.images, size="small", batch=BATCH["small"], quick=True)
    return [row for name in ("input", "step", "start") for row in run(name, quick) if row.aim is not None]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
