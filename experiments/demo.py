"""The whole story on handwritten digits, in minutes on two cores: `make demo`.

Pre-trains a model, fine-tunes it with 1, 10 and 20% of the labels, compares it with training from scratch, exports a
classifier and classifies an image. Every step is a command that you can type yourself. Run the demo again to resume it.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.commands import ROOT, command, run, run_script

RUNS = Path("runs/demo")
FRACTIONS = (0.01, 0.1, 0.2)


def main() -> None:
    """Run the demo and print its table."""
    from pf_keras.data.digits import open_digits

    heading("Pre-train on the digits, without labels")
    pretrained = command("--mode=pretrain", f"--workdir={RUNS}/pretrain")
    rows = []
    for fraction in FRACTIONS:
        heading(f"Train a classifier with {fraction:.0%} of the labels: from the pre-trained weights, and from scratch")

        def finetune(name, init, fraction=fraction):
            flags = (f"--init={init}", f"--label_fraction={fraction}", f"--workdir={RUNS}/{name}-{fraction}")
            return command("--mode=finetune", *flags, label=f"{name}-{fraction}")

        with ThreadPoolExecutor() as pool:  # two at a time, because starting and tracing use one core each
            first, second = pool.map(finetune, ("pretrained", "scratch"), (f"{RUNS}/pretrain", "scratch"))
        rows.append(f"| {fraction:.0%} ({first['labels']}) | {first['top1']:.1%} | {second['top1']:.1%} |")
    heading(f"Export the pre-trained classifier with {FRACTIONS[-1]:.0%} of the labels")
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
    print(f"pictures:  {RUNS}/pretrain/figures/reconstruction.png and loss.png")
    print(f"runs:      {RUNS}/ (config, metrics, checkpoints and result of each)")
    print(f"exported:  {exported['saved_model']}, {exported['keras']}, {exported['model_card']}")


def heading(text: str) -> None:
    """Print what the next command does."""
    print(f"\n# {text}", flush=True)


if __name__ == "__main__":
    run_script(main)
