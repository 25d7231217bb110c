"""Small ablations: what each choice costs and what it gains, changing one thing at a time.

    python -m experiments.ablations --config=cifar10 --data=folder:CIFAR/train --runs=runs/ablations \\
        --config.data.holdout=0.1 --config.pretrain.steps=1500 --config.pretrain.batch=64

For each row of CHANGES, pre-trains, probes the frozen features, and fine-tunes on a fraction of the labels with every seed.
A row's cost is its FLOPs by formula, forward and backward. Its throughput depends on what else the machine was doing. Give
a folder of training images only, so that scores are on images held out of training and the test images stay unseen. Writes
RUNS/ablations.md. Run it again to resume. Flags that it does not know go to every command that starts a run.
"""

import statistics
import sys
from argparse import Namespace

from experiments.commands import ROOT, command, probes, run_script, script_parser, side_by_side
from pf_keras.training.identity import earlier_run

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


def main(arguments: list[str]) -> None:
    """Measure the rows, and write and print the table."""
    parser = script_parser("experiments.ablations", __doc__, seeds="0,1")
    parser.add_argument("--only", default=",".join(CHANGES), help="the rows to measure, by name")
    parser.add_argument("--label_fraction", default="0.01", help="the fraction of the labels for fine-tuning and probes")
    options, rest = parser.parse_known_args(arguments)
    names = options.only.split(",")
    if unknown := [name for name in names if name not in CHANGES]:
        parser.error(f"--only names rows that do not exist: {', '.join(unknown)}. Use {', '.join(CHANGES)}.")

    lines = [
        f"| change | MFLOPs per image | images/s | loss ratio | fine-tuned, {options.label_fraction} of the labels "
        "| linear probe | kNN | untrained, linear probe |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with side_by_side(options.at_once) as pool:
        for cells in pool.map(lambda name: measure(name, options, rest), names):
            lines.append(f"| {' | '.join(cells)} |")
            (ROOT / options.runs / "ablations.md").write_text("\n".join(lines) + "\n")
    print("", *lines, sep="\n")


def measure(name: str, options: Namespace, rest: list[str]) -> list[str]:
    """Run the commands of a row. Returns its cells."""
    from pf_keras.tpu.flops import pretrain_flops

    folder = options.runs / name.replace(" ", "-").replace("%", "")
    start = (f"--config={options.config}", f"--data={options.data}", *rest, *CHANGES[name])
    pretrained = command("--mode=pretrain", *start, f"--workdir={folder}/pretrain")
    probed = probes(f"{folder}/pretrain", options.label_fraction, pretrained["steps"])
    tuning = ("--mode=finetune", *start, f"--init={folder}/pretrain", f"--label_fraction={options.label_fraction}")
    seeds = options.seeds.split(",")
    scores = [command(*tuning, f"--seed={seed}", f"--workdir={folder}/finetune-{seed}")["top1"] for seed in seeds]
    deviation = f" ± {statistics.stdev(scores):.1%}" if len(scores) > 1 else ""
    _, run = earlier_run(ROOT / folder / "pretrain", "pretrain")
    kinds = ("pretrained_linear", "pretrained_knn", "untrained_linear")
    return [
        name,
        f"{pretrain_flops(run.config) / 1e6:.0f}",
        f"{pretrained['images_per_second']:.0f}",
        "none" if pretrained["loss_ratio"] is None else f"{pretrained['loss_ratio']:.3f}",
        f"{statistics.fmean(scores):.1%}{deviation}",
        *(f"{probed[f'{kind}_{float(options.label_fraction):g}']:.1%}" for kind in kinds),
    ]


if __name__ == "__main__":
    run_script(lambda: main(sys.argv[1:]))
