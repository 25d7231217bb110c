"""Does pre-training pay? One table for a data set, by the commands that a user would type.

    python -m experiments.table --config=experiments/cifar10.py --data=folder:CIFAR --runs=runs/cifar10

1. pre-trains;
2. for each share of the labels sweeps the config's grid, from the pre-trained weights and from scratch under the same
   budget: points are compared on labelled images that are held out, and the winners run with every seed;
3. probes the frozen features with the same shares;
4. trains from scratch with all labels (--ceiling_epochs, 0 leaves it out), at the rate and batch that won from scratch
   with the last share.
The table goes to RUNS/table.md, the curves to RUNS/curves.png.
Started again it goes on where it was stopped. What it does not know, such as --config.sweep.batches="(32,64)", is handed to
every command that begins a run.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from experiments.commands import ROOT, commands, end_together, probes, side_by_side
from pf_keras.figures import new_figure, save_figure
from pf_keras.tasks.sweep import mean_and_sd
from pf_keras.training.workdir import Workdir
from tfrecords.command import positive


def main(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # what is not known goes to the commands, --seed too
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True, type=Path, help="where the runs lie")
    parser.add_argument("--fractions", default="0.01,0.1,0.2", help="the shares of the labels")
    parser.add_argument("--epochs", default="60,20,20", help="epochs of fine-tuning, for each of them")
    parser.add_argument("--ceiling_epochs", type=int, default=20)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--at_once", type=positive, default=1, help="sweeps that run side by side, sharing the cores")
    options, rest = parser.parse_known_args(arguments)
    fractions, epochs = options.fractions.split(","), options.epochs.split(",")
    if len(fractions) != len(epochs):
        parser.error(f"expected as many --epochs as --fractions, received {len(epochs)} for {len(fractions)}")
    start = (f"--config={options.config}", f"--data={options.data}", *rest)

    (pretrained,) = commands(("--mode=pretrain", *start, f"--workdir={options.runs}/pretrain"))

    def sweep(fraction, count):
        (result,) = commands(
            (
                "--mode=sweep", f"--config.finetune.epochs={count}", *start, f"--init={options.runs}/pretrain",
                f"--label_fraction={fraction}", f"--seeds={options.seeds}", f"--workdir={options.runs}/sweep-{fraction}",
            )
        )  # fmt: skip
        return result

    with side_by_side(options.at_once) as pool:
        swept = pool.map(sweep, fractions, epochs)
        probed = pool.submit(probes, f"{options.runs}/pretrain", options.fractions, pretrained["steps"])
        sweeps, probed = dict(zip(fractions, swept, strict=True)), probed.result()
    ceiling = None
    if options.ceiling_epochs:
        best = sweeps[fractions[-1]]
        (ceiling,) = commands(
            (
                "--mode=finetune", f"--config.finetune.epochs={options.ceiling_epochs}", *start, "--init=scratch",
                f"--workdir={options.runs}/all-labels", f"--config.finetune.batch={best['scratch_batch']}",
                f"--config.finetune.learning_rate={best['scratch_learning_rate']}",
            )
        )  # fmt: skip
    lines = table(fractions, sweeps, probed, ceiling)
    (ROOT / options.runs / "table.md").write_text("\n".join(lines) + "\n")
    draw_curves(ROOT / options.runs, fractions, ROOT / options.runs / "curves.png")
    print("\n" + "\n".join(lines) + f"\n\n{options.runs}/table.md, {options.runs}/curves.png")


def table(fractions, sweeps, probed, ceiling):
    """The lines of the table, from the results of the commands."""
    lines = [
        "| labels | from scratch | pre-trained, fine-tuned | gain | pre-trained, linear probe | kNN |",
        "|---|---|---|---|---|---|",
    ]
    for fraction in fractions:
        found, share = sweeps[fraction], f"{float(fraction):g}"
        scratch, pretrained = (mean_and_sd(found, f"{start}_top1") for start in ("scratch", "pretrained"))
        gain = 100 * (found["pretrained_top1_mean"] - found["scratch_top1_mean"])
        linear, knn = (probed[f"pretrained_{probe}_{share}"] for probe in ("linear", "knn"))
        lines.append(
            f"| {float(fraction):.0%} ({found['labels']}) | {scratch} | {pretrained} | {gain:+.1f} | {linear:.1%} | {knn:.1%} |"
        )
    seeds = sweeps[fractions[0]]["seeds"]
    lines += ["", f"top-1 on {probed['images']} validation images, mean ± standard deviation of {seeds} seeds"]
    for fraction in fractions:
        for start in ("scratch", "pretrained"):
            if lost := sweeps[fraction][f"{start}_diverged"]:
                lines += ["", f"{lost} of the seeds of {start} with {float(fraction):.0%} diverged and count as 0"]
    if ceiling:
        lines += ["", f"All {ceiling['labels']} labels from scratch, {ceiling['steps']} steps: {ceiling['top1']:.1%}"]
    return lines


def draw_curves(runs, fractions, path):
    """Training accuracy over the steps of the winners, a panel a share of the labels, every seed a line."""
    figure, panels = new_figure(1, len(fractions), 4.5 * len(fractions), 3.4)
    panels = np.atleast_1d(panels)
    for panel, fraction in zip(panels, fractions, strict=True):
        for start, colour in (("pretrained", "tab:blue"), ("scratch", "tab:orange")):
            for number, seed in enumerate(sorted((runs / f"sweep-{fraction}" / "final" / start).glob("seed-*"))):
                lines = Workdir(seed).metrics()
                steps, accuracy = [line["step"] for line in lines], [line["accuracy"] for line in lines]
                panel.plot(steps, accuracy, color=colour, alpha=0.7, label=None if number else start)
        panel.set_title(f"{float(fraction):.0%} of the labels")
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("training accuracy")
    panels[0].legend()
    save_figure(figure, path)


if __name__ == "__main__":
    end_together()
    main(sys.argv[1:])
