"""The whole story on handwritten digits, in minutes on two cores: `make demo`.

Pre-trains a model, fine-tunes it with 1, 10 and 20% of the labels, compares it with training from scratch, exports a
classifier and classifies an image. Every step is a command that you can type yourself. Run the demo again to resume it.
"""

from pathlib import Path

from experiments.commands import ROOT, commands, run_script, start, wait

RUNS = Path("runs/demo")
FRACTIONS = (0.01, 0.1, 0.2)


def main() -> None:
    """Run the demo and print its table."""
    heading("Pre-train on the digits, without labels")
    (pretrained,) = commands(("--mode=pretrain", f"--workdir={RUNS}/pretrain"))
    scores = {}
    for fraction in FRACTIONS:
        heading(f"Train a classifier with {fraction:.0%} of the labels: from the pre-trained weights, and from scratch")
        # Two at a time, because starting and tracing use one core each.
        scores["pretrained", fraction], scores["scratch", fraction] = commands(
            *(
                ("--mode=finetune", f"--init={init}", f"--label_fraction={fraction}", f"--workdir={RUNS}/{start}-{fraction}")
                for start, init in (("pretrained", f"{RUNS}/pretrain"), ("scratch", "scratch"))
            )
        )
    heading(f"Export the pre-trained classifier with {FRACTIONS[-1]:.0%} of the labels")
    (exported,) = commands(("--mode=export", f"--workdir={RUNS}/pretrained-{FRACTIONS[-1]}"))
    heading("Classify a digit that no training has seen")
    picture = save_a_digit(RUNS / "a-validation-digit.png")
    wait(start("experiments/classify.py", exported["saved_model"], str(picture)))

    heading("Does pre-training help?")
    print(f"\nDecoding masked patches of held-out digits has a loss of {pretrained['loss']:.3f}. Guessing each grey level from")
    print(f"its frequency alone has {1 / pretrained['loss_ratio']:.1f} times that loss.\n")
    print("| labels | from pre-trained | from scratch |\n|---|---|---|")
    for fraction in FRACTIONS:
        first, second = scores["pretrained", fraction], scores["scratch", fraction]
        print(f"| {fraction:.0%} ({first['labels']}) | {first['top1']:.1%} | {second['top1']:.1%} |")
    print(f"\nTop-1 accuracy on {first['images']} held-out digits, one seed.\n")
    print(f"pictures:  {RUNS}/pretrain/figures/reconstruction.png and loss.png")
    print(f"runs:      {RUNS}/ (config, metrics, checkpoints and result of each)")
    print(f"exported:  {exported['saved_model']}, {exported['keras']}, {exported['model_card']}")


def heading(text: str) -> None:
    """Print what the next command does."""
    print(f"\n# {text}", flush=True)


def save_a_digit(path: Path) -> Path:
    """Write the first validation digit as a PNG. Returns `path`, which is relative to the repository."""
    from pf_keras.data.digits import open_digits

    (ROOT / path).write_bytes(open_digits()[1].values[0])
    return path


if __name__ == "__main__":
    run_script(main)
