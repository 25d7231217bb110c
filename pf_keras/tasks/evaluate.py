"""`--mode=evaluate`: score a fine-tuned workdir, or probe the frozen features of a pre-trained one."""

import csv
import io
from functools import partial

from pf_keras.config import differing_fields
from pf_keras.data.bad import naming_bad_images, open_readable
from pf_keras.data.labels import require_labels
from pf_keras.data.pipeline import evaluation_batches
from pf_keras.data.sources import same_data
from pf_keras.errors import UserError
from pf_keras.figures import draw_confusion
from pf_keras.tasks.finetune import load_classifier
from pf_keras.tasks.probe import probe
from pf_keras.training.scores import predict_logits, top_k
from pf_keras.training.strategy import open_devices
from pf_keras.training.workdir import Workdir


def run(request):
    """Evaluate the newest checkpoint of `request.workdir` on the data of `request.config`.

    Writes `evaluate/result.json` and what belongs to it into the workdir; returns the result.
    """
    workdir = Workdir.of_run(request.workdir, "finetune", "pretrain")
    if workdir.mode() == "finetune" and request.label_fractions != (1.0,):
        raise UserError("expected --label_fraction to evaluate a pre-training, received it with a fine-tuned run: leave it out")
    config = request.config
    devices = open_devices(config.run.precision, request.tpu)
    workdir = devices.workdir(request.workdir)
    folder = workdir.folder("evaluate")
    # What it never met is scored whole where it has no split for that; a probe learns from the training split.
    other = workdir.mode() == "finetune" and not same_data(config.data.source, workdir.config().data.source)
    source, bad = open_readable(config.data, workdir, whole=other)
    with naming_bad_images(source):
        if workdir.mode() == "pretrain":
            result = probe(workdir, config, devices, source, request.label_fractions, folder)
        else:
            result = score_classifier(workdir, config, devices, source, folder)
    began = workdir.config()
    data = began.data.source if workdir.began_with(source.splits()) else config.data.source  # by the name that the run has
    result |= {"bad_images": len(bad), "data": data, "changed": differing_fields(began, config)}
    workdir.write_json(folder / "result.json", result)
    return result


def score_classifier(workdir, config, devices, source, folder):
    """Top-1 and top-5 on the validation images, accuracy a class as csv, and a confusion picture."""
    devices.check_batch(config.run.eval_batch)
    validation = source.validation
    require_labels(validation)
    with devices.scope():
        model, classes, checkpoint = load_classifier(workdir, config)
        model.compile(jit_compile=devices.jit_compile)
    labels = labels_of_head(validation.labels, source.classes, classes)
    batches = devices.spread(partial(evaluation_batches, validation, config, config.run.eval_batch))
    logits = predict_logits(model, batches, validation.size)

    from sklearn.metrics import confusion_matrix

    confusion = confusion_matrix(labels, logits.argmax(1), labels=range(len(classes)))
    rows = io.StringIO()
    table = csv.writer(rows, lineterminator="\n")
    table.writerow(["class", "images", "correct", "accuracy"])
    for name, counts, right in zip(classes, confusion.sum(1), confusion.diagonal(), strict=True):
        table.writerow([name, counts, right, f"{right / counts:.4f}" if counts else ""])
    workdir.write_text(folder / "classes.csv", rows.getvalue())
    draw_confusion(confusion, classes, folder / "confusion.png")
    return {
        "top1": top_k(logits, labels, 1),
        "top5": top_k(logits, labels, 5),
        "steps": checkpoint.step,
        "images": validation.size,
        "classes": len(classes),
    }


def labels_of_head(labels, names, classes):
    """The labels as the classifier's head counts them: by name, or by number where names do not tell its classes apart.

    Raises UserError for a class that the head does not know.
    """
    if not names or tuple(names) == tuple(classes) or len(set(classes)) < len(classes) == len(names):
        if labels.max() >= len(classes):
            raise UserError(f"expected labels of the head's {len(classes)} classes, received label {labels.max()}")
        return labels
    if len(names) > len(classes):
        raise UserError(f"expected at most the head's {len(classes)} classes, received data with {len(names)}")
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise UserError(f"expected the head's classes ({', '.join(classes[:5])}, …), received data with {unknown[0]}")
    import numpy as np

    return np.array([classes.index(name) for name in names])[labels]
