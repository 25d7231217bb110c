"""The models, and functions that build them from a config."""

import keras  # noqa: F401 - first, so that pf_keras can register its layers (see pf_keras/__init__.py)

from pf_keras.models.backbone import Backbone, Embedder
from pf_keras.models.build import build_backbone, build_classifier, build_pretrainer
from pf_keras.models.classifier import Classifier
from pf_keras.models.decoder import PatchDecoder
from pf_keras.models.patch_encoder import PatchEncoder
from pf_keras.models.pretrainer import Pretrainer, PretrainScores

__all__ = [
    "Backbone",
    "Classifier",
    "Embedder",
    "PatchDecoder",
    "PatchEncoder",
    "PretrainScores",
    "Pretrainer",
    "build_backbone",
    "build_classifier",
    "build_pretrainer",
]
