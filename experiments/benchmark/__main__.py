"""How fast pf_keras is on this machine, as ratios within one run.

    python -m experiments.benchmark input   [--images=FOLDER]    the input pipeline against decoding alone
    python -m experiments.benchmark step    [--size=paper]       parts of a training step, fit against a bare loop
    python -m experiments.benchmark start                        the time to --help, and to the first step
    python -m experiments.benchmark growth  [--quick]            time and memory over image size, mask, batch and depth
    python -m experiments.benchmark peer    --mae=CLONE          FLOP/s against facebookresearch/mae (needs PyTorch)
    python -m experiments.benchmark guard                        ratios that must hold, in a few minutes; exits with 1 if not

Each prints a table and writes it as JSON to runs/benchmark/NAME.json (--output). Alternatives take turns, so that work
beside this one slows all of them, and a ratio is the median over the turns; the points of growth are measured one after
the other, each in a process of its own. PERFORMANCE.md has the results.
"""

import argparse
import importlib
import sys

from experiments.benchmark.models import BATCH
from experiments.benchmark.report import write
from pf_keras.errors import UserError

FLAGS = {
    "images": {"default": "", "help": "a folder of photographs; default: cut from scikit-learn's two"},
    "size": {"choices": BATCH, "default": "small", "help": "of the model"},
    "batch": {"type": int, "help": "images a step; default: what a CPU does in seconds"},
    "quick": {"action": "store_true", "help": "fewer turns, of growth fewer points"},
    "mae": {"default": "", "help": "a clone of facebookresearch/mae"},
    "mae_python": {"default": "", "help": "a Python with torch, torchvision and timm"},
}
BENCHMARKS = {
    "input": ("images", "quick"),
    "step": ("size", "batch", "quick"),
    "start": ("quick",),
    "growth": ("quick",),
    "peer": ("size", "batch", "mae", "mae_python"),
    "guard": ("images",),
}


def main(arguments):
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark", description=__doc__, formatter_class=layout)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="|".join(BENCHMARKS))
    for name, flags in BENCHMARKS.items():
        benchmark = benchmarks.add_parser(name)
        benchmark.add_argument("--output", default=f"runs/benchmark/{name}.json", help="where the JSON goes")
        for flag in flags:
            benchmark.add_argument(f"--{flag}", **FLAGS[flag])
    options = parser.parse_args(arguments)
    if "batch" in options:
        options.batch = options.batch or BATCH[options.size]
    import keras  # after pf_keras, which says what TensorFlow is to use as it loads

    try:
        if keras.backend.backend() != "tensorflow":
            raise UserError(f"expected KERAS_BACKEND=tensorflow, received {keras.backend.backend()}: unset it")
        rows = importlib.import_module(f"experiments.benchmark.{options.benchmark}").run(options)
        write(options.benchmark, rows, options.output)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if any(row.reached is False for row in rows) and options.benchmark == "guard" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
