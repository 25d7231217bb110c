"""`--mode=embed`: the features of any images, as tables, and pictures of which images they make alike."""

import os
import sys
from collections.abc import Callable, Sequence

import keras
import numpy as np
from etils import epath

from pf_keras.data.readable import photographs
from pf_keras.errors import UserError
from pf_keras.evaluation.any_images import AnyImages, answers, open_images
from pf_keras.evaluation.attention import TITLE, draw_looks
from pf_keras.evaluation.embedding import POINTS, class_name, clusters, feature_model, lay_out, standardised, write_features
from pf_keras.evaluation.neighbours import COMPARED, NEAR, NEAR_BY_CLASSIFIER, directions, near_duplicates, nearest, spread
from pf_keras.evaluation.streaming import each_batch, require_one_process
from pf_keras.figures_answers import BLANK, Cell, Row, draw_map, draw_sheet, in_rows
from pf_keras.models import Classifier
from pf_keras.request import Request
from pf_keras.training.devices import open_devices
from pf_keras.training.identity import find_run
from pf_keras.training.weights import load_classifier, load_pretrainer, start_of
from pf_keras.training.workdir import Workdir

QUERIES, NEIGHBOURS = 8, 7  # images whose neighbours are drawn, and how many of them
PAIRS = 12  # near duplicates that are drawn
FIGURES = ("neighbours.png", "duplicates.png", "map.png", "attention.png")
TABLES = ("duplicates.csv", "map.csv", "unreadable.csv")
FILES = ("result.json", "features.npz", "features.parquet", *TABLES, *FIGURES)


def run(request: Request) -> dict:
    """Write the features of images by the run in `request.init` or `request.workdir`, and draw what is alike.

    Writes tables and pictures into `embed` in the workdir. Returns the content of `embed/result.json`.

    Raises:
        UserError: there is no such run, or no image can be read.
    """
    require_one_process("embed")
    config = request.config
    start, run = start_of(request.init or request.workdir, "pretrain", "finetune")
    workdir = Workdir(request.workdir)
    devices = open_devices(config.run.precision, request.tpu)
    devices.check_batch("run.eval_batch", config.run.eval_batch)
    with devices.scope():
        if run.mode == "pretrain":
            model, checkpoint = load_pretrainer(start, run, config)
        else:
            model, _, checkpoint = load_classifier(start, run, config)
        extractor = feature_model(model)
    images = open_images(request, workdir, find_run(workdir))
    folder = workdir.folder("embed")
    width = config.model.width
    kind = np.dtype([("index", "i8"), ("label", "i8"), ("vector", "f4", (width,))])
    identity = images.identity(weights=[os.fspath(checkpoint.path), checkpoint.state], **devices.facts())
    saved, rows, labels, missing = answers(
        images,
        workdir,
        folder,
        kind,
        identity,
        lambda after: each_batch(extractor, images.split, images.config, devices, after),
        lambda vectors: {"vector": vectors},
    )
    if not np.isfinite(rows["vector"].sum(axis=0, dtype="float64")).all():
        raise UserError(f"The features of {checkpoint.path} are not finite. Use a run whose training did not diverge.")
    paths = [images.path_of(index) for index in rows["index"].tolist()]
    workdir.remove(*(folder / name for name in FILES))
    files = write_features(folder, paths, labels, images.classes, rows["vector"])
    workdir.write_csv(
        folder / "unreadable.csv", [["path", "error"], *([images.path_of(index), reason] for index, reason in missing)]
    )
    unit = directions(rows["vector"])
    looks = Looks(images, rows["index"], labels, paths, unit, folder)
    result = {
        "steps": checkpoint.step,
        "data": images.place,
        "images": len(rows),
        "unreadable": len(missing),
        "width": width,
        "features": "what enters the head" if isinstance(model, Classifier) else "the mean over the patches",
        **looks.duplicates(NEAR_BY_CLASSIFIER if isinstance(model, Classifier) else NEAR, workdir.write_csv),
        **looks.on_a_map(rows["vector"], workdir.write_csv, config.run.seed),
        "files": files,
    }
    looks.neighbours()
    looks.attention(model)
    result["figures"] = [str(folder / name) for name in FIGURES if (folder / name).exists()]
    workdir.write_json(folder / "result.json", result)
    saved.remove()
    return result


