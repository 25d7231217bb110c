"""Models from a config: the one place where config fields meet constructor arguments."""

import dataclasses

from pf_keras.models.backbone import Backbone
from pf_keras.models.classifier import Classifier
from pf_keras.models.pretrainer import Pretrainer


def build_backbone(model):
    """The backbone of a `ModelConfig`, without weights yet."""
    fields = dataclasses.asdict(model)
    del fields["decoder_width"]  # the decoder's, which does not belong to the backbone
    return Backbone(**fields, name="backbone")


def build_pretrainer(config):
    """The pre-training model of a `Config`, with weights."""
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
        name="pretrainer",
    )
    pretrainer.build()
    return pretrainer


def build_classifier(config, classes):
    """The classifier of a `Config` for a number of classes, with weights."""
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
