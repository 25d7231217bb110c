"""The models and batches of the training steps, as a run has them, without its data."""

from dataclasses import dataclass

import keras

from pf_keras.config import Config
from pf_keras.models import build_classifier, build_pretrainer
from pf_keras.noise import BY_PIPELINE, finetune_noise, pretrain_noise
from pf_keras.training.devices import Devices
from pf_keras.training.learning_rate import layer_rates
from pf_keras.training.optimizer import build_optimizer

WORDS = {"pretrain": "pre-training", "finetune": "fine-tuning"}
CLASSES = 1000  # of fine-tuning. The data decides, and a plan reads none. ImageNet's, of which fewer need less memory.
FINETUNE_STEPS = 100_000  # any number: it is a constant in the learning rate


@dataclass(frozen=True)
class Rows:
    """One array of a batch: the shape of an example, and the dtype."""

    shape: tuple[int, ...]
    dtype: str = "float32"


def build_model(config: Config, training: str) -> keras.Model:
    """The model that a training trains.

    Args:
        config: of the run.
        training: `pretrain` or `finetune`.
    """
    return build_pretrainer(config) if training == "pretrain" else build_classifier(config, CLASSES)


def compile_model(model: keras.Model, config: Config, training: str, devices: Devices) -> None:
    """Give a model of `build_model` its optimizer and loss, as the run does. Use it within `devices.scope()`."""
    if training == "pretrain":
        settings = config.pretrain
        optimizer = build_optimizer(model, settings, settings.steps, settings.warmup_steps)
        devices.compile(model, config.run.steps_per_execution, settings.accumulate, optimizer=optimizer)
        return
    from pf_keras.tasks.finetune import compile_classifier  # which imports what reads data

    settings = config.finetune
    optimizer = build_optimizer(model, settings, FINETUNE_STEPS, round(settings.warmup * FINETUNE_STEPS))
    optimizer.scale_rates(layer_rates(model.backbone, settings.layer_decay))
    compile_classifier(model, optimizer, config, devices)


def batch_rows(config: Config, training: str):
    """What an example of the training has, in the structure of a batch that `fit` gets. The leaves are `Rows`."""
    side = config.model.image_size
    noise = pretrain_noise(config) if training == "pretrain" else finetune_noise(config)
    inputs = {"image": Rows((side, side, 3), "uint8")}
    inputs |= {name: Rows(shape) for name, shape in noise.items() if name not in BY_PIPELINE}
    return (inputs,) if training == "pretrain" else (inputs, Rows((CLASSES,)))


def settings_of(config: Config, training: str):
    """The section of the config with the batch and the optimizer of a training."""
    return getattr(config, training)


def precision_on_tpu(config: Config) -> str:
    """The Keras dtype policy that a run has on a TPU."""
    return "mixed_bfloat16" if config.run.precision == "auto" else config.run.precision
