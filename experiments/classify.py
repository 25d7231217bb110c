"""Classify images with an exported model. This needs TensorFlow, not pf_keras.

    python experiments/classify.py runs/demo/pretrained-0.2/export/saved_model IMAGE [IMAGE ...]

Prints the class and the probability of each image. Reports an image that it cannot read on standard error, and then exits
with code 2. The model reads JPEG and PNG. Pillow, if it is installed, converts other formats to PNG; pillow-heif adds HEIC.
"""

import contextlib
import faulthandler
import io
import os
import sys
from pathlib import Path

READ_BY_THE_MODEL = b"\xff\xd8\xff", b"\x89PNG"  # how a JPEG and a PNG begin


def main(model: str, *images: str) -> int:
    """Classify `images` with the SavedModel in the folder `model`. Returns the exit code."""
    import tensorflow as tf

    numbers = [path.name for path in Path(model).glob("*") if path.name.isdecimal()]
    newest = os.path.join(model, max(numbers, key=int)) if numbers else model
    try:
        signatures = tf.saved_model.load(newest).signatures
    except (OSError, ValueError):
        return fail(f"{model} is not a folder with a SavedModel. Use export/saved_model of a run.")
    if "serve_jpeg" not in signatures:
        return fail(f"{model} is the export of a pre-training, which does not classify. Export a fine-tuned run.")
    code = 0
    for image in images:
        try:
            outputs = signatures["serve_jpeg"](encoded=tf.constant([converted(Path(image).read_bytes())]))
        except OSError as error:
            code = fail(f"Cannot read {image}: {error.strerror}.")
        except ImportError:
            code = fail(f"Cannot decode {image}. Install Pillow (pip install pillow), or convert it to JPEG or PNG.")
        except (ValueError, tf.errors.OpError):
            code = fail(f"Cannot decode {image}. Convert it to JPEG or PNG.")
        else:
            if outputs.get("status", [b"ok"])[0] != b"ok":
                code = fail(f"Cannot decode {image}. Convert it to JPEG or PNG.")
                continue
            print(f"{image}: {outputs['class'][0].numpy().decode()} ({outputs['probabilities'].numpy().max():.1%})", flush=True)
    return code


def converted(data: bytes) -> bytes:
    """The first picture of an image file as an upright PNG; a JPEG or PNG as it is.

    Raises:
        ImportError: it is another format, and Pillow is not installed.
        ValueError: Pillow cannot read it.
    """
    if data.startswith(READ_BY_THE_MODEL):
        return data
    from PIL import Image, ImageOps

    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    out = io.BytesIO()
    try:
        opened = Image.open(io.BytesIO(data))
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I;16") and opened.format == "TIFF" and opened.tag_v2.get(262) == 0:  # its 0 is white
            image = image.point(lambda value: value * -1 + 65535)
        if image.mode == "I" and opened.format == "PPM":  # 16 bits
            image = image.convert("I;16")
        elif image.mode in ("I", "F"):
            raise ValueError(f"pixels of {image.mode}")
        elif not image.mode.startswith("I;16"):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        image.save(out, "PNG")
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise ValueError("not an image that Pillow reads") from error
    return out.getvalue()


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
