"""`--mode=pretrain`: learn to decode masked patches, from where the workdir stands to the last step."""

import sys
from functools import partial

import keras
import numpy as np

from pf_keras.data.bad import naming_bad_images, open_readable
from pf_keras.data.pipeline import evaluation_batches, pretrain_noise, training_batches
from pf_keras.errors import writing
from pf_keras.figures import draw_loss
from pf_keras.models import PretrainScores, build_pretrainer
from pf_keras.tasks.reconstruct import EXAMPLES, draw, examples, panels_of
from pf_keras.training.callbacks import RunCallback
from pf_keras.training.execution import check_steps
from pf_keras.training.loop import train
from pf_keras.training.optimizer import build_optimizer
from pf_keras.training.strategy import open_devices

IMAGES_EVERY = 20  # logged windows between the pictures for TensorBoard


def run(request):
    """Pre-train in `request.workdir` with `request.config`; returns what `result.json` holds."""
    config = request.config
    devices = open_devices(config.run.precision, request.tpu)
    workdir = devices.workdir(request.workdir)
    devices.check_batch(config.pretrain.batch)
    devices.check_batch(config.run.eval_batch)
    check_steps(config.run, config.pretrain.steps)
    source, bad = open_readable(config.data, workdir)
    workdir.start("pretrain", config, devices.definition(), source.splits())
    workdir.write_data(source.splits(), bad, config.data)

    settings = config.pretrain
    if settings.warmup_steps >= settings.steps:
        few = f"of {settings.steps} steps all are warm-up, as pretrain.warmup_steps is {settings.warmup_steps}"
        print(f"{few}: the learning rate only rises", file=sys.stderr)
    keras.utils.set_random_seed(config.run.seed)
    with devices.scope():
        model = build_pretrainer(config)
        optimizer = build_optimizer(model, settings, settings.steps, settings.warmup_steps)
        devices.compile(model, config.run.steps_per_execution, optimizer=optimizer)
    describe(model, config)
    print(f"trained on {devices}", file=sys.stderr)

    noise = pretrain_noise(config)
    scored = source.validation.sample(config.run.score_images)
    validation = devices.spread(partial(evaluation_batches, scored, config, config.run.eval_batch, noise))
    batches = partial(training_batches, source.train, config, config.pretrain.batch, noise)
    with naming_bad_images(source):
        sample = examples(scored, config)
        rate = train(
            model,
            lambda step: devices.spread(partial(batches, start_step=step)),
            config.pretrain.steps,
            config.pretrain.batch,
            workdir,
            config.run,
            [Pictures(workdir, sample, config.run.log_every * IMAGES_EVERY)],
        )
        scores = score(model, validation, scored.size, devices)

    draw_loss(workdir.metrics(), workdir.figures / "loss.png", scores["marginal_entropy"])
    draw(model, sample, workdir.figures / "reconstruction.png")
    result = {
        "steps": config.pretrain.steps,
        **scores,
        "parameters": model.count_params(),
        "images_per_second": rate,
        "validation_images": scored.size,
        "bad_images": len(bad),
    }
    workdir.write_result(result)
    return result


def describe(model, config):
    """Print the sizes that the paper names."""
    encoder = model.backbone.patch_encoder
    projection = encoder.projection.count_params()
    millions = {
        f"ResNet-{2 + 3 * sum(encoder.stacks)}": encoder.count_params() - projection,
        "projection": projection,
        "transformer": model.backbone.transformer.count_params(),
        "attention pooling": model.backbone.pooling.count_params(),
        "decoder": model.decoder.count_params(),
        "in all": model.count_params(),
    }
    print(f"patches: N={config.model.patches} visible V={config.visible} masked M={config.masked}", file=sys.stderr)
    print("parameters: " + ", ".join(f"{name} {n / 1e6:.2f}M" for name, n in millions.items()), file=sys.stderr)


def score(model, batches, examples, devices):
    """The figures on held-out images, without smoothing: `loss`, `marginal_entropy` and `loss_ratio`, which is None
    where all targets are of one level.

    `marginal_entropy` is the loss of a predictor that knows only how often each level of a channel occurs in these targets.
    """
    with devices.scope():
        scores = PretrainScores(model)
        scores.compile(jit_compile=devices.jit_compile)
    outputs = scores.predict(batches, verbose=0)
    loss = float(np.mean(outputs["cross_entropy"][:examples], dtype="float64"))
    counts = np.sum(outputs["level_counts"][:examples], axis=0, dtype="float64")
    shares = counts / counts.sum(axis=1, keepdims=True)  # (channels, 2**bits)
    entropy = float(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1).mean())
    return {"loss": loss, "marginal_entropy": entropy, "loss_ratio": loss / entropy if entropy else None}


class Pictures(RunCallback):
    """Reconstructions of the same held-out images for TensorBoard, every so many steps."""

    def __init__(self, workdir, sample, every):
        super().__init__()
        self.workdir, self.sample, self.every, self.writer = workdir, sample, every, None

    def on_epoch_end(self, epoch, logs=None):
        if self.step % self.every:
            return
        import tensorflow as tf

        image, hidden, decoded, truth = panels_of(self.model, self.sample)
        with writing(self.workdir.path):
            self.writer = self.writer or tf.summary.create_file_writer(str(self.workdir.tensorboard))
            with self.writer.as_default(step=self.step):
                tf.summary.image("images", np.concatenate([image, hidden], axis=2), max_outputs=EXAMPLES)
                tf.summary.image("decoded and true", np.concatenate([decoded, truth], axis=2), EXAMPLES)
            self.writer.flush()
