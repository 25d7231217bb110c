"""Goes over the encoded images of a split once, in several threads, without decoding them by TensorFlow."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pf_keras.data.records import Split
from pf_keras.errors import tensorflow_reason
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
    import tensorflow as tf

    load = tf.function(split.loader())

    def read(key):
        index = int(key["index"])
        try:
            encoded, label = load(key)
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            return function(b"", index, -1, _reason(error))
        return function(encoded.numpy(), index, int(label), "")

    def keys():
        try:
            yield from split.keys(shuffle=False).filter(lambda key: key["index"] > after)
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            damaged(_reason(error))

    waiting, keys = deque(), keys()
    with ThreadPoolExecutor(cores()) as threads:
        for key in itertools.islice(keys, 2 * cores()):
            waiting.append(threads.submit(read, key))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(threads.submit(read, key) for key in itertools.islice(keys, 1))


def _reason(error: Exception) -> str:
    """What TensorFlow says of a failure, on one line."""
    text = tensorflow_reason(error) or str(error)
    return " ".join(text.partition("[[")[0].split()).removeprefix("{{function_node __wrapped__}} ")[:200]
