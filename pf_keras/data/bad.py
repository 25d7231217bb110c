"""Images that cannot be read: naming the one at which a pipeline failed, and leaving a few out of a run."""

import contextlib
import dataclasses
import itertools
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from pf_keras.data.sources import open_source, same_data
from pf_keras.errors import UserError
from tfrecords.pool import cores

CHUNK = 1024  # examples handed to the threads at a time
PROGRESS = 10  # seconds between lines that say how far a check is


@contextlib.contextmanager
def naming_bad_images(source):
    """Turn a pipeline's failure into a UserError that names the image, found by decoding the source anew.

    Errors inside tf.data do not say which example they met.
    """
    try:
        yield
    except _faults() as error:
        if "IteratorGetNext" not in _message(error):  # not the pipeline's
            raise
        print("an image cannot be read: looking for it", file=sys.stderr)
        for split in source.splits().values():
            for name, reason in bad_images(split, len(source.classes)):
                raise UserError(
                    f"expected every image to be readable, received {name}: {reason}: repair or remove it, or leave it "
                    "out by data.max_bad_fraction"
                ) from error
        raise UserError(
            f"expected every image to be readable, received one that is so now and was not before ({_reason(error)}): "
            "start again to go on"
        ) from error


def open_readable(config, workdir, whole=False):
    """The `Source` of a `DataConfig` without the images that cannot be read, and these as a list of dicts, for
    `workdir.bad_file`.

    With a `max_bad_fraction` above 0 every image is read once before the run begins; a run that goes on takes the list of
    its workdir, as long as that leaves the images which it left then, and so has its examples in the same order, as has
    what reads its data later. Raises UserError where the config names nothing that can be opened, and where more images are
    bad than that.

    `whole` is that of `open_source`, for what is not the run's own data. Those are told by their place, or by their
    names where they were moved: images that a run was trained on are none to score it with.
    """
    own = workdir.config_file.exists() and same_data(workdir.config().data.source, config.source)
    source = open_source(config, whole and not own)
    if not own and (moved := _moved(source, config, workdir)):
        before = workdir.config().data.source
        print(f"{config.source} holds the data of {workdir.path}, which were in {before}", file=sys.stderr)
        own, source = True, moved
    if source.held_out:
        print(f"validation: {source.held_out}, {source.validation.size} images", file=sys.stderr)
    bad = workdir.listed_bad() if own else []
    readable = _without(source, bad)
    if not (own and workdir.is_listed(readable.splits())):
        looked_through = source.splits() if config.max_bad_fraction else {}
        bad = [
            {"split": split, "name": name, "reason": reason}
            for split, examples in looked_through.items()
            for name, reason in bad_images(examples, len(source.classes))
        ]
        readable = _without(source, bad)
    _check(source, readable, bad, config)
    if own:
        workdir.tell_of_changed_data(readable.splits(), source.splits())
    return readable, bad


def _moved(source, config, workdir):
    """The `Source` as the run in `workdir` has it, if its data lie here now, else None."""
    if not workdir.config_file.exists():
        return None
    if source.train is source.validation:  # taken whole
        if source.train.size != workdir.images_at_the_beginning():
            return None
        source = open_source(config)
    listed = _without(source, workdir.listed_bad())
    return source if workdir.began_with(source.splits()) or workdir.began_with(listed.splits()) else None


def _without(source, bad):
    names = {split: {image["name"] for image in bad if image["split"] == split} for split in source.splits()}
    parts = {split: examples.without(names[split]) for split, examples in source.splits().items() if names[split]}
    if parts and source.train is source.validation:
        parts["train"] = parts["validation"]
    return dataclasses.replace(source, **parts)


def _check(source, readable, bad, config):
    """Say how many images are left out. Raises UserError where they are too many, or all of a split."""
    size, left = (sum(examples.size for examples in s.splits().values()) for s in (source, readable))
    if size == left:
        return
    if size - left > config.max_bad_fraction * size:
        first = "; ".join(f"{image['name']}: {image['reason']}" for image in bad[:3])
        raise UserError(
            f"expected at most data.max_bad_fraction={config.max_bad_fraction} of {size} images to be unreadable, "
            f"received {size - left} ({first}{'; ...' if len(bad) > 3 else ''}): repair or remove them"
        )
    for split, part in readable.splits().items():
        if not part.size:
            raise UserError(f"expected images for {split}, received only ones that cannot be read: repair them")
    print(f"{size - left} of {size} images cannot be read and are left out, the first {bad[0]['name']}", file=sys.stderr)


def bad_images(split, classes=0):
    """Yield `(name, reason)` of each example of a split that cannot be read and decoded whole, in order.

    Where the number of `classes` is known, a label that is none of them is bad too. Raises UserError where a file of
    records is broken, so that what follows in it cannot be told apart, nor left out.
    """
    import tensorflow as tf

    from pf_keras.data.decode import decode_and_crop

    load = split.loader()

    @tf.function
    def attempt(key):
        encoded, label = load(key)
        return label, decode_and_crop(encoded, lambda height, width: (0, 0, height, width), 1, split.gifs)

    def fault(key):
        try:
            label = int(attempt(key)[0])
        except _faults() as error:
            return _reason(error)
        return f"its label {label} is none of {classes} classes" if classes and not -1 <= label < classes else ""

    checked, found, told, last = 0, 0, time.monotonic(), "the beginning"
    keys = _keys(split)
    with ThreadPoolExecutor(cores()) as threads:
        while chunk := list(itertools.islice(keys, CHUNK)):
            broken = chunk.pop() if isinstance(chunk[-1], _faults()) else None
            for key, reason in zip(chunk, threads.map(fault, chunk), strict=True):
                last = split.name_of(int(key["index"]))
                found += bool(reason)
                if reason:
                    yield last, reason
            checked += len(chunk)
            if broken is not None:
                raise UserError(
                    f"expected every record to be readable, received what follows {last}: {_reason(broken)}: write that file "
                    "anew (python -m tfrecords.verify names the damage), since nothing behind it can be read or left out"
                )
            if time.monotonic() - told >= PROGRESS:
                told = time.monotonic()
                print(f"checked {checked} of {split.size} images, {found} bad", file=sys.stderr)


def _faults():
    """How TensorFlow reports bad input; the second, where its message holds bytes of the input that are no text."""
    import tensorflow as tf

    return tf.errors.OpError, UnicodeDecodeError


def _message(error):
    if isinstance(error, UnicodeDecodeError):
        return error.object.decode(errors="backslashreplace")
    return error.message or ""


def _keys(split):
    """The keys of a split in order, and at last the error that ended the stream before its time, if any did."""
    iterator = iter(split.keys(shuffle=False))
    while True:
        try:
            yield next(iterator)
        except StopIteration:
            return
        except _faults() as error:
            yield error
            return


def _reason(error):
    """What a TensorFlow error says, without the places in the program and the graph where it says so."""
    message = _message(error)
    if "Could not parse example input" in message:  # and all bytes of the record
        return "not a tf.train.Example"
    text = re.split(r"\n\s*\n", message.strip())[-1].partition(" Feature is:")[0]
    text = re.sub(r"\{\{.*?\}\}|\[\[.*|\[Op:.*", "", " ".join(text.split()))
    if "assertion failed: " in text:
        text = text.partition("assertion failed: ")[2].replace("] [", " ").strip("[] ")
    return text.strip(" :.")[:200] or type(error).__name__