class Looks:
    """What is drawn of the features of n images.

    Args:
        images: the images.
        index: int64 `(n,)`, which of them have a feature.
        labels: int64 `(n,)`, -1 for none.
        paths: of the n images.
        unit: float32 `(n, D)`, of `neighbours.directions`.
        folder: where the pictures go.
    """

    def __init__(self, images: AnyImages, index, labels, paths: Sequence[str], unit: np.ndarray, folder: epath.Path):
        self.images, self.index, self.labels, self.paths, self.unit, self.folder = images, index, labels, paths, unit, folder
        self.queries = spread(len(unit), QUERIES)

    def duplicates(self, least: float, write_csv: Callable) -> dict[str, int]:
        """Write `duplicates.csv` and draw the most similar pairs. Returns how many images look like another one."""
        compared = spread(len(self.unit), COMPARED)
        if len(compared) < len(self.unit):
            print(f"near duplicates are looked for among {len(compared)} of {len(self.unit)} images", file=sys.stderr)
        found = near_duplicates(self.unit if len(compared) == len(self.unit) else self.unit[compared], least)
        pairs = [(int(compared[row]), int(compared[other]), value) for row, other, value in found]
        rows = [[self.paths[row], self.paths[other], f"{value:.4f}"] for row, other, value in pairs]
        write_csv(self.folder / "duplicates.csv", [["path", "looks_like", "similarity"], *rows])
        if pairs:
            shown, cells = self._photographs(np.array([pair[:2] for pair in pairs[:PAIRS]]).ravel()), []
            for row, other, value in pairs[:PAIRS]:
                cells += [
                    Cell(shown[row], [self._name(row), f"similarity {value:.3f}"]),
                    Cell(shown[other], [self._name(other)]),
                ]
            more = f" of {len(pairs)}" if len(pairs) > PAIRS else ""
            title = f"Near duplicates: the {min(len(pairs), PAIRS)}{more} most similar pairs"
            draw_sheet(title, in_rows(cells, 6), self.folder / "duplicates.png", group=2)
        return {"near_duplicates": len(pairs), "near_from": least, "compared": len(compared)}

    def on_a_map(self, features: np.ndarray, write_csv: Callable, seed: int) -> dict[str, object]:
        """Draw a map, and write its points to `map.csv`. Returns how many images are on it and what its colours mean."""
        shown = spread(len(features), POINTS)
        points, labels, classes = standardised(features, shown), self.labels[shown], self.images.classes
        maps = lay_out(points, seed)
        if not maps:
            print("no map: there are too few images, or all are alike", file=sys.stderr)
            return {"on_map": 0, "coloured_by": None}
        groups, names, coloured = labels, classes, "label"
        if (labels >= 0).any():
            numbers = np.unique(labels[labels >= 0])
            groups = np.where(labels >= 0, np.searchsorted(numbers, labels), -1)
            names = [class_name(number, classes) for number in numbers.tolist()]
        else:
            groups, coloured = clusters(points, seed), "cluster"
            names = [f"cluster {number + 1}" for number in range(groups.max() + 1)]
        head = ["path", coloured, *(f"{method}_{axis}" for method in maps for axis in "xy")]
        places = np.concatenate(list(maps.values()), axis=1)
        texts = [names[group] if group >= 0 else "" for group in groups.tolist()]
        rows = [
            [self.paths[row], text, *(f"{value:.4g}" for value in point)]
            for row, text, point in zip(shown.tolist(), texts, places, strict=True)
        ]
        write_csv(self.folder / "map.csv", [head, *rows])
        many = f"{len(shown)} of {len(self.unit)}" if len(shown) < len(self.unit) else f"{len(shown)}"
        draw_map(f"{many} images by their features, coloured by {coloured}", maps, groups, names, self.folder / "map.png")
        return {"on_map": len(shown), "coloured_by": coloured}

    def neighbours(self) -> None:
        """Draw a few images, and the images that are most like each of them."""
        if len(self.unit) < 2:
            print("no neighbours: there is a single image", file=sys.stderr)
            return
        found, similar = nearest(self.unit, self.queries, NEIGHBOURS)
        shown = self._photographs(np.concatenate([self.queries, found.ravel()]))

        def cell(row, query, text):
            known = self.labels[row] >= 0 and self.labels[query] >= 0 and row != query
            same = bool(self.labels[row] == self.labels[query]) if known else None
            return Cell(shown[row], [text, self._name(row)], same)

        rows = [
            Row([cell(query, query, "query"), *(cell(row, query, f"{value:.2f}") for row, value in zip(*pair, strict=True))])
            for query, pair in zip(self.queries, zip(found, similar, strict=True), strict=True)
        ]
        labelled = (self.labels >= 0).any()
        meaning = ". Green: the same label, red: another" if labelled else ""
        title = f"Images and their nearest neighbours, with the similarity{meaning}"
        draw_sheet(title, rows, self.folder / "neighbours.png")

    def attention(self, model: keras.Model) -> None:
        """Draw what the model looks at on the images whose neighbours are drawn."""
        learned = "" if isinstance(model, Classifier) else ", here without the position of a target"
        lines = [[self._name(row), class_name(self.labels[row], self.images.classes)] for row in self.queries]
        indices, config = self.index[self.queries], self.images.config
        draw_looks(model, self.images.split, config, indices, lines, self.folder / FIGURES[3], TITLE + learned)

    def _name(self, row: int) -> str:
        return os.path.basename(self.paths[row])

    def _photographs(self, rows: Sequence[int]) -> dict[int, np.ndarray]:
        """The photographs of some rows."""
        found = photographs(self.images.split, self.index[rows], self.images.config)
        return {int(row): found.get(int(self.index[row]), BLANK) for row in rows}
