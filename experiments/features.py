"""What the frozen features of pre-trained models tell: simple statistics of an image, and its class.

    python -m experiments.features --data=folder:CIFAR --runs=runs/cifar10/pretrain,runs/mae/features.npz --labels=LIST,LIST

Each of --runs is a pre-training workdir or the `features.npz` of `experiments.mae.transfer`. The statistics are read by
ridge regression, fitted on every other validation image and scored on the rest (R2, the mean over a statistic's numbers);
the class as `--mode=evaluate` reads it, by a linear probe and kNN from each list of labelled images. One table of each.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pf_keras.data.bad import naming_bad_images, open_readable
from pf_keras.data.labels import labelled_subset, require_labels
from pf_keras.data.pipeline import evaluation_batches
from pf_keras.errors import UserError
from pf_keras.tasks.probe import embedder, features, fit_probes
from pf_keras.training.strategy import open_devices
from pf_keras.training.workdir import Workdir

GREY = np.array([0.299, 0.587, 0.114])


def main(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m experiments.features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", required=True, help="workdirs of pre-trainings, or files of features")
    parser.add_argument("--labels", default="", help="files with the names of the labelled images")
    options = parser.parse_args(arguments)
    runs = options.runs.split(",")
    folders = [run for run in runs if not run.endswith(".npz")]
    if not folders:
        parser.error("expected a workdir among --runs, whose config says how images are read, received none")

    config = config_of(folders[0], options.data)
    source, _ = open_readable(config.data, Workdir(folders[0]))
    with naming_bad_images(source):
        tables(runs, config, source, [file for file in options.labels.split(",") if file])


def tables(runs, config, source, files):
    """Print a row of each run: what its features tell of `source`, and of the classes from each file of labelled images."""
    lists = [labelled_subset(source.train, None, file) for file in files]
    if lists:
        require_labels(source.validation)
    batches = evaluation_batches(source.validation, config, config.run.eval_batch).as_numpy_iterator()
    parts = [statistics(batch["image"].astype("float64")) for batch in batches]
    # The last batch is filled up with what is no image.
    found = {name: np.concatenate([part[name] for part in parts])[: source.validation.size] for name in parts[0]}

    told = [f"| R2 | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    probed = [f"| linear probe, kNN | {' | '.join(f'{part.size} labels' for part in lists)} |"]
    probed.append("|---" * (len(lists) + 1) + "|")
    for run in runs:
        read = reader(run, config.data.source)
        validation = read(source.validation, "test")
        told.append(f"| {run} | {' | '.join(f'{r2(validation, values):.2f}' for values in found.values())} |")
        scores = [fit_probes(read(part, "train"), part.labels, validation, source.validation.labels) for part in lists]
        probed.append(f"| {run} | {' | '.join(f'{linear:.1%}, {knn:.1%}' for linear, knn in scores)} |")
    print("\n".join(told + ([""] + probed if lists else [])))


def reader(run, data):
    """A function from a split, of `train` or `test`, to the frozen features (n, D) of its images."""
    if run.endswith(".npz"):
        kept = np.load(Path(run))

        def look_up(split, part):
            place = {name: i for i, name in enumerate(kept[f"{part}_names"].tolist())}
            if missing := next((name for name in split.names if name not in place), None):
                raise UserError(f"expected the features of {missing} in {run}, which has none: make it of the same images")
            return kept[f"{part}_features"][[place[name] for name in split.names]]

        return look_up
    config = config_of(run, data)
    devices = open_devices(config.run.precision)
    model, _ = embedder(config, devices, run)
    return lambda split, _: features(model, split, config, devices)


def config_of(run, data):
    """The config of a pre-training workdir, with other data in it."""
    return Workdir.of_run(run, "pretrain").config().override({"data.source": data})


def statistics(images):
    """Numbers (n, K) by name, of images (n, S, S, 3): grey of a quadrant is what it has more than the image's mean."""
    half = images.shape[1] // 2
    grey = images @ GREY
    quadrants = grey[:, : 2 * half, : 2 * half].reshape(-1, 2, half, 2, half).mean((2, 4)).reshape(-1, 4)
    mean = grey.mean((1, 2))[:, None]
    chroma = images[..., [0, 2]] - images[..., 1:2]  # red less green, blue less green
    return {
        "the grey's mean": mean,
        "its four quadrants": quadrants - mean,
        "its deviation": grey.std((1, 2))[:, None],
        "the mean chroma": chroma.mean((1, 2)),
        "the chroma's deviation": chroma.std((1, 2)),
    }


def r2(vectors, values):
    """Of ridge regression from (n, D) to (n, K), on the examples of odd number, fitted on the others; NaN of what is the
    same in all images."""
    if np.ptp(values, axis=0).max() < 1e-9:
        return math.nan
    model = make_pipeline(StandardScaler(), Ridge(10.0)).fit(vectors[::2], values[::2])
    return model.score(vectors[1::2], values[1::2])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
