"""`--mode=finetune`: a classifier from few labels, on a pre-trained backbone or from scratch."""

import sys
from functools import partial

import keras

from pf_keras.data.bad import naming_bad_images, open_readable
from pf_keras.data.labels import class_names, labelled_subset, labels_definition, require_classes, require_labels
from pf_keras.data.mix import require_pairs
from pf_keras.data.pipeline import evaluation_batches, finetune_noise, training_batches
from pf_keras.errors import UserError
from pf_keras.figures import draw_loss
from pf_keras.models import build_classifier
from pf_keras.training.checkpoint import latest_checkpoint, require_checkpoint
from pf_keras.training.execution import check_steps
from pf_keras.training.loop import train
from pf_keras.training.optimizer import build_optimizer, layer_rates
from pf_keras.training.scores import predict_logits, top_k
from pf_keras.training.strategy import open_devices
from pf_keras.training.transfer import NO_WEIGHTS, load_backbone
from pf_keras.training.workdir import Workdir


def run(request):
    """Fine-tune in `request.workdir`; returns what `result.json` holds."""
    config = request.config
    check_init(request.init, config)
    devices = open_devices(config.run.precision, request.tpu)
    workdir = devices.workdir(request.workdir)
    source, bad = open_readable(config.data, workdir)
    with naming_bad_images(source):
        labelled = labelled_subset(source.train, request.label_fraction, request.label_list)
        require_labels(source.validation)
        classes = class_names(source)
        require_classes(classes)
    steps_of(config, devices, labelled.size)
    labels = labels_definition(request.label_fraction, request.label_list)
    definition = {"init": request.init, **labels, "classes": list(classes), **devices.definition()}
    workdir.start("finetune", config, definition, source.splits())
    workdir.write_data(source.splits(), bad, config.data)
    workdir.write_labels(labelled)

    scores = fit_and_score(config, devices, workdir, labelled, source.validation, classes, request.init, source)
    result = {
        **scores,
        "labels": labelled.size,
        "bad_images": len(bad),
        "label_fraction": round(labelled.size / source.train.size, 6) if request.label_list else request.label_fraction,
        "init": request.init,
        "init_step": workdir.init_step(),
        "seed": config.run.seed,
    }
    workdir.write_result(result)
    return result


def fit_and_score(config, devices, workdir, labelled, validation, classes, init, source):
    """Train a classifier on the split `labelled` in `workdir` and score it on `validation`.

    Returns `top1, top5, images, steps, parameters, images_per_second`.
    """
    settings, steps = config.finetune, steps_of(config, devices, labelled.size)
    keras.utils.set_random_seed(config.run.seed)
    with devices.scope():
        model = build_classifier(config, len(classes))
        optimizer = build_optimizer(model, settings, steps, round(settings.warmup * steps))
        if init != "scratch":
            checkpoint = load_backbone(model, init, config)
            if not latest_checkpoint(workdir.checkpoints):  # else it goes on from that, whatever it began from
                workdir.write_init(checkpoint.step)
            optimizer.scale_rates(layer_rates(model.backbone, settings.layer_decay))
        devices.compile(
            model,
            config.run.steps_per_execution,
            optimizer=optimizer,
            loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=settings.label_smoothing),
            # By its class: of its name Keras would make it while the first step is traced, and trace that a second time.
            metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
        )
    images = f"{labelled.size} labelled images of {len(set(labelled.labels.tolist()))} of {len(classes)} classes"
    print(f"{images}, {steps} steps of {settings.batch} on {devices}", file=sys.stderr)

    options = {"crop_scale": settings.crop_scale, "classes": len(classes)}
    batches = partial(training_batches, labelled, config, settings.batch, finetune_noise(config), **options)
    with naming_bad_images(source):
        rate = train(
            model,
            lambda step: devices.spread(partial(batches, start_step=step)),
            steps,
            settings.batch,
            workdir,
            config.run,
        )
        held_out = devices.spread(partial(evaluation_batches, validation, config, config.run.eval_batch))
        logits = predict_logits(model, held_out, validation.size)
    draw_loss(workdir.metrics(), workdir.figures / "loss.png")
    return {
        "top1": top_k(logits, validation.labels, 1),
        "top5": top_k(logits, validation.labels, 5),
        "images": validation.size,
        "steps": steps,
        "parameters": model.count_params(),
        "images_per_second": rate,
    }


def steps_of(config, devices, size):
    """The number of steps of a fine-tuning on so many images.

    Raises UserError where batch, steps and devices do not go together.
    """
    settings, several = config.finetune, config.run.steps_per_execution
    for batch in (settings.batch, config.run.eval_batch):
        devices.check_batch(batch)
    if settings.mix:
        require_pairs(settings.batch // devices.replicas)
    steps = several * max(1, round(settings.epochs * size / settings.batch / several))
    check_steps(config.run, steps)
    return steps


def load_classifier(workdir, config=None):
    """The classifier of a fine-tuned workdir, uncompiled: `(model, class names, checkpoint)`, the newest.

    config: in place of the workdir's. Raises UserError where it has another network.
    """
    config = config or workdir.config()
    workdir.require_same(config, "model", "finetune.head", free=NO_WEIGHTS)
    classes = tuple(workdir.definition()["classes"])
    model = build_classifier(config, len(classes))
    return model, classes, require_checkpoint(workdir.checkpoints).load_into(model)


def check_init(init, config):
    """The step of the newest checkpoint in the pre-training workdir `init`; None where it is `scratch`.

    Raises UserError where it is neither, has no checkpoint, or its network is not the config's.
    """
    if not init:
        raise UserError("expected --init=PRETRAIN_WORKDIR or --init=scratch, received none: say where to start from")
    if init == "scratch":
        return None
    workdir = Workdir.of_run(init, "pretrain")
    workdir.require_same(config, "model", free=NO_WEIGHTS)
    return require_checkpoint(workdir.checkpoints).step
