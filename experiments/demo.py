"""The whole story on handwritten digits, in minutes on two cores: `make demo`.

Pre-trains a model without labels and watches what it learns, fine-tunes it with 1 and 10% of the labels beside training from
scratch, asks it and looks at its mistakes, exports it and classifies an image. Every step is a command that you can type
yourself. Run the demo again to resume it.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.commands import ROOT, command, run, run_script

RUNS = Path("runs/demo")
FRACTIONS = (0.01, 0.1)


def main() -> None:
    """Run the demo and print its table."""
    from pf_keras.data.digits import open_digits
    from pf_keras.report import write_report

    heading("Pre-train on the digits, without labels. Two probes watch: knn_top1 and linear_top1 should rise")
    pretrained = command("--mode=pretrain", "--config.pretrain.probe_every=200", f"--workdir={RUNS}/pretrain")
    rows = []
    for fraction in FRACTIONS:
        heading(f"Train a classifier with {fraction:.0%} of the labels: from the pre-trained weights, and from scratch")

        def finetune(name, init, fraction=fraction):
            flags = (f"--init={init}", f"--label_fraction={fraction}", f"--workdir={RUNS}/{name}-{fraction}")
            return command("--mode=finetune", *flags, label=f"{name}-{fraction}")

        with ThreadPoolExecutor() as pool:  # two at a time, because starting and tracing use one core each
            first, second = pool.map(finetune, ("pretrained", "scratch"), (f"{RUNS}/pretrain", "scratch"))
        rows.append(f"| {fraction:.0%} ({first['labels']}) | {first['top1']:.1%} | {second['top1']:.1%} |")
    heading(f"Ask the pre-trained classifier with {FRACTIONS[-1]:.0%} of the labels about the validation digits")
    command("--mode=predict", f"--workdir={RUNS}/pretrained-{FRACTIONS[-1]}")
    heading("Export it")
    exported = command("--mode=export", f"--workdir={RUNS}/pretrained-{FRACTIONS[-1]}")
    heading("Classify a digit that no training has seen")
    picture = RUNS / "a-validation-digit.png"
    (ROOT / picture).write_bytes(open_digits()[1].values[0])
    run("experiments/classify.py", exported["saved_model"], str(picture))

    heading("Does pre-training help?")
    print(f"\nDecoding masked patches of held-out digits has a loss of {pretrained['loss']:.3f}. Guessing each grey level from")
    print(f"its frequency alone has {1 / pretrained['loss_ratio']:.1f} times that loss.\n")
    print("| labels | from pre-trained | from scratch |\n|---|---|---|", *rows, sep="\n")
    print(f"\nTop-1 accuracy on {first['images']} held-out digits, one seed.\n")
    print(f"exported:  {exported['saved_model']}, {exported['keras']}, {exported['model_card']}")
    print(f"runs:      {RUNS}/ (config, metrics, checkpoints, pictures and a report of each)")
    print("reports, to open in a browser:")
    print(f"  {RUNS}/pretrain/report.html: how it learned without labels, and what it decodes")
    print(f"  {RUNS}/pretrained-{FRACTIONS[-1]}/report.html: what it answers, and its mistakes")
    write_report(ROOT / RUNS)
    print(f"  {RUNS}/report.html: all runs together")


def heading(text: str) -> None:
    """Print what the next command does."""
    print(f"\n# {text}", flush=True)


if __name__ == "__main__":
    run_script(main)
