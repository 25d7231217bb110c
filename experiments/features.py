"""What frozen features of pre-trained models contain: simple statistics of an image, and its class.

    python -m experiments.features --data=folder:CIFAR --runs=runs/cifar10/pretrain,runs/mae/features.npz --labels=LIST,LIST

Each of --runs is a pre-training workdir, or the features.npz of experiments.mae.transfer. Ridge regression predicts the
statistics. It is fitted on every other validation image and scored on the rest (R2, the mean over the numbers of a
statistic). A linear probe and kNN predict the class, as in --mode=evaluate, from each list of labelled images. Prints one
table for the statistics and one for the classes.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments.commands import run_script
from pf_keras.config import Config
from pf_keras.errors import UserError
from pf_keras.training.identity import earlier_run

if TYPE_CHECKING:
    from pf_keras.data.records import Split
    from pf_keras.data.sources import Source

GREY = np.array([0.299, 0.587, 0.114])


def main(arguments: list[str]) -> None:
    """Print the tables for the runs."""
    from pf_keras.data.corrupt import naming_corrupt_images
    from pf_keras.training.data_record import open_other_data

    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.features", description=__doc__, formatter_class=layout)
    parser.add_argument("--data", required=True, help="the images")
    parser.add_argument("--runs", required=True, help="pre-training workdirs, or files of features")
    parser.add_argument("--labels", default="", help="files with the names of the labelled images")
    options = parser.parse_args(arguments)
    runs = options.runs.split(",")
    workdir = next((run for run in runs if not run.endswith(".npz")), None)
    if workdir is None:
        parser.error("--runs has no workdir, whose config says how images are read. Name one or more.")

    config = config_of(workdir, options.data)
    source = open_other_data(config.data).source
    with naming_corrupt_images(source):
        print_tables(runs, config, source, [file for file in options.labels.split(",") if file])


def print_tables(runs: Sequence[str], config: Config, source: "Source", files: Sequence[str]) -> None:
    """Print the tables, with a row for each run. `config` says how images are read, and `files` list the labelled images."""
    from pf_keras.data.labels import labelled_subset, require_labels
    from pf_keras.data.pipeline import evaluation_batches
    from pf_keras.evaluation.probes import fit_probes

    subsets = [labelled_subset(source.train, None, file) for file in files]
    if subsets:
        require_labels(source.validation)
    batches = evaluation_batches(source.validation, config, config.run.eval_batch).as_numpy_iterator()
    parts = [statistics(batch["image"].astype("float64")) for batch in batches]
    # The last batch is padded.
    measured = {name: np.concatenate([part[name] for part in parts])[: source.validation.size] for name in parts[0]}

    statistics_rows, class_rows = [["R2", *measured]], [["linear probe, kNN", *(f"{subset.size} labels" for subset in subsets)]]
    for run in runs:
        read = reader(run, config.data.source)
        validation = read(source.validation, "test")
        statistics_rows.append([run, *(f"{r2(validation, values):.2f}" for values in measured.values())])
        scores = [fit_probes(read(subset, "train"), subset.labels, validation, source.validation.labels) for subset in subsets]
        class_rows.append([run, *(f"{linear:.1%}, {knn:.1%}" for linear, knn in scores)])
    print(as_table(statistics_rows) + ("\n\n" + as_table(class_rows) if subsets else ""))


def as_table(rows: Sequence[Sequence[str]]) -> str:
    """The rows as a table. The first is the heading."""
    heading, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([heading, "|---" * len(rows[0]) + "|", *others])


def reader(run: str, data: str) -> "Callable[[Split, str], np.ndarray]":
    """A function that reads the frozen features of a split.

    Args:
        run: a pre-training workdir, or a file of features.
        data: the images, as for `--data`.

    Returns:
        A function of a split and its name in files of features, `train` or `test`. It returns features `(n, D)` and raises
        UserError if the file has no features of an image.
    """
    if run.endswith(".npz"):
        kept = np.load(run)

        def look_up(split, part):
            place = {name: i for i, name in enumerate(kept[f"{part}_names"].tolist())}
            if missing := next((name for name in split.names if name not in place), None):
                raise UserError(f"{run} has no features of {missing}. Make it from the same images.")
            return kept[f"{part}_features"][[place[name] for name in split.names]]

        return look_up
    from pf_keras.evaluation.probes import embedder, features
    from pf_keras.training.devices import open_devices

    config = config_of(run, data)
    devices = open_devices(config.run.precision)
    model, _ = embedder(config, devices, run)
    return lambda split, _: features(model, split, config, devices)


def config_of(workdir: str, data: str) -> Config:
    """The config of a pre-training workdir, with other data."""
    _, run = earlier_run(workdir, "pretrain")
    return run.config.override({"data.source": data})


def statistics(images: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of images `(n, S, S, 3)`, each `(n, K)`. The grey of a quadrant is the difference from the image's mean."""
    half = images.shape[1] // 2
    grey = images @ GREY
    quadrants = grey[:, : 2 * half, : 2 * half].reshape(-1, 2, half, 2, half).mean((2, 4)).reshape(-1, 4)
    mean = grey.mean((1, 2))[:, None]
    chroma = images[..., [0, 2]] - images[..., 1:2]  # red minus green, blue minus green
    return {
        "mean of grey": mean,
        "quadrants of grey": quadrants - mean,
        "deviation of grey": grey.std((1, 2))[:, None],
        "mean of chroma": chroma.mean((1, 2)),
        "deviation of chroma": chroma.std((1, 2)),
    }


def r2(vectors: np.ndarray, values: np.ndarray) -> float:
    """R2 of ridge regression from `(n, D)` to `(n, K)`, fitted on the even examples and scored on the odd ones. NaN for
    values that are the same in all images.
    """
    if np.ptp(values, axis=0).max() < 1e-9:
        return math.nan
    model = make_pipeline(StandardScaler(), Ridge(10.0)).fit(vectors[::2], values[::2])
    return model.score(vectors[1::2], values[1::2])


if __name__ == "__main__":
    run_script(lambda: main(sys.argv[1:]))
