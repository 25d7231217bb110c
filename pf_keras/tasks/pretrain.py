"""`--mode=pretrain`: learn to decode masked patches, from the newest checkpoint in the workdir to the last step."""

import sys
from collections.abc import Sequence
from functools import partial

import keras
from etils import epath

from pf_keras.config import Config
from pf_keras.data.corrupt import check_validation, naming_corrupt_images
from pf_keras.data.images import Images
from pf_keras.data.labels import describe_classes
from pf_keras.data.pipeline import evaluation_batches, training_batches
from pf_keras.evaluation.probes import Probes, probe_images
from pf_keras.evaluation.reconstruction import Pictures, draw, examples, score_pretrainer
from pf_keras.figures import draw_loss
from pf_keras.models import PretrainScores, build_pretrainer
from pf_keras.noise import pretrain_noise
from pf_keras.request import Request
from pf_keras.training.checkpoint import latest_checkpoint
from pf_keras.training.data_record import open_run_data
from pf_keras.training.devices import open_devices
from pf_keras.training.identity import RunIdentity, start_run
from pf_keras.training.learning_rate import describe_scaling
from pf_keras.training.loop import train
from pf_keras.training.metrics_log import MetricsLog
from pf_keras.training.monitoring import Monitor
from pf_keras.training.optimizer import build_optimizer
from pf_keras.training.trackers import check_tracker, finish
from pf_keras.training.weights import check_pretraining, checkpoint_to_use, init_facts, init_step, load_pretraining, record_init
from pf_keras.training.weights_file import is_weights_file
from pf_keras.training.workdir import open_workdir

PROBED = ("step", "knn_top1", "linear_top1")


def run(request: Request) -> dict:
    """Pre-train in `request.workdir` with `request.config`. Returns the content of `result.json`."""
    config, settings = request.config, request.config.pretrain
    config.run.check_every("pretrain.probe_every", settings.probe_every)
    check_tracker(config.run.tracker)
    devices = open_devices(config.run.precision, request.tpu, config.run.parallel_parts)
    devices.check_run(config.run, settings.steps, pretrain=settings)
    workdir = open_workdir(request.workdir, devices.chief)
    init, begins = request.init or "scratch", latest_checkpoint(workdir.checkpoints) is None
    if init != "scratch" and begins:
        check_pretraining(init, config)
    data = open_run_data(workdir, config.data, labels=settings.probe_every > 0)  # labels are for the probes alone
    config = data.reading(config)
    if init != "scratch" and not is_weights_file(init):
        data.warn_of_hold_out(init)
    seen = data.source.train
    print(describe_classes(data.source) if isinstance(seen, Images) else f"{seen.size} images, labels unread", file=sys.stderr)
    with naming_corrupt_images(data.source):
        scored = data.source.validation.sample(config.run.score_images)
        probed = probe_images(data.source, settings.probe_images, scored) if settings.probe_every else ()
        start_run(workdir, RunIdentity("pretrain", config, {**init_facts(init), **devices.facts()}), data)

        keras.utils.set_random_seed(config.run.seed)
        with devices.scope():
            model = build_pretrainer(config)
            optimizer = build_optimizer(model, settings, settings.steps, settings.warmup_steps)
            devices.compile(model, config.run.steps_per_execution, settings.accumulate, optimizer=optimizer)
            if init != "scratch" and begins:
                record_init(workdir, load_pretraining(model, init, config))
        describe(model, config)
        print(f"training on {devices}", file=sys.stderr)
        if scaling := describe_scaling(settings):
            print(scaling, file=sys.stderr)

        noise = pretrain_noise(config)
        if begins and not data.searched and devices.chief:
            check_validation(data.source, scored)
        callbacks = [pictures := Pictures(partial(examples, scored, config, noise), config.run.log_every)]
        if probed:
            probes = Probes(model.backbone, *probed, config, devices)
            callbacks.append(Monitor(probes, settings.probe_every, settings.steps))
        training = partial(training_batches, data.source.train, config, settings.batch, noise)
        train(
            model,
            lambda step: devices.distribute(partial(training, start_step=step)),
            settings.steps,
            settings.batch,
            workdir,
            config.run,
            callbacks,
        )
        if settings.ema:  # else the model has the right weights, of its last step
            checkpoint_to_use(workdir).load_into(model)
        with devices.scope():
            scorer = PretrainScores(model)
            devices.compile(scorer)
        validation = devices.distribute(partial(evaluation_batches, scored, config, config.run.eval_batch, noise))
        scores = score_pretrainer(scorer, validation, scored.size)

    draw(model, pictures.batch, workdir.figures / "reconstruction.png")
    draw_loss(MetricsLog(workdir).lines(), workdir.figures / "loss.png", scores["marginal_entropy"])
    result = {
        "steps": settings.steps,
        **scores,
        "parameters": model.count_params(),
        "images_per_second": MetricsLog(workdir).throughput(),
        "validation_images": scored.size,
        "bad_images": len(data.corrupt),
    }
    result |= last_probes(MetricsLog(workdir).lines())
    if probed:
        result |= {"probe_labels": probed[0].labels.size, "probe_images": probed[1].labels.size}
    if init != "scratch":
        result |= {"init": init, "init_step": init_step(workdir)}
    finish(workdir, config, result)
    warn_if_nothing_learned(scores["loss_ratio"], scored.size, workdir.figures / "reconstruction.png")
    return result


