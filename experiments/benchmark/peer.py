"""A step of ours against one of facebookresearch/mae at equal FLOPs: floating-point operations a second of both.

    python -m experiments.benchmark peer --mae=CLONE [--mae_python=PYTHON] [--size=small|middle|paper]

CLONE is a clone of that repository, whose code runs as it is; PYTHON is an interpreter with torch, torchvision and timm.
Both do whole training steps with AdamW in float32 on all cores, by turns, each in a process that waits meanwhile.
At paper size MAE is its ViT-L, else a ViT of our width that is as deep as equal FLOPs take.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from experiments.benchmark.models import bare_loop, compiled_pretrainer, config_of, random_batch
from experiments.benchmark.report import Row
from experiments.benchmark.turns import spread, take_turns
from experiments.commands import ROOT
from pf_keras.errors import UserError

STEPS, ROUNDS = {"small": 10, "middle": 3, "paper": 1}, 7


def run(options):
    """Rows of the benchmark `peer`."""
    from pf_keras.tpu.flops import pretrain_flops
    from pf_keras.training.strategy import open_devices

    if not (Path(options.mae) / "models_mae.py").is_file():
        raise UserError(f"expected --mae to be a clone of facebookresearch/mae, received {options.mae!r}: clone it first")
    config, images, steps = config_of(options.size), options.batch, STEPS[options.size]
    devices = open_devices("float32")
    if devices.kind != "cpu":
        raise UserError(f"expected a CPU, on which MAE runs here, received a {devices.kind}: hide it, CUDA_VISIBLE_DEVICES=")
    model = compiled_pretrainer(config, devices)
    ours = bare_loop(model, devices, random_batch(config, images), steps)
    flops = pretrain_flops(config) * images
    with Peer(options, config, images, flops) as peer:
        seconds = take_turns({"ours": ours, "mae": lambda: peer.run(steps)}, ROUNDS)
    rates = {name: flops_ * steps / statistics.median(seconds[name])
             for name, flops_ in (("ours", flops), ("mae", peer.flops))}  # fmt: skip
    share = statistics.median(
        (flops / ours) / (peer.flops / mae) for ours, mae in zip(seconds["ours"], seconds["mae"], strict=True)
    )
    note = f"{options.size}, batch {images}: {rates['ours'] / 1e9:.0f} / {rates['mae'] / 1e9:.0f} GFLOP/s; "
    note += f"times {spread(seconds, 'ours', 'mae')}"
    size = f"MAE: width {peer.width}, {peer.depth} blocks, {peer.parameters / 1e6:.1f}M parameters, torch {peer.torch}"
    return [
        Row("FLOP/s of ours / of MAE's", share, "x", 1.0, high=True, note=note),
        Row("FLOPs of a step, ours / MAE's", flops / peer.flops, "x", note=size),
    ]


class Peer:
    """MAE in a process of its own, which does steps when told to."""

    def __init__(self, options, config, images, flops):
        self.options, self.request = options, {
            "clone": str(Path(options.mae).resolve()),
            "paper": options.size == "paper",
            "image_size": config.model.image_size,
            "patch_size": config.model.patch_size,
            "width": config.model.width,
            "heads": config.model.heads,
            "images": images,
            "flops": flops,
        }  # fmt: skip

    def __enter__(self):
        python = self.options.mae_python or sys.executable
        line = [python, "-m", "experiments.benchmark.mae_steps", json.dumps(self.request)]
        self.process = subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name, value in self._answer().items():
            setattr(self, name, value)
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.wait()

    def run(self, steps):
        """Do so many steps; returns the seconds."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise UserError("expected MAE to run, received the error above: give --mae_python torch, torchvision and timm")
        return json.loads(line)
