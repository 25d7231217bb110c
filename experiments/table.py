"""Does pre-training pay? Makes one table for a dataset with the commands that a user would type.

    python -m experiments.table --config=cifar10 --data=folder:CIFAR --runs=runs/cifar10

1. Pre-trains.
2. For each fraction of the labels, sweeps the config's grid from the pre-trained weights and from scratch, with equal
   training. Grid points are compared on held-out labelled images. The winners run with every seed.
3. Probes the frozen features with the same fractions.
4. Trains from scratch with all labels, with the learning rate and batch size that won from scratch with the last fraction.
   --ceiling_epochs=0 skips this.

Writes RUNS/table.md, RUNS/curves.png and RUNS/report.html. Run it again to resume. Flags that it does not know, such as
--config.sweep.batches="(32,64)", go to every command that starts a run.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.commands import ROOT, command, probes, run_script, script_parser, side_by_side
from pf_keras.figures import new_figure, save_figure
from pf_keras.report import write_report
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.workdir import Workdir


def main(arguments: list[str]) -> None:
    """Run the commands, and write and print the table."""
    parser = script_parser("experiments.table", __doc__, seeds="0,1,2")
    parser.add_argument("--fractions", default="0.01,0.1,0.2", help="the fractions of the labels")
    parser.add_argument("--epochs", default="60,20,20", help="the epochs of fine-tuning, one number for each fraction")
    parser.add_argument("--ceiling_epochs", type=int, default=20, help="the epochs of training from scratch with all labels")
    options, rest = parser.parse_known_args(arguments)
    fractions, epochs = options.fractions.split(","), options.epochs.split(",")
    if len(fractions) != len(epochs):
        parser.error(f"--epochs has {len(epochs)} values for {len(fractions)} --fractions. Give one value for each fraction.")
    runs, start = options.runs, (f"--config={options.config}", f"--data={options.data}", *rest)

    pretrained = command("--mode=pretrain", *start, f"--workdir={runs}/pretrain")

    def sweep(fraction, count):
        flags = (*start, f"--init={runs}/pretrain", f"--label_fraction={fraction}", f"--seeds={options.seeds}")
        return command("--mode=sweep", f"--config.finetune.epochs={count}", *flags, f"--workdir={runs}/sweep-{fraction}")

    with side_by_side(options.at_once) as pool:
        swept = pool.map(sweep, fractions, epochs)
        probed = pool.submit(probes, f"{runs}/pretrain", options.fractions, pretrained["steps"])
        sweeps, probed = dict(zip(fractions, swept, strict=True)), probed.result()
    ceiling, best = None, sweeps[fractions[-1]]
    if options.ceiling_epochs:
        ceiling = command(
            "--mode=finetune", f"--config.finetune.epochs={options.ceiling_epochs}", *start, "--init=scratch",
            f"--workdir={runs}/all-labels", f"--config.finetune.batch={best['scratch_batch']}",
            f"--config.finetune.learning_rate={best['scratch_learning_rate']}",
        )  # fmt: skip
    lines = table(fractions, sweeps, probed, ceiling)
    (ROOT / runs / "table.md").write_text("\n".join(lines) + "\n")
    draw_curves(ROOT / runs, fractions, ROOT / runs / "curves.png")
    write_report(ROOT / runs)
    print("", *lines, "", f"{runs}/table.md, {runs}/curves.png, {runs}/report.html", sep="\n")


def table(fractions: Sequence[str], sweeps: dict[str, dict], probed: dict, ceiling: dict | None) -> list[str]:
    """The lines of the table.

    Args:
        fractions: the fractions of the labels, as text.
        sweeps: the result of the sweep for each fraction.
        probed: the result of the probes.
        ceiling: the result of training with all labels, or None.
    """
    from pf_keras.tasks.sweep import mean_and_sd

    lines = ["| labels | from scratch | pre-trained, fine-tuned | gain | pre-trained, linear probe | kNN |", "|---" * 6 + "|"]
    seeds = sweeps[fractions[0]]["seeds"]
    notes = [f"Top-1 on {probed['images']} validation images, mean ± standard deviation over {seeds} seeds."]
    for fraction in fractions:
        found, number = sweeps[fraction], float(fraction)
        scratch, pretrained = (mean_and_sd(found, f"{start}_top1") for start in ("scratch", "pretrained"))
        gain = 100 * (found["pretrained_top1_mean"] - found["scratch_top1_mean"])
        linear, knn = (f"{probed[f'pretrained_{probe}_{number:g}']:.1%}" for probe in ("linear", "knn"))
        lines.append(f"| {number:.0%} ({found['labels']}) | {scratch} | {pretrained} | {gain:+.1f} | {linear} | {knn} |")
        for start, name in (("scratch", "from scratch"), ("pretrained", "pre-trained")):
            if diverged := found[f"{start}_diverged"]:
                notes.append(f"{number:.0%} of the labels, {name}: {diverged} of the seeds diverged and count as 0.")
    if ceiling:
        notes.append(f"All {ceiling['labels']} labels from scratch, {ceiling['steps']} steps: {ceiling['top1']:.1%}")
    return lines + [line for note in notes for line in ("", note)]


def draw_curves(runs: Path, fractions: Sequence[str], path: Path) -> None:
    """Draw the winners' training accuracy over the steps: a panel for each fraction of the labels, a line for each seed."""
    figure, panels = new_figure(1, len(fractions), 4.5 * len(fractions), 3.4)
    panels = np.atleast_1d(panels)
    for panel, fraction in zip(panels, fractions, strict=True):
        for start, colour in (("pretrained", "tab:blue"), ("scratch", "tab:orange")):
            for number, seed in enumerate(sorted((runs / f"sweep-{fraction}" / "final" / start).glob("seed-*"))):
                lines = MetricsLog(Workdir(seed)).lines()
                steps, accuracy = [line["step"] for line in lines], [line["accuracy"] for line in lines]
                panel.plot(steps, accuracy, color=colour, alpha=0.7, label=None if number else start)
        panel.set(title=f"{float(fraction):.0%} of the labels", xlabel="step")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("training accuracy")
    panels[0].legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run_script(lambda: main(sys.argv[1:]))
