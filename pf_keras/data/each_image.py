"""Goes over the encoded images of a split once, in several threads, without decoding them by TensorFlow."""

import functools
import itertools
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pf_keras.data.images import Images
from pf_keras.data.records import Split
from pf_keras.processes import cores

T = TypeVar("T")


def each_image(
    split: Split,
    function: Callable[[bytes, int, int, str], T],
    damaged: Callable[[str], object] = lambda reason: None,
    after: int = -1,
) -> Iterator[T]:
    """Call a function with each image of a split. Several run at once, and few images are in memory at a time.

    Args:
        split: what to read.
        function: takes the encoded image, its index, its label, and why it cannot be read: empty for one that can.
        damaged: is called with the reason where a damaged file ends the stream early.
        after: only images with a greater index.

    Yields:
        What the function returns, in the order of the split.
    """
    if isinstance(split, Images):
        keys, fetch = range(after + 1, split.size), functools.partial(_from_images, split)
    else:
        keys, fetch = _keys(split, damaged, after), _from_stream(split)

    def read(key):
        return function(*fetch(key))

    waiting, keys = deque(), iter(keys)
    with ThreadPoolExecutor(cores()) as threads:
        for key in itertools.islice(keys, 2 * cores()):
            waiting.append(threads.submit(read, key))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(threads.submit(read, key) for key in itertools.islice(keys, 1))


def _from_images(split: Images, index: int) -> tuple[bytes, int, int, str]:
    """An image by its index. TensorFlow would take longer to begin than a few files take to read."""
    value, label = split.values[index], int(split.labels[index])
    if not split.paths:
        return value, index, label, ""
    try:
        with open(value, "rb") as file:
            return file.read(), index, label, ""
    except OSError as error:
        return b"", index, -1, error.strerror or str(error)


def _from_stream(split: Split) -> Callable[[dict], tuple[bytes, int, int, str]]:
    import tensorflow as tf

    load = tf.function(split.loader(), autograph=False)

    def fetch(key):
        index = int(key["index"])
        try:
            encoded, label = load(key)
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            return b"", index, -1, image_reason(error)
        return encoded.numpy(), index, int(label), ""

    return fetch


def _keys(split: Split, damaged: Callable[[str], object], after: int) -> Iterator[dict]:
    import tensorflow as tf

    try:
        yield from split.keys(shuffle=False).filter(lambda key: key["index"] > after)
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        damaged(image_reason(error))


def image_reason(error: Exception) -> str:
    """The message of a TensorFlow error, without the places in the program and the graph."""
    message = message_of(error)
    if "Could not parse example input" in message:  # followed by all bytes of the record
        return "not a tf.train.Example"
    text = re.split(r"\n\s*\n", message.strip())[-1].partition(" Feature is:")[0]
    text = re.sub(r"\{\{.*?\}\}|\[\[.*|\[Op:.*", "", " ".join(text.split()))
    if "assertion failed: " in text:
        text = text.partition("assertion failed: ")[2].replace("] [", " ").strip("[] ")
    return text.strip(" :.")[:200] or type(error).__name__


def message_of(error: Exception) -> str:
    """The whole message of TensorFlow, or the bytes that it could not quote as text."""
    if isinstance(error, UnicodeDecodeError):
        return error.object.decode(errors="backslashreplace")
    return error.message or ""
