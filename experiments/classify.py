"""Classify images with an exported model; it needs TensorFlow alone, not pf_keras.

    python experiments/classify.py runs/demo/pretrained-0.2/export/saved_model IMAGE [IMAGE ...]
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main(model, *images):
    import tensorflow as tf

    serve = tf.saved_model.load(model).signatures["serve_jpeg"]
    outputs = serve(encoded=tf.constant([Path(image).read_bytes() for image in images]))
    for image, name, probabilities in zip(images, outputs["class"].numpy(), outputs["probabilities"].numpy(), strict=True):
        print(f"{image}: {name.decode()} ({probabilities.max():.1%})")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
