"""Classify images with an exported model; it needs TensorFlow alone, not pf_keras.

    python experiments/classify.py runs/demo/pretrained-0.2/export/saved_model IMAGE [IMAGE ...]

An image that cannot be read is named on standard error, and the exit code is then 2.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main(model, *images):
    import tensorflow as tf

    try:
        signatures = tf.saved_model.load(model).signatures
    except (OSError, ValueError):
        return fail(f"expected MODEL to be a folder with a SavedModel, received {model}: see export/saved_model of the run")
    if "serve_jpeg" not in signatures:
        return fail(f"expected the export of a fine-tuned run, received {model}, which does not classify: fine-tune first")
    code = 0
    for image in images:
        try:
            outputs = signatures["serve_jpeg"](encoded=tf.constant([Path(image).read_bytes()]))
        except OSError as error:
            code = fail(f"expected an image file, received {image}: {error.strerror}")
        except tf.errors.OpError:
            code = fail(f"expected a JPEG, PNG or BMP image, received {image}, which does not decode as one: convert it")
        else:
            print(f"{image}: {outputs['class'][0].numpy().decode()} ({outputs['probabilities'].numpy().max():.1%})", flush=True)
    return code


def fail(message):
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
