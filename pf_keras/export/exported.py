"""Reads an exported classifier by its signature `serve_jpeg`, as a client would."""

import hashlib
import io
import os
from collections.abc import Iterator

import numpy as np
from etils import epath

from pf_keras.data.each_image import each_image
from pf_keras.data.reader import CorruptImage, ReadOptions, decode, decode_grey16, identify
from pf_keras.data.records import Split
from pf_keras.errors import UserError, reading, tensorflow_reason

SIGNATURE = "serve_jpeg"
SAVED_MODEL = "saved_model"  # the folder of its versions, which have numbers as names
AS_THEY_ARE = ("jpeg", "png")  # what the signature takes; other formats are converted to PNG


class Exported:
    """An exported classifier.

    Args:
        path: the folder `export` of a run, the `saved_model` in it, or a version of that. The newest version is read.

    Attributes:
        classes: the names of its classes.
        identity: a digest of its files.

    Raises:
        UserError: the path is no export, the export does not classify, or its `classes.txt` does not belong to it.
    """

    def __init__(self, path: str):
        import tensorflow as tf

        folder = epath.Path(path).expanduser()
        with reading(path):
            model = newest(folder)
            names = (model.parent.parent if model.name.isdecimal() else model.parent) / "classes.txt"
            if not (model / "saved_model.pb").exists():
                run = next((place for place in (folder, *folder.parents[:3]) if (place / "config.json").exists()), "RUN")
                advice = f"Export the run first (--mode=export --workdir={run}), and use its folder export."
                raise UserError(f"--init={path} is no exported model: it has no saved_model. {advice}")
            try:
                self.identity = _digest([model / "saved_model.pb", *sorted((model / "variables").iterdir())])
                self._model = tf.saved_model.load(os.fspath(model))
            except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
                reason = " ".join((tensorflow_reason(error) or str(error)).split()).rstrip(".")[:200]
                do = f"Export the run again with this TensorFlow ({tf.__version__})."
                raise UserError(f"--init={path} cannot be loaded: {reason}. {do}") from error
            if SIGNATURE not in self._model.signatures:
                raise UserError(
                    f"--init={path} is the export of a pre-training, which does not classify. Export a fine-tuned run."
                )
            if not names.exists():
                raise UserError(f"--init={path} has no classes.txt beside its saved_model. Copy it from the export.")
            self.classes = tuple(names.read_text().removesuffix("\n").split("\n"))
        self._serve = self._model.signatures[SIGNATURE]
        count = self._serve.structured_outputs["probabilities"].shape[-1]
        if count != len(self.classes):
            raise UserError(
                f"--init={path} has {len(self.classes)} names in classes.txt, but its model has {count} classes. "
                "Copy the classes.txt of this export."
            )

    def each_batch(self, split: Split, options: ReadOptions, batch: int, after: int = -1) -> Iterator[tuple]:
        """Classify the readable images of a split, in order.

        Args:
            split: the images.
            options: how formats are read that the signature does not take.
            batch: images at a time.
            after: only images with a greater `index`.

        Yields:
            The index and the label of the images of a batch, and their probabilities.
        """

        def prepare(encoded, index, label, reason):
            if reason:
                return None
            try:
                return index, label, as_served(encoded, options)
            except CorruptImage:
                return None

        waiting = []
        for found in each_image(split, prepare, after=after):
            if found:
                waiting.append(found)
            if len(waiting) == batch:
                yield self._classify(waiting)
                waiting = []
        if waiting:
            yield self._classify(waiting)

    def _classify(self, images: list[tuple[int, int, bytes]]) -> tuple:
        """The index, the label and the probabilities of the images that the model can read."""
        import tensorflow as tf

        try:
            outputs = self._serve(encoded=tf.constant([encoded for *_, encoded in images]))
            found = outputs["probabilities"].numpy()
            if "status" in outputs:
                readable = outputs["status"].numpy() == b"ok"
                images, found = [image for image, ok in zip(images, readable, strict=True) if ok], found[readable]
        except tf.errors.InvalidArgumentError:  # an image that cannot be decoded, of an export of version 0.1
            parts = [self._classify([image]) for image in images] if len(images) > 1 else []
            if not parts:
                return np.zeros(0, "int64"), np.zeros(0, "int64"), np.zeros((0, len(self.classes)), "float32")
            return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
        except tf.errors.OpError as error:
            reason = " ".join(error.message.partition("[[")[0].split()).rstrip(".")[:200]
            advice = "Use a smaller --config.run.eval_batch if memory is short, else export the run again"
            raise UserError(f"The exported model failed on {len(images)} images: {reason}. {advice}.") from error
        return np.array([i for i, *_ in images], "int64"), np.array([label for _, label, _ in images], "int64"), found


def versions(folder: epath.Path) -> list[str]:
    """The names of the versions in a folder `saved_model`, the newest last."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((name for name in names if name.isdecimal()), key=int)


def newest(folder: epath.Path) -> epath.Path:
    """Where the SavedModel of an export is, which version 0.1 did not number. `folder` is of the export, or in it."""
    if (folder / "saved_model.pb").exists():
        return folder
    place = folder / SAVED_MODEL if (folder / SAVED_MODEL).is_dir() else folder
    known = versions(place)
    return place / known[-1] if known else place


def as_served(encoded: bytes, options: ReadOptions) -> bytes:
    """An encoded image as the signature takes it: JPEG and PNG as they are, another format as PNG. Raises CorruptImage."""
    from PIL import Image

    if identify(encoded) in AS_THEY_ARE:
        return encoded
    grey = decode_grey16(encoded)  # the model knows which 16-bit values are black and white
    pixels = decode(encoded, options) if grey is None else grey
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _digest(files: list[epath.Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while block := content.read(2**20):
                digest.update(block)
    return digest.hexdigest()
