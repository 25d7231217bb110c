"""Photographs as people have them against plain JPEGs: images/s of the whole input pipeline on one core."""

import argparse
import io
import itertools
import os
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from experiments.benchmark.measuring import Row, answer, in_process, ratio, spread, take_turns
from experiments.benchmark.photographs import QUALITY, collect, windows
from pf_keras.config import Config, DataConfig

IMAGES, BATCH, BATCHES = 240, 16, 15  # of plain and mixed folders; a turn times as many images as they have
LARGE = {"images": 2, "sides": (8688, 5792), "batch": 2, "batches": 10}  # photographs of 50 megapixels
AHEAD = 4  # batches that are read before a turn is timed, because they may have been prepared while others took theirs


def run(options: argparse.Namespace) -> list[Row]:
    """The rows of the benchmark `formats`."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        print("making photographs", file=sys.stderr)
        collect("", folder / "plain", IMAGES)
        mixed_folder(folder / "mixed" / "train" / "any", IMAGES)
        large_folder(folder / "large" / "train" / "any")
        rounds = 3 if options.quick else 7
        # Apart, because the large images that are read ahead would take their time in the turns of others.
        folders, large = {"plain": (BATCH, BATCHES), "mixed": (BATCH, BATCHES)}, {"large": (LARGE["batch"], LARGE["batches"])}
        seconds = {}
        for sizes in (folders, large):
            seconds |= in_process("formats", {"folder": str(folder), "sizes": sizes, "rounds": rounds})
    rates = {name: BATCH * BATCHES / statistics.median(seconds[name]) for name in ("plain", "mixed")}
    rates["large"] = LARGE["batch"] * LARGE["batches"] / statistics.median(seconds["large"])
    return [
        Row("WebP, TIFF, rotated and plain JPEG / plain JPEG", 1 / ratio(seconds, "mixed", "plain"), "x", 0.6, high=True,
            note=f"{rates['mixed']:.0f} / {rates['plain']:.0f} images/s; time {spread(seconds, 'mixed', 'plain')}"),
        Row("JPEG of 50 megapixels", rates["large"], "images/s", 5, high=True, note="reduced while they are decoded"),
    ]  # fmt: skip


def mixed_folder(folder: Path, count: int) -> None:
    """Fill a folder with a quarter each of lossy WebP, uncompressed TIFF, JPEG that EXIF rotates, and plain JPEG."""
    from PIL import Image

    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    kinds = [
        ("webp", {"format": "WEBP", "quality": 90}),
        ("tiff", {"format": "TIFF"}),
        ("jpg", {"format": "JPEG", "quality": QUALITY, "exif": exif.tobytes()}),
        ("jpg", {"format": "JPEG", "quality": QUALITY}),
    ]
    images = itertools.islice(windows(), count)
    for number, (encoded, (suffix, how)) in enumerate(zip(images, itertools.cycle(kinds), strict=False)):
        Image.open(io.BytesIO(encoded)).save(folder / f"{number:05d}.{suffix}", **how)


def large_folder(folder: Path) -> None:
    """Fill a folder with scikit-learn's two photographs, enlarged to 50 megapixels, with a sensor's noise: files of 20 MB."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, pixels in enumerate(load_sample_images().images[: LARGE["images"]]):
        large = np.asarray(Image.fromarray(pixels).resize(LARGE["sides"]), "float32")
        large += rng.normal(0, 6, (*large.shape[:2], 1)).astype("float32")
        Image.fromarray(np.clip(large, 0, 255).astype("uint8")).save(folder / f"{number}.jpg", quality=85)


def measure(folder: str, sizes: dict[str, tuple[int, int]], rounds: int) -> dict[str, list[float]]:
    """The seconds of each turn on one core, for each of the folders with its batch and its number of batches."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # before TensorFlow counts them
    from pf_keras.data.pipeline import training_batches
    from pf_keras.data.sources import open_source
    from pf_keras.noise import pretrain_noise

    def pipeline(name, batch):
        config = Config(data=DataConfig(source=f"folder:{folder}/{name}"))
        return iter(training_batches(open_source(config.data).train, config, batch, pretrain_noise(config)))

    def timed(batches, count):
        for _ in range(AHEAD):
            next(batches)
        began = time.perf_counter()
        for _ in range(count):
            next(batches)
        return time.perf_counter() - began

    return take_turns({name: partial(timed, pipeline(name, batch), count) for name, (batch, count) in sizes.items()}, rounds)


if __name__ == "__main__":
    answer(measure)