def warn_if_nothing_learned(loss_ratio: float | None, images: int, picture: epath.Path) -> None:
    """Print a warning where a pre-training is no better than guessing.

    Args:
        loss_ratio: its loss on validation images over that of guessing by frequency, None where all targets are equal.
        images: how many validation images were scored.
        picture: shows what the model decodes.
    """
    if loss_ratio is None:
        print(
            f"WARNING: this run learned nothing. The targets of all {images} validation images have a single level, as if they "
            f"were blank, and the loss means nothing. Look at {picture} and check --data",
            file=sys.stderr,
        )
    elif loss_ratio >= 1:
        print(
            f"warning: this run is no better than guessing. Its loss on validation images is {loss_ratio:.4g} times that of "
            "guessing each level by its frequency (loss_ratio). Train longer, or with another learning rate",
            file=sys.stderr,
        )


def last_probes(lines: Sequence[dict]) -> dict[str, float]:
    """The last accuracies of the probes in `metrics.jsonl`, and their step. Empty where there were none."""
    probed = [line for line in lines if "knn_top1" in line]
    return {"probe_step" if name == "step" else name: probed[-1][name] for name in PROBED} if probed else {}


def describe(model: keras.Model, config: Config) -> None:
    """Print the sizes that the paper gives, and warn about a warm-up without end."""
    encoder = model.backbone.patch_encoder
    projection = encoder.projection.count_params()
    parameters = {
        f"ResNet-{2 + 3 * sum(encoder.stacks)}": encoder.count_params() - projection,
        "projection": projection,
        "transformer": model.backbone.transformer.count_params(),
        "attention pooling": model.backbone.pooling.count_params(),
        "decoder": model.decoder.count_params(),
        "total": model.count_params(),
    }
    decoded = f", of which a step decodes {config.decoded}" if config.decoded < config.masked else ""
    print(f"patches: N={config.model.patches} visible V={config.visible} masked M={config.masked}{decoded}", file=sys.stderr)
    print("parameters: " + ", ".join(f"{name} {n / 1e6:.2f}M" for name, n in parameters.items()), file=sys.stderr)
    if config.pretrain.warmup_steps >= config.pretrain.steps:
        print(
            f"warning: pretrain.warmup_steps={config.pretrain.warmup_steps} covers all {config.pretrain.steps} steps: the "
            "learning rate only rises",
            file=sys.stderr,
        )
