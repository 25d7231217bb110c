"""SavedModels that take images as clients have them: of any size, or encoded. They need TensorFlow and nothing else."""

import os
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from pf_keras.config import Config
from pf_keras.data.decode import centre_window, decode_and_crop, resize
from pf_keras.data.pipeline import draw_noise, split_noise
from pf_keras.data.reader import ReadOptions
from pf_keras.evaluation.reconstruction import reconstruct_levels
from pf_keras.models import Embedder
from pf_keras.noise import pretrain_noise

IMAGES = [tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")]
ENCODED = [tf.TensorSpec((None,), tf.string, name="encoded")]


def save_classifier(model: keras.Model, classes: Sequence[str], config: Config, path: os.PathLike) -> None:
    """Write a classifier as a SavedModel with three signatures.

    `serving_default` takes uint8 images `(B, H, W, 3)` of any size, `serve_jpeg` encoded images `(B,)` of the formats
    `decode.IN_GRAPH`, read as in the training. Both return `probabilities` float32 `(B, classes)`, the most probable class as
    `label` int64 `(B,)`, and its name as `class` string `(B,)`. `embed` takes images and returns pooled `features` float32
    `(B, D)`.

    Args:
        model: a `Classifier`.
        classes: the names of its classes.
        config: of the model.
        path: of the SavedModel.
    """
    names = tf.constant(classes)
    crop, decode = croppers(config)

    def classify(images):
        probabilities = tf.nn.softmax(model(images, training=False))
        label = tf.argmax(probabilities, axis=-1)
        return {"probabilities": probabilities, "label": label, "class": tf.gather(names, label)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", lambda images: classify(crop(images)), input_signature=IMAGES)
    archive.add_endpoint("serve_jpeg", lambda encoded: classify(decode(encoded)), input_signature=ENCODED)
    archive.add_endpoint("embed", lambda images: {"features": model.embed(crop(images))}, input_signature=IMAGES)
    archive.write_out(os.fspath(path), verbose=False)


def save_pretrainer(model: keras.Model, config: Config, path: os.PathLike) -> None:
    """Write a pre-trained model as a SavedModel, whose signatures take uint8 images `(B, H, W, 3)` of any size.

    `embed`, also the default, returns pooled `features` float32 `(B, D)`. `reconstruct` returns `decoded` and `truth`, uint8
    `(B, grid * size, grid * size, channels)`, levels in 0 .. 2**bits - 1; and `masked`, bool `(B, grid, grid)`: the patches
    that the model decoded. The masks come from the seed of the config.

    Args:
        model: a `Pretrainer`.
        config: of the model.
        path: of the SavedModel.
    """
    crop, _ = croppers(config)
    embedder = Embedder(model.backbone)
    embedder.build()
    shapes = {"mask_noise": pretrain_noise(config)["mask_noise"]}

    def noise(index):
        return draw_noise(config.run.seed, tf.constant(0, tf.int64), index, shapes)

    def reconstruct(images):
        images = crop(images)
        numbers = tf.range(tf.shape(images, tf.int64)[0])
        drawn = tf.map_fn(noise, numbers, fn_output_signature=tf.float32)
        mask_noise = split_noise(drawn, shapes)["mask_noise"]
        decoded, truth, masked = reconstruct_levels(model, {"image": images, "mask_noise": mask_noise})
        grid = config.model.grid
        return {
            "decoded": tf.cast(decoded, tf.uint8),
            "truth": tf.cast(truth, tf.uint8),
            "masked": tf.reshape(masked, (-1, grid, grid)),
        }

    archive = keras.export.ExportArchive()
    archive.track(model)
    for name in ("serving_default", "embed"):
        archive.add_endpoint(name, lambda images: {"features": embedder(crop(images))}, input_signature=IMAGES)
    archive.add_endpoint("reconstruct", reconstruct, input_signature=IMAGES)
    archive.write_out(os.fspath(path), verbose=False)


def croppers(config: Config) -> tuple[Callable, Callable]:
    """Two graph functions that take the same centre crop as an evaluation.

    Returns:
        A function of uint8 images `(B, H, W, 3)` and a function of encoded images `(B,)`, both to uint8 `(B, S, S, 3)`.
    """
    size, window = config.model.image_size, centre_window(config.data.eval_crop)
    options = ReadOptions.from_config(config.data)

    def crop(images):
        shape = tf.shape(images)
        top, left, height, width = window(shape[1], shape[2])
        return resize(images[:, top : top + height, left : left + width], size)

    def decode(encoded):
        spec = tf.TensorSpec((size, size, 3), tf.uint8)
        return tf.map_fn(
            lambda one: decode_and_crop(one, window, size, options, python=False), encoded, fn_output_signature=spec
        )

    return crop, decode
