"""The input pipeline of pre-training against a loop that only decodes and crops, with the same records, crops and cores."""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.benchmark.measuring import Row, answer, in_process, ratio, spread, take_turns
from experiments.benchmark.photographs import collect, make_records
from pf_keras.config import Config, DataConfig
from pf_keras.processes import cores

if TYPE_CHECKING:
    from pf_keras.data.records import Split

# More images than a turn reads, because the shuffle buffer fills anew at the end of an epoch.
IMAGES, SHARDS, BATCH = 2000, 16, 64
BATCHES = {"start": 4, "timed": 10}  # per turn; the first batches fill the buffers
LARGE = (1024, 1250)  # the shards of a set as large as ImageNet, and the records in each


def run(options: argparse.Namespace) -> list[Row]:
    """The rows of the benchmark `input`. With `options.quick`, runs fewer turns and skips the large set."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        print(f"making {IMAGES} records, twice", file=sys.stderr)
        collect(options.images, folder / "images", IMAGES)
        shards = f"--train_shards={SHARDS}"
        originals = make_records(folder / "images", folder / "originals", shards)
        small = make_records(folder / "images", folder / "small", shards, "--resize_shorter=256", "--quality=90")
        arguments = {"rounds": 3 if options.quick else 7, "originals": str(originals), "small": str(small)}
        measured = {}
        for count in sorted({1, cores()}):
            print(f"measuring with {count} core{'s' * (count > 1)}", file=sys.stderr)
            measured[count] = in_process("input", {"count": count, **arguments})
        kilobytes = [sum(f.stat().st_size for f in place.iterdir()) / IMAGES / 1e3 for place in (originals, small)]
        return [*rows(measured, kilobytes), *([] if options.quick else large_rows(folder))]


def rows(measured: dict[int, dict], kilobytes: Sequence[float]) -> list[Row]:
    """The rows, from what `measure` found with each number of cores, and the size of an original and of a small image."""
    found, rates = [], {}
    for count, both in measured.items():
        seconds = both["seconds"]
        rates[count] = {name: BATCHES["timed"] * BATCH / statistics.median(taken) for name, taken in seconds.items()}
        note = f"{rates[count]['decoding']:.0f} images/s decoded alone; time ratio {spread(seconds, 'full', 'decoding')}"
        name = f"full pipeline / decoding alone, {count} core{'s' * (count > 1)}"
        found.append(Row(name, 1 / ratio(seconds, "full", "decoding"), "x", 0.85, high=True, note=note))
    memory, one = both["memory"], rates[1]["full"]
    if count > 1:
        found.append(Row(f"throughput, {count} cores / 1 core", rates[count]["full"] / one, "x",
                         note=f"{rates[count]['full']:.0f} / {one:.0f} images/s"))  # fmt: skip
    return [
        *found,
        Row("extra time for noise and shuffling, fraction", ratio(seconds, "full", "plain") - 1, "", 0.10,
            note=spread(seconds, "full", "plain")),
        Row("256 px records / originals, throughput", 1 / ratio(seconds, "small", "full"), "x",
            note=f"{kilobytes[1]:.0f} / {kilobytes[0]:.0f} kB per image"),
        Row("peak memory", memory[-1], "MiB", note=f"grew by {memory[-1] - memory[len(memory) // 2]} MiB in the second half"),
    ]  # fmt: skip


def measure(count: int, rounds: int, originals: str, small: str) -> dict:
    """The `seconds` of each pipeline and the peak `memory` in MiB after each turn, in this process with `count` cores.
    `originals` and `small` are records.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])  # before TensorFlow counts them
    from pf_keras.data.pipeline import training_batches
    from pf_keras.data.sources import open_source
    from pf_keras.noise import pretrain_noise

    config = Config(data=DataConfig(source=f"tfrecord:{originals}", shuffle_buffer=512))
    split = {place: open_source(replace(config.data, source=f"tfrecord:{place}")).train for place in (originals, small)}
    noise, memory = pretrain_noise(config), []
    pipelines = {
        "decoding": decoding_alone(split[originals], config),
        "full": training_batches(split[originals], config, BATCH, noise),
        "plain": training_batches(InOrder(split[originals]), config, BATCH, {}),
        "small": training_batches(split[small], config, BATCH, noise),
    }

    def timed(batches):
        iterator = iter(batches)
        for _ in range(BATCHES["start"]):
            next(iterator)
        began = time.perf_counter()
        for _ in range(BATCHES["timed"]):
            next(iterator)
        taken = time.perf_counter() - began
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return taken

    works = {name: partial(timed, batches) for name, batches in pipelines.items()}
    return {"seconds": take_turns(works, rounds), "memory": memory}


