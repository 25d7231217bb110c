"""What would you get without pre-training? A small ResNet that trains on the labelled images alone.

    python -m experiments.baseline --config=cifar10 --data=folder:CIFAR --label_fraction=0.01 --workdir=runs/cifar10/resnet-0.01

It has the data, the labels and the image size of the config, and trains by SGD with a one-cycle learning rate, random crops,
flips, random erasing and label smoothing. Its epochs, learning rate, crops and strength of augmentation (`finetune.strong`) are
chosen on held-out labelled images. The best setting trains again with all labels, once for each seed, and is scored on the
validation images.

Writes WORKDIR/result.json, and a folder for each training. Run it again to resume: trainings that are done are kept.
"""

import argparse
import itertools
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras

from experiments.commands import run_script
from pf_keras.config import Config, load_config
from pf_keras.data.labels import class_names, labelled_source, labelled_subset, require_classes
from pf_keras.data.pipeline import training_batches
from pf_keras.data.records import Split
from pf_keras.data.selection import hold_out_labelled
from pf_keras.data.sources import open_source
from pf_keras.errors import UserError
from pf_keras.evaluation.scores import predict_logits, top_k
from pf_keras.noise import STRONG
from pf_keras.training.devices import Devices, open_devices

WIDTHS, BLOCKS = (16, 32, 64), 3  # channels of the stages, and blocks in each
WARM_UP = 0.3  # of the steps, over which the learning rate rises
WEIGHT_DECAY, MOMENTUM = 5e-4, 0.9


def main(arguments: list[str]) -> None:
    """Choose the setting, train the winner with every seed, and print the result."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.baseline", description=__doc__, formatter_class=layout)
    parser.add_argument("--config", required=True, help="a config, for the image size, crops and batch")
    parser.add_argument("--data", required=True, help="labelled images")
    parser.add_argument("--label_fraction", type=float, default=1.0, help="the fraction of each class's labels")
    parser.add_argument("--workdir", required=True, type=Path, help="the folder for results")
    parser.add_argument("--epochs", type=numbers(int), default="100,300", help="epochs to choose from")
    parser.add_argument("--learning_rates", type=numbers(float), default="0.05,0.1,0.2", help="learning rates to choose from")
    parser.add_argument("--crops", type=numbers(float), default="0.25,0.6", help="smallest fractions of the area in a crop")
    parser.add_argument("--strengths", type=numbers(float), default="0,0.5", help="strengths of augmentation to choose from")
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--seeds", type=numbers(int), default="0,1,2", help="the seeds of the winner")
    parser.add_argument("--parallel_parts", type=int, default=1, help="parts of a batch at the same time, one for each core")
    options = parser.parse_args(arguments)
    config = load_config(options.config).override({"data.source": options.data})
    devices = open_devices(config.run.precision, parallel_parts=options.parallel_parts)
    source = labelled_source(open_source(config.data), config.data.holdout)
    classes = class_names(source)
    require_classes(classes)
    labelled = labelled_subset(source.train, options.label_fraction)
    train, held_out = hold_out_labelled(labelled, config.sweep.holdout)
    run = partial(score, config, devices, len(classes), options.batch)
    chosen, best = None, -1.0
    for setting in itertools.product(options.epochs, options.learning_rates, options.crops, options.strengths):
        found = run(setting, 0, train, held_out, options.workdir / "grid" / name_of(setting))
        if found > best:
            chosen, best = setting, found
    scores = [
        run(chosen, seed, labelled, source.validation, options.workdir / "final" / f"seed-{seed}") for seed in options.seeds
    ]
    epochs, rate, crop, strength = chosen
    result = {
        "labels": labelled.size, "images": source.validation.size, "epochs": epochs, "learning_rate": rate, "crop": crop,
        "strong": strength, "batch": options.batch, "held_out_top1": best, "top1_mean": statistics.fmean(scores),
        "top1_sd": statistics.stdev(scores) if len(scores) > 1 else None, "seeds": len(scores),
        "parameters": resnet(config.model.image_size, len(classes)).count_params(),
    }  # fmt: skip
    (options.workdir / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def numbers(kind: type) -> type:
    """A function from text such as `1,2` to a list of numbers of this kind."""

    def read(text: str) -> list:
        return [kind(part) for part in text.split(",")]

    read.__name__ = f"list of {kind.__name__}"
    return read


def name_of(setting: Sequence[float]) -> str:
    """The name of a setting's folder."""
    epochs, rate, crop, strength = setting
    return f"{epochs}-epochs-lr{rate:g}-crop{crop:g}" + (f"-strong{strength:g}" if strength else "")


