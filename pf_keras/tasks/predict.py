"""`--mode=predict`: the classes of any images, as a table and as sheets of what to look at first."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np
from etils import epath

from pf_keras.config import Config
from pf_keras.data.readable import photographs
from pf_keras.data.reader import ReadOptions
from pf_keras.evaluation.any_images import AnyImages, answers, open_images
from pf_keras.evaluation.attention import draw_looks
from pf_keras.evaluation.predictions import CERTAIN, MISTAKES, UNCERTAIN, Predictions, answer, row_kind, softmax, true_labels
from pf_keras.evaluation.streaming import each_batch, require_one_process
from pf_keras.export.exported import Exported
from pf_keras.figures_answers import BLANK, Cell, Row, draw_sheet, in_rows
from pf_keras.presets import find
from pf_keras.request import Request
from pf_keras.training.devices import Devices, open_devices
from pf_keras.training.identity import earlier_run, find_run
from pf_keras.training.weights import load_classifier
from pf_keras.training.workdir import Workdir

COLUMNS = 6  # of a sheet of mistakes
LOOKED_AT = 12  # images with a heat map
FIGURES = ("certain.png", "mistakes.png", "attention.png")
FILES = ("result.json", "predictions.csv", *FIGURES)


@dataclass(frozen=True)
class Answering:
    """A classifier, as this mode uses it.

    Args:
        classes: the names of its classes.
        each_batch: a function of images, and of the index after which to begin, to batches of their probabilities.
        identity: what its answers depend on, as JSON.
        facts: about it, for the result.
        model: the classifier. None for an export, which only answers.
        unreadable: why an image has no answer that pf_keras can read. Empty for the usual reason.
    """

    classes: tuple[str, ...]
    each_batch: Callable
    identity: dict
    facts: dict
    model: keras.Model | None = None
    unreadable: str = ""


def run(request: Request) -> dict:
    """Classify images with the fine-tuned run in `request.workdir`, or with the classifier `request.init`: a preset, a
    workdir or an export.

    Writes `predict/predictions.csv` and pictures into the workdir. Returns the content of `predict/result.json`.

    Raises:
        UserError: there is no such run or export, or no image can be read.
    """
    require_one_process("predict")
    config = request.config
    devices = open_devices(config.run.precision, request.tpu)
    devices.check_batch("run.eval_batch", config.run.eval_batch)
    workdir = Workdir(request.workdir)
    start = find(request.init or request.workdir)
    exported = request.init and find_run(Workdir(start)) is None
    answering = answer_by_export(start) if exported else answer_by_run(start, config, devices)
    images = open_images(request, workdir, find_run(workdir))
    folder, classes = workdir.folder("predict"), answering.classes
    identity = images.identity(**answering.identity, **devices.facts())
    batches = partial(answering.each_batch, images)
    kind, reason = row_kind(len(classes)), answering.unreadable
    saved, rows, labels, missing = answers(images, workdir, folder, kind, identity, batches, answer, reason)

    labels, unknown = true_labels(labels, images.classes, classes)
    if unknown:
        some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        print(f"the model has no class {some}: its images count as unlabelled", file=sys.stderr)
    predictions = Predictions(rows, labels, classes)
    paths = [images.path_of(index) for index in rows["index"].tolist()]
    unreadable = [(images.path_of(index), reason) for index, reason in missing]
    table = folder / "predictions.csv"
    workdir.remove(*(folder / name for name in FILES))
    workdir.write_csv(table, predictions.table(paths, unreadable))
    result = {
        **answering.facts,
        "data": images.place,
        "images": len(rows),
        "unreadable": len(missing),
        "classes": len(classes),
        **scores(predictions),
        "predictions": str(table),
        "figures": [str(path) for path in draw(images, predictions, paths, answering.model, folder)],
    }
    workdir.write_json(folder / "result.json", result)
    saved.remove()
    print(summary(predictions, result), file=sys.stderr)
    return result


def answer_by_run(start: str, config: Config, devices: Devices) -> Answering:
    """The classifier of a fine-tuned run or of a preset."""
    workdir, run = earlier_run(start, "finetune")
    with devices.scope():
        model, classes, checkpoint = load_classifier(workdir, run, config)

    def batches(images, after):
        for index, label, logits in each_batch(model, images.split, images.config, devices, after):
            yield index, label, softmax(logits)

    identity = {"weights": [os.fspath(checkpoint.path), checkpoint.state]}
    return Answering(classes, batches, identity, {"steps": checkpoint.step}, model)


def answer_by_export(path: str) -> Answering:
    """The classifier of an export."""
    exported = Exported(path)

    def batches(images, after):
        options = ReadOptions.from_config(images.config.data)
        return exported.each_batch(images.split, options, images.config.run.eval_batch, after)

    identity = {"weights": exported.identity}
    return Answering(exported.classes, batches, identity, {"model": path}, unreadable="the exported model cannot read it")


def scores(predictions: Predictions) -> dict:
    """How many images have a label that the model knows, how many of them are mistakes, and the top-1 accuracy."""
    labelled, mistakes = int((predictions.labels >= 0).sum()), len(predictions.mistakes())
    return {"labelled": labelled, "mistakes": mistakes, "top1": 1 - mistakes / labelled if labelled else None}


def summary(predictions: Predictions, result: dict) -> str:
    """One line: how many images, and which classes were predicted most often."""
    counts = np.bincount(predictions.predicted, minlength=len(predictions.classes))
    most = [f"{predictions.classes[i]} ({counts[i]})" for i in np.argsort(-counts, kind="stable")[:5] if counts[i]]
    wrong = f"; {result['mistakes']} of {result['labelled']} labelled images are mistakes" if result["labelled"] else ""
    images = f"{result['images']} image{'' if result['images'] == 1 else 's'}"
    return f"{images}, by class: {', '.join(most)}{', ...' if (counts > 0).sum() > 5 else ''}{wrong}"


def draw(
    images: AnyImages, predictions: Predictions, paths: list[str], model: keras.Model | None, folder: epath.Path
) -> list[epath.Path]:
    """Draw the sheets into `folder`. Returns their paths.

    Args:
        images: what was classified.
        predictions: for the n images that can be read.
        paths: of these images.
        model: the classifier, or None where only its answers are known.
        folder: where the pictures go.
    """
    index = predictions.rows["index"]
    extremes, mistakes = predictions.extremes(), predictions.mistakes()[:MISTAKES]
    first = [certain[0] for _, certain, _ in extremes]
    looked_at = list(dict.fromkeys([*mistakes[: LOOKED_AT // 2].tolist(), *map(int, first)]))[:LOOKED_AT]
    shown = np.unique(np.concatenate([*(part for _, *parts in extremes for part in parts), mistakes]).astype(int))
    found = photographs(images.split, index[shown], images.config)

    def cell(position, *lines):
        label, predicted = predictions.labels[position], predictions.predicted[position]
        return Cell(found.get(int(index[position]), BLANK), lines, bool(label == predicted) if label >= 0 else None)

    draw_certain(predictions, extremes, paths, cell, folder / FIGURES[0])
    drawn = [folder / FIGURES[0]]
    if len(mistakes):
        cells = [
            cell(position, *mistake_lines(predictions, position, f"{rank}. ")) for rank, position in enumerate(mistakes, 1)
        ]
        total = len(predictions.mistakes())
        title = f"The {len(mistakes)} most confident of {total} mistakes" if total > 1 else "The only mistake"
        draw_sheet(title, in_rows(cells, COLUMNS), folder / FIGURES[1])
        drawn.append(folder / FIGURES[1])
    lines = [mistake_lines(predictions, position) for position in looked_at]
    if model is None:
        print("no heat maps: an export only gives its answers", file=sys.stderr)
    elif draw_looks(model, images.split, images.config, index[looked_at], lines, folder / FIGURES[2]):
        drawn.append(folder / FIGURES[2])
    return drawn


def mistake_lines(predictions: Predictions, position: int, rank: str = "") -> list[str]:
    """What was predicted and, if it is another class, the true class."""
    predicted, label = predictions.predicted[position], predictions.labels[position]
    said = f"{rank}{predictions.classes[predicted]} {predictions.confidence[position]:.0%}"
    return [said, f"true: {predictions.classes[label]}"] if label >= 0 and label != predicted else [said]


def draw_certain(predictions: Predictions, extremes: list, paths: list[str], cell: Callable, path: epath.Path) -> None:
    """Draw the most and the least certain images of each class.

    Args:
        predictions: for n images.
        extremes: of `Predictions.extremes`.
        paths: of the n images.
        cell: a function from a position and lines of text to a cell.
        path: of the picture.
    """
    counts = np.bincount(predictions.predicted, minlength=len(predictions.classes))

    def cells(positions, columns):
        found = [
            cell(position, f"{predictions.confidence[position]:.1%}", os.path.basename(paths[position]))
            for position in positions
        ]
        return [*found, *[None] * (columns - len(found))]

    rows = [
        Row(
            [*cells(certain, CERTAIN), *cells(uncertain, UNCERTAIN)],
            predictions.classes[number],
            f"{counts[number]} image{'' if counts[number] == 1 else 's'}",
        )
        for number, certain, uncertain in extremes
    ]
    found = int((counts > 0).sum())
    frames = ". Green frame: right, red: wrong" if (predictions.labels >= 0).any() else ""
    title = f"Images by predicted class{frames}" + (
        f". The {len(rows)} most frequent of {found} classes" if len(rows) < found else ""
    )
    draw_sheet(title, rows, path, CERTAIN, ("most certain", "least certain"))
