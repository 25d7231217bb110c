"""A model as an ONNX file."""

import importlib.util
import os
import tempfile

import keras
from etils import epath

from pf_keras.config import Config
from pf_keras.errors import writing
from pf_keras.export.description import KEY


def export_onnx(model: keras.Model, config: Config, output: str, description: str, path: epath.Path) -> epath.Path | str:
    """Write a model of images, uint8 `(B, S, S, 3)`, that are already cropped to the model's size. Its input is `image`.

    Args:
        model: a classifier or an `Embedder`.
        config: of the model.
        output: the name of the model's output.
        description: of `description.describe`, for the metadata `KEY`.
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
        import onnx

        content = onnx.load(local)
    content.producer_name, content.doc_string = "pf_keras", ""
    onnx.helper.set_model_props(content, {KEY: description})
    _rename_output(content.graph, output)
    with writing(path.parent):
        path.write_bytes(content.SerializeToString())
    return path


def _rename_output(graph, name: str) -> None:
    """Give the only output of a graph a name. tf2onnx calls it `Identity:0`."""
    (output,) = graph.output
    for node in graph.node:
        for names in (node.input, node.output):
            for place, old in enumerate(names):
                if old == output.name:
                    names[place] = name
    output.name = name
