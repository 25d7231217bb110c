"""The whole story on handwritten digits, in minutes on two cores: `make demo`.

Pre-train; fine-tune with 1, 10 and 20% of the labels from there and from scratch; a table; export; classify an image.
Every part is a command of main.py, printed as one would type it. Started again it goes on where it was stopped.
"""

from pathlib import Path

from experiments.commands import ROOT, commands, end_together, start, wait

RUNS = Path("runs/demo")
FRACTIONS = (0.01, 0.1, 0.2)


def main():
    (pretrained,) = commands(("--mode=pretrain", f"--workdir={RUNS}/pretrain"))
    scores = {}
    for fraction in FRACTIONS:
        # Two at a time: starting and tracing use one core each.
        scores["pretrained", fraction], scores["scratch", fraction] = commands(
            *(
                ("--mode=finetune", f"--init={init}", f"--label_fraction={fraction}", f"--workdir={RUNS}/{start}-{fraction}")
                for start, init in (("pretrained", f"{RUNS}/pretrain"), ("scratch", "scratch"))
            )
        )
    best = f"{RUNS}/pretrained-{FRACTIONS[-1]}"
    (exported,) = commands(("--mode=export", f"--workdir={best}"))
    picture = save_a_digit(RUNS / "a-validation-digit.png")
    wait(start("experiments/classify.py", exported["saved_model"], str(picture)))

    print(f"\nDecoding hidden patches of held-out digits: loss {pretrained['loss']:.3f}, {pretrained['loss_ratio']:.2f} of")
    print("what a predictor gets that knows only how often each grey level occurs.\n")
    print("| labels | from pre-trained | from scratch |\n|---|---|---|")
    for fraction in FRACTIONS:
        first, second = scores["pretrained", fraction], scores["scratch", fraction]
        print(f"| {fraction:.0%} ({first['labels']}) | {first['top1']:.1%} | {second['top1']:.1%} |")
    print(f"\ntop-1 on {first['images']} held-out digits, one seed\n")
    print(f"pictures:  {RUNS}/pretrain/figures/reconstruction.png and loss.png")
    print(f"runs:      {RUNS}/ (config, metrics, checkpoints, result of each)")
    print(f"exported:  {exported['saved_model']}, {exported['keras']}, {exported['model_card']}")


def save_a_digit(path):
    """Write the first held-out digit as a PNG."""
    from pf_keras.data.digits import open_digits

    (ROOT / path).write_bytes(open_digits()[1].values[0])
    return path


if __name__ == "__main__":
    end_together()
    main()
