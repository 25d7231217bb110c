"""A model as an ONNX file."""

import importlib.util
import os
import tempfile

import keras
from etils import epath

from pf_keras.config import Config
from pf_keras.errors import writing


def export_onnx(model: keras.Model, config: Config, path: epath.Path) -> epath.Path | str:
    """Write a model of images, uint8 `(B, S, S, 3)`, that are already cropped to the model's size.

    Args:
        model: a classifier or an `Embedder`.
        config: of the model.
        path: of the file.

    Returns:
        `path`. Without tf2onnx, which Keras's exporter needs, nothing is written, and a text says so.
    """
    if not importlib.util.find_spec("tf2onnx"):
        return "not written: pip install tf2onnx"
    size = config.model.image_size
    signature = [keras.InputSpec(shape=(None, size, size, 3), dtype="uint8", name="image")]
    with tempfile.TemporaryDirectory() as folder:  # tf2onnx writes only to local disks
        local = os.path.join(folder, "model.onnx")
        model.export(local, format="onnx", input_signature=signature, verbose=False)
        with writing(path.parent), open(local, "rb") as file:
            path.write_bytes(file.read())
    return path
