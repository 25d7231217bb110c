"""Images that cannot be decoded: finding them, naming them when a pipeline fails, and leaving a few out of a source."""

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from pf_keras.data.each_image import each_image, image_reason, message_of
from pf_keras.data.reader import DEFAULTS, CorruptImage, ReadOptions, TooManyPixels, check, decode
from pf_keras.data.records import Split
from pf_keras.data.sources import Source
from pf_keras.errors import UserError
from pf_keras.processes import cores, progress

CHUNK = 1024  # examples given to the threads at a time
PROGRESS = 10  # seconds before progress is shown
LIFT = ". --config.data.max_pixels=N lifts this limit; an image takes about 10 bytes a pixel"


@contextlib.contextmanager
def naming_corrupt_images(source: Source) -> Iterator[None]:
    """Turn a failure of the input pipeline into a UserError that names the image.

    An error inside tf.data does not say at which example it happened, so all of `source` is decoded again to find it.

    Args:
        source: what the pipeline reads.
    """
    try:
        yield
    except _bad_input() as error:
        if "IteratorGetNext" not in message_of(error):  # the error is not the pipeline's
            raise
        print("an image cannot be read; looking for it", file=sys.stderr)
        for split, examples in source.splits().items():
            for image, reason in corrupt_images(examples, len(source.classes), source.options):
                _refuse(source, split, image, reason, error)
        raise UserError(
            f"An image failed to decode a moment ago but decodes now, perhaps on a network disk ({image_reason(error)}). "
            "Run the same command again to resume."
        ) from error


def _refuse(source: Source, split: str, image: str, reason: object, cause: Exception | None = None) -> None:
    lift = LIFT if isinstance(reason, TooManyPixels) else ""
    raise UserError(
        f"{image} cannot be read: {reason}{lift}. It is in the {split} split of {source.place}. Repair or remove it, or set "
        "data.max_bad_fraction to leave out corrupt images."
    ) from cause


def check_validation(source: Source, split: Split) -> None:
    """Check the images that a training is scored on, because nothing else reads them before its end.

    Finds what a look at a file tells without decoding it: an image that is cut short, too large or not an image.

    Args:
        source: that the split is of.
        split: the images.

    Raises:
        UserError: an image cannot be read.
    """

    def problem(encoded, index, label, reason):
        try:
            return index, reason or check(encoded, source.options)
        except CorruptImage as error:
            return index, error

    for index, reason in each_image(split, problem) if source.place != "digits" else ():
        if reason:
            _refuse(source, "validation", split.name_of(index), reason)


def find_corrupt(source: Source) -> list[dict]:
    """The corrupt images of a source. Reads every image once.

    Args:
        source: a source.

    Returns:
        Dicts of `split`, `name` and `reason`, in the order of the splits.

    Raises:
        UserError: a file of records is damaged, so the records behind the damage cannot be read.
    """
    return [
        {"split": split, "name": name, "reason": reason}
        for split, examples in source.splits().items()
        for name, reason in corrupt_images(examples, len(source.classes), source.options)
    ]


def leave_out(source: Source, corrupt: list[dict], max_fraction: float) -> Source:
    """The source without its corrupt images. Prints how many they are.

    Args:
        source: a source.
        corrupt: a list from `find_corrupt`. Images that are not in the source any more are ignored.
        max_fraction: the largest fraction of all images that may be left out.

    Raises:
        UserError: more images are corrupt, or all images of a split.
    """
    names = {split: {image["name"] for image in corrupt if image["split"] == split} for split in source.splits()}
    parts = {split: examples.without(names[split]) for split, examples in source.splits().items() if names[split]}
    if parts and source.train is source.validation:
        parts["train"] = parts["validation"]
    left = dataclasses.replace(source, **parts)
    size, kept = (sum(examples.size for examples in s.splits().values()) for s in (source, left))
    count = size - kept
    if not count:
        return source
    if count > max_fraction * size:
        first = "; ".join(f"{image['name']}: {image['reason']}" for image in corrupt[:3])
        raise UserError(
            f"{count} of {size} images are corrupt, more than data.max_bad_fraction={max_fraction} allows "
            f"({first}{'; ...' if len(corrupt) > 3 else ''}). Repair or remove them, or allow more."
        )
    for split, examples in left.splits().items():
        if not examples.size:
            raise UserError(f"All images of the {split} split are corrupt. Repair them.")
    print(f"{count} of {size} images are corrupt and are left out, the first {corrupt[0]['name']}", file=sys.stderr)
    return left


def corrupt_images(split: Split, classes: int = 0, options: ReadOptions = DEFAULTS) -> Iterator[tuple[str, str]]:
    """Find the examples of a split that cannot be read and decoded in full.

    Args:
        split: what to read.
        classes: the number of classes, if known. A label outside of them counts as corrupt too.
        options: how pixels are read.

    Yields:
        `(name, reason)` of each corrupt example, in order.

    Raises:
        UserError: a file of records is damaged, so the records behind the damage cannot be read.
    """
    import tensorflow as tf

    from pf_keras.data.decode import decode_and_crop

    load = split.loader()

    @tf.function
    def attempt(key):
        encoded, label = load(key)
        image = decode_and_crop(encoded, lambda height, width: (0, 0, height, width), 1, options, python=split.any_format)
        return label, image

    def explain(key):
        """What the reader says of an image, whose words are clearer than TensorFlow's. Empty where it reads the image."""
        try:
            decode(load(key)[0].numpy(), options)
        except TooManyPixels as error:
            return f"{error}{LIFT}"
        except CorruptImage as error:
            return str(error)
        except _bad_input():  # the file is gone, or the record is not one
            return ""
        return ""

    def fault(key):
        try:
            label = int(attempt(key)[0])
        except _bad_input() as error:
            return explain(key) or image_reason(error)
        return f"its label {label} is not one of {classes} classes" if classes and not -1 <= label < classes else ""

    keys, last = _keys(split), "the start of the data"
    with ThreadPoolExecutor(cores()) as threads, progress(split.size, "img", "check", delay=PROGRESS) as bar:
        while chunk := list(itertools.islice(keys, CHUNK)):
            damage = chunk.pop() if isinstance(chunk[-1], _bad_input()) else None
            for key, reason in zip(chunk, threads.map(fault, chunk), strict=True):
                last = split.name_of(int(key["index"]))
                if reason:
                    yield last, reason
            bar.update(len(chunk))
            if damage is not None:
                raise UserError(
                    f"A damaged record follows {last} ({image_reason(damage)}), and the records behind it cannot be read. "
                    "Write its file again; python -m tfrecords.verify shows the damage."
                )


def _bad_input() -> tuple[type[Exception], ...]:
    """The errors that TensorFlow raises for bad input. The second: where its message would quote bytes that are not text."""
    import tensorflow as tf

    return tf.errors.OpError, UnicodeDecodeError


def _keys(split: Split) -> Iterator:
    """The keys of a split in order. Where an error ends the stream early, that error comes last."""
    try:
        yield from split.keys(shuffle=False)
    except _bad_input() as error:
        yield error
