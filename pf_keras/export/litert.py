"""A model as LiteRT files (formerly TensorFlow Lite), for phones and small computers."""

import os
import tempfile
import time
import warnings
from dataclasses import dataclass

import keras
import numpy as np
from etils import epath

from pf_keras.config import Config
from pf_keras.errors import writing
from pf_keras.export.description import KEY

FILES = {"float32": "model.tflite", "int8": "model_int8.tflite"}  # by the type of the weights of dense and convolution layers
ROUNDS = 20  # calls whose median is the latency


@dataclass(frozen=True)
class Checked:
    """What running a file showed.

    Args:
        difference: the largest absolute difference from the Keras model, over the standard deviation of its outputs.
        milliseconds: of one image on one thread of this machine, the median of `ROUNDS` calls.
    """

    difference: float
    milliseconds: float


def export_litert(model: keras.Model, config: Config, output: str, description: str, folder: epath.Path) -> dict[str, dict]:
    """Write a model of one image, uint8 `(1, S, S, 3)`, that is already cropped to the model's size.

    Only builtin operations are used. The signature `serving_default` takes `image`. Each file holds the description as metadata
    of the name `KEY`, and is run once: its answers are compared with the Keras model's.

    Args:
        model: a classifier or an `Embedder`.
        config: of the model.
        output: the name of the model's output.
        description: of `description.describe`.
        folder: of the files.

    Returns:
        For each of `FILES` its path as `file`, its size in `bytes`, and the fields of `Checked`.
    """
    import tensorflow as tf

    size = config.model.image_size
    holder = tf.Module()
    holder.weights = [weight.value for weight in model.weights]  # of the whole model Keras would trace each layer for itself
    holder.call = tf.function(
        lambda image: {output: model(image, training=False)},
        input_signature=[tf.TensorSpec((1, size, size, 3), tf.uint8, name="image")],
        autograph=False,
    )
    images = np.random.default_rng(0).integers(0, 256, (4, 1, size, size, 3), dtype="uint8")
    expected = np.stack([np.asarray(model(image, training=False)) for image in images])
    written = {}
    with tempfile.TemporaryDirectory() as saved:
        tf.saved_model.save(holder, saved, {"serving_default": holder.call})
        for kind, name in FILES.items():
            converter = tf.lite.TFLiteConverter.from_saved_model(saved)
            if kind == "int8":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]  # without examples: only weights become int8
            content = with_metadata(converter.convert(), description)
            checked = check(content, images, expected)
            with writing(folder):
                (folder / name).write_bytes(content)
            written[kind] = {"file": folder / name, "bytes": len(content), **vars(checked)}
    return written


def check(content: bytes, images: np.ndarray, expected: np.ndarray) -> Checked:
    """Run a file on images, uint8 `(n, 1, S, S, 3)`, and compare its answers with those expected, float32 `(n, 1, ...)`."""
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow announces that the interpreter moves to ai-edge-litert
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image):
        interpreter.set_tensor(given["index"], image)
        interpreter.invoke()
        return interpreter.get_tensor(answer["index"])

    found = np.stack([run(image) for image in images])
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run(images[0])
        seconds.append(time.perf_counter() - began)
    spread = float(expected.std()) or 1.0
    return Checked(round(float(np.abs(found - expected).max()) / spread, 6), round(1000 * float(np.median(seconds)), 3))


def with_metadata(content: bytes, description: str) -> bytes:
    """The file with the description as its metadata `KEY`."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(description.encode(), "uint8")
    entry.name, entry.buffer = KEY, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def description_of(path: os.PathLike) -> str:
    """The description in a file that `export_litert` wrote."""
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(epath.Path(path).read_bytes()))
    (number,) = (entry.buffer for entry in model.metadata if entry.name == KEY.encode())
    return bytes(model.buffers[number].data).decode()