def score(
    config: Config,
    devices: Devices,
    classes: int,
    batch: int,
    setting: tuple,
    seed: int,
    train: Split,
    test: Split,
    folder: Path,
) -> float:
    """Train with one setting, and return the top-1 accuracy on `test`.

    A training that is done is not repeated, and one that was stopped resumes after its last whole epoch.

    Raises:
        UserError: there are fewer images than a batch has, or the folder is of another training.
    """
    epochs, rate, crop, strength = setting
    what = {"setting": setting if strength else setting[:3], "seed": seed, "batch": batch, "classes": classes}
    what |= {"train": train.digest(), "test": test.digest(), "labels": train.size}
    file = folder / "score.json"
    folder.mkdir(parents=True, exist_ok=True)
    if file.exists():
        known = json.loads(file.read_text())
        if known["what"] != json.loads(json.dumps(what)):
            raise UserError(f"{folder} is of another training. Choose another --workdir.")
        return known["top1"]
    steps = train.size // batch
    if not steps:
        raise UserError(f"There are {train.size} labelled images, but --batch={batch}. Make it smaller.")
    keras.utils.set_random_seed(seed)
    with devices.scope():
        model = resnet(config.model.image_size, classes)
        peak = {"initial_learning_rate": 0.0, "warmup_target": rate, "warmup_steps": round(WARM_UP * steps * epochs)}
        schedule = keras.optimizers.schedules.CosineDecay(decay_steps=round((1 - WARM_UP) * steps * epochs), **peak)
        devices.compile(
            model,
            optimizer=keras.optimizers.SGD(schedule, MOMENTUM, nesterov=True),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
            metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
        )
    config = replace(config, run=replace(config.run, seed=seed), finetune=replace(config.finetune, strong=strength))
    noise = {"strong_noise": (len(STRONG),)} if strength else {}
    batches = training_batches(train, config, batch, noise, crop_scale=(crop, 1.0), classes=classes)
    print(f"{folder}: {train.size} labelled images, {epochs} epochs of {steps} steps", file=sys.stderr)
    log = keras.callbacks.CSVLogger(folder / "epochs.csv", append=True)
    callbacks = [keras.callbacks.BackupAndRestore(folder / "backup"), log]
    model.fit(
        batches.map(lambda inputs, labels: (inputs["image"], labels)),
        epochs=epochs, steps_per_epoch=steps, verbose=0, callbacks=callbacks,
    )  # fmt: skip
    logits = predict_logits(on_images(model), test, config, devices)
    top1 = top_k(logits, test.labels, 1)
    file.write_text(json.dumps({"top1": top1, "what": what}) + "\n")
    shutil.rmtree(folder / "backup", ignore_errors=True)
    print(f"{folder}: {top1:.1%}", file=sys.stderr)
    return top1


def on_images(model: keras.Model) -> keras.Model:
    """The model with the inputs of evaluation batches, a dict of `image`."""
    image = keras.Input(model.input_shape[1:], dtype="uint8", name="image")
    wrapped = keras.Model({"image": image}, model(image, training=False))
    wrapped.compile()
    return wrapped


def resnet(image_size: int, classes: int) -> keras.Model:
    """A pre-activation ResNet (He et al., 2016) with 0.27M parameters.

    Args:
        image_size: pixels on each side. Above 32 the first convolution has a stride of 2.
        classes: their number.

    Returns:
        A model from uint8 `(B, S, S, 3)` to logits, float32 `(B, classes)`.
    """

    def conv(x, filters, size=3, strides=1):
        decay = keras.regularizers.L2(WEIGHT_DECAY)
        start = {"kernel_initializer": "he_normal", "kernel_regularizer": decay}
        return keras.layers.Conv2D(filters, size, strides, "same", use_bias=False, **start)(x)

    def activated(x):
        return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))

    image = keras.Input((image_size, image_size, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    x = keras.layers.RandomErasing(0.5, scale=(0.05, 0.25), fill_value=0.0, value_range=(-1, 1))(x)
    x = conv(x, WIDTHS[0], strides=1 if image_size <= 32 else 2)
    for stage, filters in enumerate(WIDTHS):
        for block in range(BLOCKS):
            strides = 2 if stage and not block else 1
            y = activated(x)
            shortcut = conv(y, filters, 1, strides) if x.shape[-1] != filters else x
            y = conv(activated(conv(y, filters, strides=strides)), filters)
            x = keras.layers.Add()([shortcut, y])
    x = keras.layers.GlobalAveragePooling2D()(activated(x))
    return keras.Model(image, keras.layers.Dense(classes, dtype="float32")(x), name="resnet")


if __name__ == "__main__":
    run_script(lambda: main(sys.argv[1:]))
