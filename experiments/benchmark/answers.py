"""What `predict` and `embed` add to a bare loop that reads the same images and runs the same compiled model on them."""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf
from etils import epath

from experiments.benchmark.measuring import Row, ratio, spread, take_turns
from experiments.benchmark.models import config_of
from experiments.benchmark.photographs import collect
from pf_keras.config import Config
from pf_keras.data.pipeline import evaluation_batches
from pf_keras.data.records import Split
from pf_keras.data.sources import open_source
from pf_keras.evaluation.predictions import answer, row_kind, softmax
from pf_keras.evaluation.streaming import SavedRows, each_batch
from pf_keras.evaluation.streaming import collect as answer_all
from pf_keras.models import Embedder, build_backbone, build_classifier
from pf_keras.training.devices import Devices, open_devices

IMAGES, ROUNDS, CLASSES = {"small": 4000, "middle": 256, "paper": 32}, 7, 1000


def run(options: argparse.Namespace) -> list[Row]:
    """The rows of the benchmark `answers`, for the model of `options.size` and photographs, which are decoded each time."""
    with tempfile.TemporaryDirectory() as folder:
        collect(options.images, Path(folder) / "images", IMAGES[options.size])
        config = config_of(options.size).override({"data.source": f"folder:{folder}/images", "data.eval_crop": "0.875"})
        devices, split = open_devices(config.run.precision), open_source(config.data, whole=True).validation
        return rows(split, config, devices, Path(folder), 3 if options.quick else ROUNDS)


def rows(split: Split, config: Config, devices: Devices, folder: Path, rounds: int) -> list[Row]:
    """The rows, measured on the images of a split."""
    extractor = Embedder(build_backbone(config.model))
    extractor.build()
    vector = np.dtype([("index", "i8"), ("label", "i8"), ("vector", "f4", (config.model.width,))])
    modes = {
        "embed": (extractor, vector, lambda vectors: {"vector": vectors}),
        "predict": (build_classifier(config, CLASSES), row_kind(CLASSES), lambda logits: answer(softmax(logits))),
    }
    found = []
    for mode, (model, kind, fields) in modes.items():

        def bare(model=model):
            forward = tf.function(lambda images: model(images), jit_compile=devices.jit_compile)  # traced anew, as in `whole`
            for batch in evaluation_batches(split, config, config.run.eval_batch):
                forward(batch["image"]).numpy()

        def whole(mode=mode, model=model, kind=kind, fields=fields):
            place = folder / mode
            place.mkdir(exist_ok=True)
            saved = SavedRows(epath.Path(place), kind, {}, config.run.eval_batch)
            answer_all(saved, split.size, partial(each_batch, model, split, config, devices), fields, mode)
            saved.remove()

        seconds = take_turns({mode: whole, "bare": bare}, rounds)
        speed = split.size / np.median(seconds[mode])
        note = f"{speed:.0f} images/s; time ratio {spread(seconds, mode, 'bare')}"
        found.append(Row(f"{mode} / bare forward pass, throughput", 1 / ratio(seconds, mode, "bare"), "x", 0.9, True, note))
    return found
