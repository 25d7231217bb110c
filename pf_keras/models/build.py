"""Build models from a config. Only here are config fields passed on as constructor arguments."""

import dataclasses

import keras

from pf_keras.config import Config, ModelConfig
from pf_keras.models.backbone import Backbone
from pf_keras.models.classifier import Classifier
from pf_keras.models.pretrainer import Pretrainer


def build_backbone(model: ModelConfig) -> Backbone:
    """The backbone. Its weights are not created yet."""
    fields = dataclasses.asdict(model)
    del fields["decoder_width"]  # an argument of the pre-trainer
    return Backbone(**fields, name="backbone")


def build_pretrainer(config: Config) -> Pretrainer:
    """The pre-training model, with initial weights."""
    pretrainer = Pretrainer(
        build_backbone(config.model),
        mask_ratio=config.mask.ratio,
        block=config.mask.block,
        target_size=config.target.size,
        target_bits=config.target.bits,
        target_crop=config.target.crop,
        target_channels=config.target.channels,
        decoder_width=config.model.decoder_width,
        augment=dataclasses.asdict(config.augment),
        label_smoothing=config.pretrain.label_smoothing,
        decode_fraction=config.mask.decode_fraction,
        name="pretrainer",
    )
    pretrainer.build()
    return pretrainer


def build_classifier(config: Config, classes: int) -> Classifier:
    """The classifier for a number of classes, with initial weights."""
    classifier = Classifier(
        build_backbone(config.model),
        classes,
        mask_ratio=config.finetune.mask_ratio,
        dropout=config.finetune.dropout,
        head=config.finetune.head,
        name="classifier",
    )
    classifier.build()
    return classifier


def count_parameters(config: Config) -> int:
    """Number of parameters of the pre-training model, found without allocating them."""
    with keras.StatelessScope(initialize_variables=False):
        return build_pretrainer(config).count_params()
