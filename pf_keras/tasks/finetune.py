"""`--mode=finetune`: train a classifier with few labels, on a pre-trained backbone or from scratch."""

import sys
from collections.abc import Sequence
from functools import partial

import keras
import numpy as np

from pf_keras.config import Config
from pf_keras.data.corrupt import check_validation, naming_corrupt_images
from pf_keras.data.labels import (
    class_names,
    describe_classes,
    kept_fraction,
    labelled_source,
    labelled_subset,
    labels_definition,
    require_classes,
    require_labels,
)
from pf_keras.data.mix import require_pairs
from pf_keras.data.pipeline import training_batches
from pf_keras.data.records import Split
from pf_keras.data.selection import hold_out_labelled
from pf_keras.evaluation.scores import TopOne, predict_logits, top_k
from pf_keras.figures import draw_loss
from pf_keras.models import build_classifier
from pf_keras.noise import finetune_noise
from pf_keras.request import Request
from pf_keras.training.checkpoint import latest_checkpoint
from pf_keras.training.data_record import open_run_data, record_labels
from pf_keras.training.devices import Devices, open_devices
from pf_keras.training.identity import RunIdentity, start_run
from pf_keras.training.learning_rate import describe_scaling, layer_rates
from pf_keras.training.loop import train
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.monitoring import HOLDOUT, HoldOut, Monitor, choice
from pf_keras.training.optimizer import build_optimizer
from pf_keras.training.trackers import check_tracker, finish
from pf_keras.training.weights import check_init, checkpoint_to_use, init_facts, init_step, load_backbone, record_init
from pf_keras.training.workdir import Workdir, open_workdir


def run(request: Request) -> dict:
    """Fine-tune in `request.workdir` from `request.init`. Returns the content of `result.json`."""
    config, init, fraction, listed = request.config, request.init, request.label_fraction, request.label_list
    check_init(init, config)
    check_tracker(config.run.tracker)
    devices = open_devices(config.run.precision, request.tpu, config.run.parallel_parts)
    workdir = open_workdir(request.workdir, devices.chief)
    data = open_run_data(workdir, config.data)
    config = data.reading(config)
    if init != "scratch":
        data.warn_of_hold_out(init)
    with naming_corrupt_images(data.source):
        require_labels(data.source.train)
        print(describe_classes(data.source), file=sys.stderr)
        source = labelled_source(data.source, config.data.holdout)
        train_split, validation = source.train, source.validation
        labelled = labelled_subset(train_split, fraction, listed)
        require_labels(validation)
        classes = class_names(source)
        require_classes(classes)
        train_part, held_out = part_to_train(config, labelled)
        steps_of(config, devices, train_part.size)
        facts = {**init_facts(init), **labels_definition(fraction, listed), "classes": list(classes), **devices.facts()}
        start_run(workdir, RunIdentity("finetune", config, facts), data)
        record_labels(workdir, labelled, held_out)
        if not (latest_checkpoint(workdir.checkpoints) or data.searched) and devices.chief:
            check_validation(source, validation)
        scores = fit_and_score(config, devices, workdir, labelled, validation, classes, init)
    result = {
        **scores,
        "labels": labelled.size,
        "bad_images": len(data.corrupt),
        "label_fraction": kept_fraction(source, labelled.size, fraction, listed),
        "init": init,
        "init_step": init_step(workdir),
        "seed": config.run.seed,
    }
    finish(workdir, config, result)
    warn_if_nothing_learned(result["top1"], validation.labels, classes)
    return result


def warn_if_nothing_learned(top1: float, labels: np.ndarray, classes: Sequence[str]) -> None:
    """Print a warning where a classifier is no better than one that always answers the same.

    Args:
        top1: its accuracy on validation images.
        labels: int `(n,)`, the labels of these images.
        classes: the names of the classes.
    """
    counts = np.bincount(labels)
    most = int(counts.argmax())
    if top1 <= counts[most] / len(labels):
        print(
            f"warning: this run learned nothing that counts. Its top-1 accuracy is {top1:.1%}, and always answering "
            f"{classes[most]} gives {counts[most] / len(labels):.1%}. Check the labels, or train longer",
            file=sys.stderr,
        )


