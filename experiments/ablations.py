"""One change at a time, in small: what each choice costs and brings.

    python -m experiments.ablations --config=experiments/cifar10.py --data=folder:CIFAR/train --runs=runs/ablations \\
        --config.data.holdout=0.1 --config.pretrain.steps=1500 --config.pretrain.batch=64

Each row of CHANGES is pre-trained, its frozen features are probed, and it is fine-tuned on a share of the labels with
every seed. What a row costs is in its FLOPs, by formula, forward and backward; images/s are those of the moment. A folder
of training images alone keeps the test images out of it: scores are on images held out of training. The table goes to
RUNS/ablations.md. Started again it goes on where it was stopped. What it does not know is handed to every command that
begins a run.
"""

import argparse
import statistics
import sys
from pathlib import Path

from experiments.commands import ROOT, commands, end_together, probes, side_by_side
from pf_keras.tpu.flops import pretrain_flops
from pf_keras.training.workdir import Workdir
from tfrecords.command import positive

CHANGES = {
    "as it is": (),
    "masks in blocks": ("--config.mask.block=2",),
    "60% masked": ("--config.mask.ratio=0.6",),
    "40% masked": ("--config.mask.ratio=0.4",),
    "1-bit target": ("--config.target.bits=1",),
    "4-bit target": ("--config.target.bits=4",),
    "8-bit target": ("--config.target.bits=8",),
    "whole patch as target": ("--config.target.size=4",),
    "grey target": ("--config.target.channels=1",),
    "subsampled target": ("--config.target.crop=subsample",),
    "augmentation and jitter on": ("--config.augment.enabled=true", "--config.augment.jitter_size=3"),
    "augmentation without jitter": ("--config.augment.enabled=true", "--config.augment.jitter_size=0"),
    "additive positions": ("--config.model.decode_position=additive",),
    "group norm": ("--config.model.norm=group",),
    "stem cifar": ("--config.model.stem=cifar",),
    "pre-norm": ("--config.model.norm_order=pre_norm",),
}


def main(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ablations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # what is not known goes to the commands, --seed too
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True, type=Path, help="where the runs lie")
    parser.add_argument("--only", default=",".join(CHANGES), help="rows of the table, by name")
    parser.add_argument("--label_fraction", default="0.01")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--at_once", type=positive, default=1, help="rows that run side by side, sharing the cores")
    options, rest = parser.parse_known_args(arguments)
    names = options.only.split(",")
    if unknown := [name for name in names if name not in CHANGES]:
        parser.error(f"expected --only to name rows of the table, received {', '.join(unknown)}: {', '.join(CHANGES)}")

    with side_by_side(options.at_once) as pool:
        rows = {name: pool.submit(measure, name, options, rest) for name in names}
        lines = [
            f"| change | MFLOPs an image | images/s | loss ratio | fine-tuned, {options.label_fraction} of the labels "
            "| linear probe | kNN | untrained, linear probe |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, row in rows.items():
            lines.append(f"| {name} | {row.result()} |")
            (ROOT / options.runs / "ablations.md").write_text("\n".join(lines) + "\n")
    print("\n" + "\n".join(lines))


def measure(name, options, rest):
    """The figures of one row."""
    folder = options.runs / name.replace(" ", "-").replace("%", "")
    start = (f"--config={options.config}", f"--data={options.data}", *rest, *CHANGES[name])
    share = f"{float(options.label_fraction):g}"
    (pretrained,) = commands(("--mode=pretrain", *start, f"--workdir={folder}/pretrain"))
    found = probes(f"{folder}/pretrain", options.label_fraction, pretrained["steps"])
    scores = []
    for seed in options.seeds.split(","):
        (tuned,) = commands(
            (
                "--mode=finetune", *start, f"--init={folder}/pretrain", f"--label_fraction={options.label_fraction}",
                f"--seed={seed}", f"--workdir={folder}/finetune-{seed}",
            )
        )  # fmt: skip
        scores.append(tuned["top1"])
    spread = f" ± {statistics.stdev(scores):.1%}" if len(scores) > 1 else ""
    probed = " | ".join(f"{found[f'{p}_{share}']:.1%}" for p in ("pretrained_linear", "pretrained_knn", "untrained_linear"))
    tuned = f"{statistics.fmean(scores):.1%}{spread}"
    cost = f"{pretrain_flops(Workdir(ROOT / folder / 'pretrain').config()) / 1e6:.0f}"
    rate = f"{pretrained['images_per_second']:.0f}"
    ratio = "none" if pretrained["loss_ratio"] is None else f"{pretrained['loss_ratio']:.3f}"
    return f"{cost} | {rate} | {ratio} | {tuned} | {probed}"


if __name__ == "__main__":
    end_together()
    main(sys.argv[1:])
