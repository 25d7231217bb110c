"""SavedModels that take images as clients have them: of any size, or encoded. They need TensorFlow and nothing else."""

import os
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from pf_keras.config import Config
from pf_keras.data.decode import IN_GRAPH, centre_window, decode_and_crop, resize
from pf_keras.data.pipeline import draw_noise, split_noise
from pf_keras.data.reader import ReadOptions
from pf_keras.evaluation.reconstruction import reconstruct_levels
from pf_keras.models import Embedder
from pf_keras.noise import pretrain_noise

IMAGES = [tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")]
UNREADABLE = "not a readable " + IN_GRAPH
ENCODED = [tf.TensorSpec((None,), tf.string, name="encoded")]


def save_classifier(model: keras.Model, classes: Sequence[str], config: Config, description: str, path: os.PathLike) -> None:
    """Write a classifier as a SavedModel with four signatures.

    `serving_default` takes uint8 images `(B, H, W, 3)` of any size, `serve_jpeg` encoded images `(B,)` of the formats
    `decode.IN_GRAPH`, read as in the training. Both return `probabilities` float32 `(B, classes)`, the most probable class as
    `label` int64 `(B,)`, and its name as `class` string `(B,)`. `serve_jpeg` also returns `status` string `(B,)`: `ok`, or
    `UNREADABLE` for an image that cannot be decoded, whose probabilities are 0, whose label is -1 and whose class is empty.
    `embed` takes images and returns pooled `features` float32 `(B, D)`. `describe` takes nothing and returns `description`.

    Args:
        model: a `Classifier`.
        classes: the names of its classes.
        config: of the model.
        description: of `description.describe`.
        path: of the SavedModel.
    """
    names = tf.constant(classes)
    crop, decode = croppers(config)

    def classify(images):
        probabilities = tf.nn.softmax(model(images, training=False))
        label = tf.argmax(probabilities, axis=-1)
        return {"probabilities": probabilities, "label": label, "class": tf.gather(names, label)}

    def classify_encoded(encoded):
        images, readable = decode(encoded)
        found = classify(images)
        return {
            "probabilities": tf.where(readable[:, None], found["probabilities"], 0.0),
            "label": tf.where(readable, found["label"], -1),
            "class": tf.where(readable, found["class"], ""),
            "status": tf.where(readable, "ok", UNREADABLE),
        }

    archive = keras.export.ExportArchive()
    archive.track(model)
    _add_description(archive, description)
    archive.add_endpoint("serving_default", lambda images: classify(crop(images)), input_signature=IMAGES)
    archive.add_endpoint("serve_jpeg", classify_encoded, input_signature=ENCODED)
    archive.add_endpoint("embed", lambda images: {"features": model.embed(crop(images))}, input_signature=IMAGES)
    archive.write_out(os.fspath(path), verbose=False)


def _add_description(archive: keras.export.ExportArchive, description: str) -> None:
    archive.add_endpoint("describe", lambda: {"description": tf.constant(description)}, input_signature=[])


def save_pretrainer(model: keras.Model, config: Config, description: str, path: os.PathLike) -> None:
    """Write a pre-trained model as a SavedModel, whose signatures take uint8 images `(B, H, W, 3)` of any size.

    `embed`, also the default, returns pooled `features` float32 `(B, D)`. `reconstruct` returns `decoded` and `truth`, uint8
    `(B, grid * size, grid * size, channels)`, levels in 0 .. 2**bits - 1; and `masked`, bool `(B, grid, grid)`: the patches
    that the model decoded. The masks come from the seed of the config. `describe` takes nothing and returns `description`.

    Args:
        model: a `Pretrainer`.
        config: of the model.
        description: of `description.describe`.
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
    _add_description(archive, description)
    for name in ("serving_default", "embed"):
        archive.add_endpoint(name, lambda images: {"features": embedder(crop(images))}, input_signature=IMAGES)
    archive.add_endpoint("reconstruct", reconstruct, input_signature=IMAGES)
    archive.write_out(os.fspath(path), verbose=False)


def croppers(config: Config) -> tuple[Callable, Callable]:
    """Two graph functions that take the same centre crop as an evaluation.

    Returns:
        A function of uint8 images `(B, H, W, 3)` to uint8 `(B, S, S, 3)`, and a function of encoded images `(B,)` to the same
        and to which of them can be read, bool `(B,)`. The others are black.
    """
    size, window = config.model.image_size, centre_window(config.data.eval_crop)
    options = ReadOptions.from_config(config.data)
    shape = (size, size, 3)

    def crop(images):
        height, width = tf.unstack(tf.shape(images)[1:3])
        top, left, height, width = window(height, width)
        return resize(images[:, top : top + height, left : left + width], size)

    @tf.autograph.experimental.do_not_convert
    def decode(encoded):
        # Only a dataset can go on after an operation that fails. Its first element is there where no image can be read.
        encoded = tf.convert_to_tensor(encoded)
        count = tf.shape(encoded, tf.int64)[0]
        first = tf.data.Dataset.from_tensors((tf.constant(-1, tf.int64), tf.zeros(shape, tf.uint8)))
        images = tf.data.Dataset.range(count).map(
            lambda i: (i, tf.ensure_shape(decode_and_crop(encoded[i], window, size, options, python=False), shape)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        found = first.concatenate(images.ignore_errors()).batch(count + 1).get_single_element()
        place = found[0][1:]
        readable = tf.scatter_nd(place[:, None], tf.ones_like(place, tf.int32), count[None]) > 0
        # An image that cannot be read has 0 here, the place of the first element, which is black.
        source = tf.scatter_nd(place[:, None], tf.range(1, tf.size(place) + 1), count[None])
        return tf.ensure_shape(tf.gather(found[1], source), (None, *shape)), readable

    return crop, decode
