"""Compares our training step with facebookresearch/mae's at equal FLOPs, in floating-point operations per second.

    python -m experiments.benchmark peer --mae=CLONE [--mae_python=PYTHON] [--size=small|middle|paper]

CLONE is a clone of that repository, whose code runs unchanged. PYTHON is an interpreter with torch, torchvision and timm. Both
run whole training steps with AdamW in float32 on all cores, in turns, each in its own process. At paper size MAE is its ViT-L.
At other sizes it is a ViT of our width, with as many blocks as equal FLOPs need.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.benchmark.models import bare_loop, compiled_pretrainer, config_of, random_batch
from experiments.benchmark.report import Row
from experiments.benchmark.turns import spread, take_turns
from experiments.commands import ROOT
from pf_keras.config import Config
from pf_keras.errors import UserError

STEPS, ROUNDS = {"small": 10, "middle": 3, "paper": 1}, 7


def run(options: argparse.Namespace) -> list[Row]:
    """The rows of the benchmark `peer`.

    Raises:
        UserError: there is no clone, MAE does not run, or this machine computes on something else than a CPU.
    """
    from pf_keras.tpu.flops import pretrain_flops
    from pf_keras.training.devices import open_devices

    if not (Path(options.mae) / "models_mae.py").is_file():
        raise UserError(f"--mae={options.mae} is not a clone of facebookresearch/mae. Clone that repository first.")
    config, images, steps = config_of(options.size), options.batch, STEPS[options.size]
    devices = open_devices("float32")
    if devices.kind != "cpu":
        raise UserError(f"MAE runs on the CPU here, but our step would run on a {devices.kind}. Hide it: CUDA_VISIBLE_DEVICES=")
    model = compiled_pretrainer(config, devices)
    ours = bare_loop(model, devices, random_batch(config, images), steps)
    flops = pretrain_flops(config) * images
    with Peer(options, config, images, flops) as peer:
        seconds = take_turns({"ours": ours, "mae": lambda: peer.run(steps)}, ROUNDS)
    rates = {name: step * steps / statistics.median(seconds[name]) for name, step in (("ours", flops), ("mae", peer.flops))}
    quotient = statistics.median(
        (flops / ours) / (peer.flops / mae) for ours, mae in zip(seconds["ours"], seconds["mae"], strict=True)
    )
    note = f"{options.size}, batch {images}: {rates['ours'] / 1e9:.0f} / {rates['mae'] / 1e9:.0f} GFLOP/s; "
    note += f"times {spread(seconds, 'ours', 'mae')}"
    size = f"MAE: width {peer.width}, {peer.depth} blocks, {peer.parameters / 1e6:.1f}M parameters, torch {peer.torch}"
    return [
        Row("our FLOP/s / MAE's", quotient, "x", 1.0, high=True, note=note),
        Row("our FLOPs of a step / MAE's", flops / peer.flops, "x", note=size),
    ]


class Peer:
    """MAE in its own process. A context manager, with the attributes `flops`, `depth`, `width`, `parameters` and `torch`.

    Args:
        options: the options of the command line.
        config: the config of our model.
        images: the images of a step.
        flops: the FLOPs of our step.
    """

    def __init__(self, options: argparse.Namespace, config: Config, images: int, flops: float):
        self.python = options.mae_python or sys.executable
        self.request = {
            "clone": str(Path(options.mae).resolve()),
            "paper": options.size == "paper",
            "image_size": config.model.image_size,
            "patch_size": config.model.patch_size,
            "width": config.model.width,
            "heads": config.model.heads,
            "images": images,
            "flops": flops,
        }

    def __enter__(self) -> "Peer":
        line = [self.python, "-m", "experiments.benchmark.mae_steps", json.dumps(self.request)]
        self.errors, pipe = tempfile.TemporaryFile("w+"), subprocess.PIPE
        self.process = subprocess.Popen(line, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=self.errors, text=True)
        for name, value in self._answer().items():
            setattr(self, name, value)
        return self

    def __exit__(self, *error) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()

    def run(self, steps: int) -> float:
        """Run so many steps. Returns the seconds."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            last = (self.errors.read().strip().splitlines() or ["no message"])[-1]
            raise UserError(f"MAE failed: {last}. Use --mae_python=PYTHON, a Python with torch, torchvision and timm.")
        return json.loads(line)