def fit_and_score(
    config: Config, devices: Devices, workdir: Workdir, labelled: Split, validation: Split, classes: Sequence[str], init: str
) -> dict:
    """Train a classifier and score it.

    Args:
        config: of the run.
        devices: to train on.
        workdir: of the run, which has been started. A training that was stopped there resumes.
        labelled: the images to train on. With `finetune.holdout` a part of them is held out to choose the checkpoint by.
        validation: the images to score on.
        classes: the names of the classes.
        init: the workdir of a pre-training, or `scratch`.

    Returns:
        `top1`, `top5`, the `majority_top1` of always answering the most frequent class, the number of validation `images`, the
        `steps` that were done, the number of `train_images`, `parameters` and `images_per_second`. With a hold-out also what
        `choice` returns, and `holdout_images`.
    """
    train_split, held_out = part_to_train(config, labelled)
    settings, steps = config.finetune, steps_of(config, devices, train_split.size)
    keras.utils.set_random_seed(config.run.seed)
    with devices.scope():
        model = build_classifier(config, len(classes))
        optimizer = build_optimizer(model, settings, steps, round(settings.warmup * steps))
        if init != "scratch":
            checkpoint = load_backbone(model, init, config)
            if not latest_checkpoint(workdir.checkpoints):  # else the run resumes, whatever the pre-training has by now
                record_init(workdir, checkpoint.step)
            optimizer.scale_rates(layer_rates(model.backbone, settings.layer_decay))
        compile_classifier(model, optimizer, config, devices)
    images = f"{train_split.size} labelled images of {len(set(train_split.labels.tolist()))} of {len(classes)} classes"
    print(f"{images}, {steps} steps of {settings.batch} on {devices}", file=sys.stderr)
    if scaling := describe_scaling(settings):
        print(scaling, file=sys.stderr)
    monitors = []
    if held_out:
        print(f"{held_out.size} labelled images are held out to choose the best checkpoint by", file=sys.stderr)
        score = TopOne(HOLDOUT, model, held_out, config, devices)
        every = settings.evaluate_every or config.run.log_every
        monitors.append(HoldOut(score, every, steps, workdir, settings.patience))
    if settings.evaluate_every:
        print("validation_top1 is for watching only: nothing is chosen by it", file=sys.stderr)
        score = TopOne("validation_top1", model, validation, config, devices)
        monitors.append(Monitor(score, settings.evaluate_every, steps))

    options = {"crop_scale": settings.crop_scale, "classes": len(classes)}
    training = partial(training_batches, train_split, config, settings.batch, finetune_noise(config), **options)
    train(
        model,
        lambda step: devices.distribute(partial(training, start_step=step)),
        steps,
        settings.batch,
        workdir,
        config.run,
        monitors,
    )
    metrics = MetricsLog(workdir)
    chosen = {}
    if held_out or settings.ema:  # else the model has the right weights, of its last step
        checkpoint = checkpoint_to_use(workdir).load_into(model)
        if held_out:
            chosen = {**choice(metrics.lines(), steps, checkpoint), "holdout_images": held_out.size}
    logits = predict_logits(model, validation, config, devices)
    draw_loss(metrics.lines(), workdir.figures / "loss.png")
    return {
        "top1": top_k(logits, validation.labels, 1),
        "top5": top_k(logits, validation.labels, 5),
        "majority_top1": float(np.bincount(validation.labels).max() / validation.size),
        "images": validation.size,
        "steps": chosen.get("stopped_at") or steps,
        "train_images": train_split.size,
        "parameters": model.count_params(),
        "images_per_second": metrics.throughput(),
        **chosen,
    }


def compile_classifier(model: keras.Model, optimizer: keras.optimizers.Optimizer, config: Config, devices: Devices) -> None:
    """Compile a classifier for training on these devices. Use it within `devices.scope()`."""
    settings = config.finetune
    devices.compile(
        model,
        config.run.steps_per_execution,
        settings.accumulate,
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=settings.label_smoothing),
        # An object, because Keras creates a metric given by name in the first step, and traces that step twice.
        metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
    )


def part_to_train(config: Config, labelled: Split) -> tuple[Split, Split | None]:
    """The labelled images to train on, and those that `finetune.holdout` keeps, the same ones for every seed.

    Raises:
        UserError: a class has a single image, so that none can be held out.
    """
    holdout = config.finetune.holdout
    return hold_out_labelled(labelled, holdout) if holdout else (labelled, None)


def steps_of(config: Config, devices: Devices, size: int) -> int:
    """The number of steps of a fine-tuning on `size` images. Raises UserError where batch, steps and devices do not fit."""
    settings, several = config.finetune, config.run.steps_per_execution
    config.run.check_every("finetune.evaluate_every", settings.evaluate_every)
    steps = several * max(1, round(settings.epochs * size / settings.batch / several))
    devices.check_run(config.run, steps, finetune=settings)
    if settings.mix:
        require_pairs(settings.batch // devices.replicas)
    return steps
