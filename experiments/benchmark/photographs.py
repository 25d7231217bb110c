"""Makes records of photographs for the benchmarks."""

import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.benchmark.measuring import run_module
from pf_keras.errors import UserError

SIDES = (500, 375)  # pixels, like most of ImageNet's images
SUFFIXES = (".jpg", ".jpeg")
QUALITY = 97  # gives about 110 kB, ImageNet's mean


def collect(place: str, folder: Path, count: int) -> None:
    """Fill a folder with images.

    Args:
        place: a folder, whose JPEGs are linked again and again. Empty for windows of scikit-learn's two photographs.
        folder: the folder to fill, under `train/any`.
        count: the number of images.

    Raises:
        UserError: there is no JPEG in `place`.
    """
    target = Path(folder) / "train" / "any"
    target.mkdir(parents=True)
    if not place:
        for number, encoded in enumerate(itertools.islice(windows(), count)):
            (target / f"{number:05d}.jpg").write_bytes(encoded)
        return
    found = sorted(path for path in Path(place).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UserError(f"--images={place} has no JPEGs. Check the path.")
    for number, path in zip(range(count), itertools.cycle(found)):
        os.symlink(path.resolve(), target / f"{number:05d}{path.suffix}")


def windows() -> Iterator[bytes]:
    """Endless JPEGs of random windows of scikit-learn's two photographs."""
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


def make_records(folder: Path, output: Path, *options: str) -> Path:
    """Run `python -m tfrecords.build` on a folder of images, as a user would. Returns `output`."""
    run_module("tfrecords.build", "--source=folder", f"--input={folder}", f"--output={output}", *options)
    return output
