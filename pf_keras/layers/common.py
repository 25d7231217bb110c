"""The small parts that several layers are made of, with the initial values used throughout."""

import keras

from pf_keras.layers.batch_normalization import BatchNormalization
from pf_keras.layers.convolution import Conv2D, DoublingConv2D
from pf_keras.layers.layer_normalization import LayerNormalization


def dense(units, parent, name, **kwargs):
    """A Dense layer as in BERT: truncated normal of 0.02; of the parent's dtype policy."""
    initial = keras.initializers.TruncatedNormal(stddev=0.02)
    return keras.layers.Dense(units, kernel_initializer=initial, dtype=parent.dtype_policy, name=name, **kwargs)


def conv(filters, size, parent, name, strides=1):
    """A convolution with same padding and no bias, to be followed by a normalisation."""
    return Conv2D(filters, size, strides=strides, padding="same", **_conv_options(parent, name))


def doubling_conv(filters, parent, name):
    """A 3x3 convolution like `conv`, of the map doubled by nearest-neighbour upsampling."""
    return DoublingConv2D(filters, **_conv_options(parent, name))


def _conv_options(parent, name):
    return {"use_bias": False, "kernel_initializer": "he_normal", "dtype": parent.dtype_policy, "name": name}


def normalization(kind, channels, parent, name, gamma_initializer="ones"):
    """Batch normalisation, synchronised over replicas, or group normalisation with up to 32 groups.

    Groups have 4 or more channels: one channel of a 1x1 map, such as the classifier's, is normalised to nothing.
    """
    options = {"epsilon": 1e-5, "gamma_initializer": gamma_initializer, "dtype": parent.dtype_policy, "name": name}
    if kind == "batch":
        return BatchNormalization(momentum=0.9, **options)
    if kind == "group":
        groups = next(g for g in range(min(32, max(channels // 4, 1)), 0, -1) if channels % g == 0)
        return keras.layers.GroupNormalization(groups=groups, **options)
    raise ValueError(f"Expected norm to be 'batch' or 'group'. Received: {kind!r}")


def layer_norm(parent, name):
    return LayerNormalization(epsilon=1e-6, dtype=parent.dtype_policy, name=name)
