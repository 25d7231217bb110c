"""Records of photographs to measure with, made on the spot."""

import io
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from pf_keras.errors import UserError

SIDES = (500, 375)  # pixels, as most of ImageNet's
SUFFIXES = (".jpg", ".jpeg")
QUALITY = 97  # gives about the 110 kB of ImageNet's mean


def collect(place, folder, count):
    """Fill `folder` with `count` image files: links to those below `place`, over and over, or cuts of scikit-learn's
    two photographs where `place` is empty."""
    target = Path(folder) / "train" / "any"
    target.mkdir(parents=True)
    if not place:
        for number, encoded in enumerate(itertools.islice(cuts(), count)):
            (target / f"{number:05d}.jpg").write_bytes(encoded)
        return
    found = sorted(path for path in Path(place).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UserError(f"expected --images to be a folder with JPEGs below it, received {place}: check the path")
    for number, path in zip(range(count), itertools.cycle(found)):
        os.symlink(path.resolve(), target / f"{number:05d}{path.suffix}")


def cuts():
    """JPEGs of windows of scikit-learn's two photographs, each at another place, without end."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    rng = np.random.default_rng(0)
    for photograph in itertools.cycle(photographs):
        width, height = (int(side * rng.uniform(0.5, 1.0)) for side in photograph.size)
        left, top = rng.integers(0, photograph.size[0] - width + 1), rng.integers(0, photograph.size[1] - height + 1)
        out = io.BytesIO()
        photograph.crop((left, top, left + width, top + height)).resize(SIDES).save(out, "JPEG", quality=QUALITY)
        yield out.getvalue()


def make_records(folder, output, *options):
    """Run `python -m tfrecords.build` on a folder of images, as a user would."""
    line = [sys.executable, "-m", "tfrecords.build", "--source=folder", f"--input={folder}", f"--output={output}", *options]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"expected {' '.join(line)} to succeed, received: {done.stderr.strip().splitlines()[-1]}")
    return output
