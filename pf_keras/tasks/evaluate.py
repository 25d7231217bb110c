"""`--mode=evaluate`: score a fine-tuned run, or probe the frozen features of a pre-trained one."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from pf_keras.config import Config, differing_fields
from pf_keras.data.corrupt import naming_corrupt_images
from pf_keras.data.labels import labelled_source, require_labels
from pf_keras.data.sources import Source
from pf_keras.errors import UserError
from pf_keras.evaluation.attention import draw_looks
from pf_keras.evaluation.neighbours import spread
from pf_keras.evaluation.predictions import numbers_in_head
from pf_keras.evaluation.probes import probe
from pf_keras.evaluation.scores import predict_logits, top_k
from pf_keras.figures import draw_confusion
from pf_keras.request import Request
from pf_keras.training.data_record import open_earlier_data, refuse_workdir_among_images
from pf_keras.training.devices import Devices, open_devices
from pf_keras.training.identity import RunIdentity
from pf_keras.training.weights import load_classifier, start_of
from pf_keras.training.workdir import Workdir, open_workdir

LOOKED_AT = 12  # images with a heat map
FILES = ("result.json", "classes.csv", "confusion.png", "attention.png")


def run(request: Request) -> dict:
    """Evaluate `request.workdir` on the run's own data or on `request.other_data`.

    The best checkpoint is used, or the newest where no labelled images were held out.

    Writes `evaluate/result.json`, tables and pictures into the workdir. Returns the content of `evaluate/result.json`.
    """
    start, earlier = start_of(request.init or request.workdir, "finetune", "pretrain")
    if earlier.mode == "finetune" and request.label_fractions != (1.0,):
        raise UserError("--label_fraction is for evaluating a pre-training, but this is a fine-tuned run. Leave it out.")
    config = request.config
    devices = open_devices(config.run.precision, request.tpu)
    workdir = open_workdir(request.workdir, devices.chief)
    # A classifier has seen none of the images of other data, but probes are fitted on their training split.
    whole = earlier.mode == "finetune"
    data = open_earlier_data(start, earlier.config.data, config.data, request.other_data, evaluation_only=whole)
    refuse_workdir_among_images(workdir, data.source)
    config = data.reading(config)
    folder = workdir.folder("evaluate")
    with naming_corrupt_images(data.source):
        source = labelled_source(data.source, config.data.holdout, whole and bool(data.place))
        if earlier.mode == "pretrain":
            init = request.init or request.workdir
            result = probe(workdir, init, config, devices, source, request.label_fractions, folder)
        else:
            result = score_classifier(workdir, start, earlier, config, devices, source, folder)
    result |= {
        "bad_images": len(data.corrupt),
        "data": data.place or earlier.config.data.source,  # the run's own data go by its name for them, also if they moved
        "changed": differing_fields(earlier.config, config),
    }
    workdir.write_json(folder / "result.json", result)
    return result


def score_classifier(
    workdir: Workdir,
    start: Workdir,
    earlier: RunIdentity,
    config: Config,
    devices: Devices,
    source: Source,
    folder: epath.Path,
) -> dict:
    """Score a classifier on the validation split, and write `classes.csv`, `confusion.png` and `attention.png`.

    Args:
        workdir: that the files go to.
        start: the workdir of a fine-tuning, or a preset.
        earlier: what its `config.json` says.
        config: in place of the run's.
        devices: to score on.
        source: the data.
        folder: where the files go.

    Returns:
        `top1`, `top5`, the `steps` of the checkpoint, and the numbers of `images` and `classes`.
    """
    devices.check_batch("run.eval_batch", config.run.eval_batch)
    validation = source.validation
    require_labels(validation)
    with devices.scope():
        model, classes, checkpoint = load_classifier(start, earlier, config)
        devices.compile(model)
    labels = labels_of_head(validation.labels, source.classes, classes)
    logits = predict_logits(model, validation, config, devices)

    from sklearn.metrics import confusion_matrix

    confusion = confusion_matrix(labels, logits.argmax(1), labels=range(len(classes)))
    rows = [
        [name, images, correct, f"{correct / images:.4f}" if images else ""]
        for name, images, correct in zip(classes, confusion.sum(1), confusion.diagonal(), strict=True)
    ]
    workdir.remove(*(folder / name for name in FILES))
    workdir.write_csv(folder / "classes.csv", [["class", "images", "correct", "accuracy"], *rows])
    draw_confusion(confusion, classes, folder / "confusion.png")
    shown = spread(validation.size, LOOKED_AT)
    lines = [answered(classes[logits[row].argmax()], classes[labels[row]]) for row in shown]
    draw_looks(model, validation, config, validation.indices[shown], lines, folder / "attention.png")
    return {
        "top1": top_k(logits, labels, 1),
        "top5": top_k(logits, labels, 5),
        "steps": checkpoint.step,
        "images": validation.size,
        "classes": len(classes),
    }


def answered(predicted: str, true: str) -> list[str]:
    """What a classifier says of an image, and the truth if that is another class."""
    return [predicted] if predicted == true else [predicted, f"true: {true}"]


def labels_of_head(labels: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Labels of data as the classifier numbers its classes: matched by name, or by number where names are not distinct.

    Args:
        labels: int `(n,)`, as the data number them.
        names: of the data's classes, empty where the data have none.
        classes: of the classifier.

    Raises:
        UserError: the data have a class that the classifier does not know.
    """
    count, numbers = len(classes), numbers_in_head(names, classes)
    if numbers is None:
        if labels.max() >= count:
            raise UserError(f"The data have label {labels.max()}, but the classifier knows {count} classes. Use other data.")
        return labels
    unknown = [name for name, number in zip(names, numbers, strict=True) if number < 0]
    if unknown or len(names) > count:
        first = f"{', '.join(classes[:5])}{', ...' if count > 5 else ''}"
        extra = f"class {unknown[0]}" if unknown else f"{len(names)} classes"
        raise UserError(f"The data have {extra}, but the classifier knows {count} classes ({first}). Use data of its classes.")
    return numbers[labels]
