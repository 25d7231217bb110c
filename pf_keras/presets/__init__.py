"""Weights to start from: shipped with the package, in a folder, or in a repository of a hub.

A preset is a folder with `config.json`, `model.weights.h5` and a model card `README.md`. Nothing in it is run as code.
"""

from pf_keras.presets.places import HUB, find, is_name, shipped

__all__ = ["HUB", "find", "is_name", "shipped"]
