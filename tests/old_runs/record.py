"""Records what the models of the old runs compute, with the version that made them.

The runs were made by version 0.1 with the flags `TINY` of tests/commands.py:

    python main.py --mode=pretrain --workdir=runs/pretrain TINY --config.pretrain.steps=20 --config.pretrain.batch=32 \\
        --config.run.log_every=10 --config.run.keep_checkpoints=1
    python main.py --mode=finetune --workdir=runs/finetune --init=runs/pretrain --label_fraction=0.1 \\
        --config.finetune.epochs=6 --config.finetune.batch=16 --config.run.keep_checkpoints=1
    python main.py --mode=export --workdir=...          (its model.keras is kept)

Then, in a checkout of version 0.1:  python RECORD_PY FOLDER_OF_THE_RUNS
"""

import sys
from pathlib import Path

import keras
import numpy as np


def inputs():
    """Fixed images and mask noise for both models."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 16, 16, 3), dtype="uint8")
    return {"image": image, "mask_noise": rng.random((3, 4), dtype="float32")}


def main(folder):
    import pf_keras  # noqa: F401 - registers the layers

    batch = inputs()
    pretrainer = keras.saving.load_model(folder / "pretrain" / "model.keras")
    classifier = keras.saving.load_model(folder / "finetune" / "model.keras")
    np.savez(
        folder / "outputs.npz",
        pretrain=keras.ops.convert_to_numpy(pretrainer(batch, training=False)["logits"]),
        finetune=keras.ops.convert_to_numpy(classifier(batch["image"], training=False)),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
