"""Classify images with an exported model. This needs TensorFlow only, not pf_keras.

    python experiments/classify.py runs/demo/pretrained-0.2/export/saved_model IMAGE [IMAGE ...]

Prints the class and the probability of each image. Reports an image that it cannot read on standard error, and then exits
with code 2.
"""

import faulthandler
import os
import sys
from pathlib import Path


def main(model: str, *images: str) -> int:
    """Classify `images` with the SavedModel in the folder `model`. Returns the exit code."""
    import tensorflow as tf

    try:
        signatures = tf.saved_model.load(model).signatures
    except (OSError, ValueError):
        return fail(f"{model} is not a folder with a SavedModel. Use export/saved_model of a run.")
    if "serve_jpeg" not in signatures:
        return fail(f"{model} is the export of a pre-training, which does not classify. Export a fine-tuned run.")
    code = 0
    for image in images:
        try:
            outputs = signatures["serve_jpeg"](encoded=tf.constant([Path(image).read_bytes()]))
        except OSError as error:
            code = fail(f"Cannot read {image}: {error.strerror}.")
        except tf.errors.OpError:
            code = fail(f"Cannot decode {image}. Convert it to JPEG, PNG or BMP.")
        else:
            print(f"{image}: {outputs['class'][0].numpy().decode()} ({outputs['probabilities'].numpy().max():.1%})", flush=True)
    return code


def fail(message: str) -> int:
    """Print an error message. Returns the exit code."""
    print(f"error: {message}", file=sys.stderr)
    return 2


def silence_native_output() -> None:
    """Send file descriptor 2, where TensorFlow's C++ code writes, to /dev/null. Python's `sys.stderr` stays on the terminal."""
    sys.stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    faulthandler.enable()  # a crash in C++ code prints the Python stack on sys.stderr


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    silence_native_output()
    sys.exit(main(*sys.argv[1:]))
