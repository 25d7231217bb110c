"""Compares our training step with facebookresearch/mae's at equal FLOPs, in floating-point operations per second.

    python -m experiments.benchmark peer --mae=CLONE [--mae_python=PYTHON] [--size=small|middle|paper]

CLONE is a clone of that repository, whose code runs unchanged. PYTHON is an interpreter with torch, torchvision and timm. Both
run whole training steps with AdamW in float32 on all cores, in turns, each in its own process. Ours computes one part of the
batch on each core, where the cores divide the batch (`run.parallel_parts`). At paper size MAE is its ViT-L.
At other sizes it is a ViT of our width, with as many blocks as equal FLOPs need.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.benchmark.measuring import Row, ratio, spread, take_turns
from experiments.benchmark.models import bare_loop, compiled_pretrainer, config_of, random_batch
from experiments.commands import ROOT
from pf_keras.errors import UserError
from pf_keras.processes import cores
from pf_keras.tpu.flops import pretrain_flops
from pf_keras.training.devices import open_devices

STEPS, ROUNDS = {"small": 10, "middle": 3, "paper": 1}, 7


def run(options: argparse.Namespace) -> list[Row]:
    """The rows of the benchmark `peer`.

    Raises:
        UserError: there is no clone, MAE does not run, or this machine computes on something else than a CPU.
    """
    if not (Path(options.mae) / "models_mae.py").is_file():
        raise UserError(f"--mae={options.mae} is not a clone of facebookresearch/mae. Clone that repository first.")
    config, images, steps = config_of(options.size), options.batch, STEPS[options.size]
    parts = 1 if images % cores() else cores()
    devices = open_devices("float32", parallel_parts=parts)
    if devices.kind != "cpu":
        raise UserError(f"MAE runs on the CPU here, but our step would run on a {devices.kind}. Hide it: CUDA_VISIBLE_DEVICES=")
    model = compiled_pretrainer(config, devices)
    ours = bare_loop(model, devices, random_batch(config, images), steps)
    flops = pretrain_flops(config) * images
    request = {name: getattr(config.model, name) for name in ("image_size", "patch_size", "width", "heads")}
    request |= {"clone": str(Path(options.mae).resolve()), "paper": options.size == "paper", "images": images, "flops": flops}
    with mae_process(options.mae_python or sys.executable, request) as ask:
        mae = ask()
        seconds = take_turns({"ours": ours, "mae": lambda: ask(f"{steps}\n")["seconds"]}, ROUNDS)
    rates = [step * steps / statistics.median(seconds[name]) for name, step in (("ours", flops), ("mae", mae["flops"]))]
    note = f"{options.size}, batch {images}, {parts} parts: {rates[0] / 1e9:.0f} / {rates[1] / 1e9:.0f} GFLOP/s; "
    size = f"MAE: width {mae['width']}, {mae['depth']} blocks, {mae['parameters'] / 1e6:.1f}M parameters, torch {mae['torch']}"
    return [
        Row("our FLOP/s / MAE's", flops / mae["flops"] * ratio(seconds, "mae", "ours"), "x", 1.0, high=True,
            note=note + f"times {spread(seconds, 'ours', 'mae')}"),
        Row("our FLOPs of a step / MAE's", flops / mae["flops"], "x", note=size),
    ]  # fmt: skip


@contextlib.contextmanager
def mae_process(python: str, request: dict) -> Iterator[Callable[..., dict]]:
    """Start `mae_steps` with `request`. Gives a function that sends a line, or nothing, and returns the next answer."""
    line, pipe = [python, "-m", "experiments.benchmark.mae_steps", json.dumps(request)], subprocess.PIPE
    with subprocess.Popen(line, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=sys.stderr, text=True) as process:

        def ask(text=""):
            process.stdin.write(text)
            process.stdin.flush()
            if found := process.stdout.readline():
                return json.loads(found)
            raise UserError("MAE failed, see above. Use --mae_python=PYTHON, a Python with torch, torchvision and timm.")

        yield ask