class InOrder:
    """A split whose training order is the order of its records, one file after another."""

    def __init__(self, split: "Split"):
        self.split, self.loader, self.any_format = split, split.loader, split.any_format

    def keys(self, **options):
        """The keys of all examples in order, endlessly."""
        return self.split.keys(shuffle=False).repeat()


def decoding_alone(split: "Split", config: Config):
    """Batches of images that are decoded and cropped as in training, from bytes and crop windows in memory."""
    import tensorflow as tf

    from pf_keras.data.decode import random_window
    from pf_keras.data.pipeline import THREADS
    from pf_keras.noise import CROP

    load = split.loader()
    encoded = [load(key)[0].numpy() for key in split.keys(shuffle=False)]
    noise = tf.random.stateless_uniform((len(encoded), len(CROP)), (0, 0))
    size = config.model.image_size

    def decode(image, noise):
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(image))
        window = random_window(noise, config.data.crop_scale, config.data.crop_ratio)(height, width)
        pixels = tf.image.decode_and_crop_jpeg(image, tf.stack(window), channels=3, dct_method="INTEGER_ACCURATE")
        return tf.cast(tf.image.resize(pixels, (size, size)), tf.uint8)

    images = tf.data.Dataset.from_tensor_slices((encoded, noise)).repeat()
    return images.map(decode, num_parallel_calls=THREADS).batch(BATCH).prefetch(2)


def large_rows(folder: Path) -> list[Row]:
    """The rows for the first batch of a set as large as ImageNet, with a manifest and without."""
    from pf_keras.data.pipeline import training_batches
    from pf_keras.data.sources import open_source
    from pf_keras.noise import pretrain_noise

    place = large_set(folder / "large")
    config = Config(data=DataConfig(source=f"tfrecord:{place}"))
    found = []
    for name in ("with a manifest", "without a manifest, which counts the records"):
        began = time.perf_counter()
        split = open_source(config.data).train
        opened = time.perf_counter() - began
        next(iter(training_batches(split, config, 128, pretrain_noise(config))))
        taken = time.perf_counter() - began
        note = f"{split.size} records in {len(split.files)} files; opening takes {opened:.1f} s"
        found.append(Row(f"first batch of 1.28M records, {name}", taken, "s", note=note))
        (place / "manifest.json").unlink(missing_ok=True)
    return found


def large_set(place: Path) -> Path:
    """Make a set of `LARGE` shards of small images, which are all links to one shard. Returns its folder."""
    shards, records = LARGE
    collect("", place / "few", 8)
    collect(str(place / "few"), place / "images", records)
    make_records(place / "images", place / "one", "--train_shards=1", "--resize_shorter=32")
    output = place / "records"
    output.mkdir()
    manifest = json.loads((place / "one" / "manifest.json").read_text())
    shard = next(s for s in manifest["shards"] if s["records"])
    manifest["shards"] = [{**shard, "file": f"train-{number:05d}-of-{shards:05d}"} for number in range(shards)]
    for entry in manifest["shards"]:
        os.link(place / "one" / shard["file"], output / entry["file"])
    (output / "manifest.json").write_text(json.dumps(manifest))
    return output


if __name__ == "__main__":
    answer(measure)
