"""PatchFormer: self-supervised pre-training by decoding masked patches, in Keras.

Importing this package registers its layers and models with Keras, so that their saved files load without
`custom_objects`. It loads no more of TensorFlow than the Keras backend in use does.
"""

import os

# TensorFlow's wheel holds oneDNN's kernels and uses them on some processors alone. Where AVX2 is all there is they make a
# step up to 1.4 times as fast (experiments/PERFORMANCE.md). It is read once, as TensorFlow loads.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from pf_keras import layers, models  # noqa: E402

__all__ = ["layers", "models"]
__version__ = "0.1.0"
