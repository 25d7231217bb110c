"""PatchFormer: self-supervised pre-training by decoding masked patches, in Keras.

Importing this package registers its layers and models with Keras, so that their saved files load without
`custom_objects`. It loads no more of TensorFlow than the Keras backend in use does.
"""

from pf_keras import layers, models

__all__ = ["layers", "models"]
__version__ = "0.1.0"
