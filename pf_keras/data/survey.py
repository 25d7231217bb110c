"""What the images of a split are: formats, sizes, modes, labels, copies, and which cannot be read.

Every image is read once. What is kept of an image is a row of numbers, so memory does not grow with the pixels.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pf_keras.data.each_image import each_image, image_reason
from pf_keras.data.images import Images
from pf_keras.data.reader import CorruptImage, Header, ReadOptions, TooManyPixels, decode, describe, identify
from pf_keras.data.records import Split

THUMBNAIL = 192  # pixels: the largest side in the report, and the least to which a large JPEG is reduced
FLAT = 8  # of 256 grey levels: an image with a smaller range has one colour and nothing to learn from
EXAMPLES = 5  # names kept of every kind of unreadable images

# One row per image. `content` is half of a hash of the encoded bytes: 1e-10 is the chance of one false match among 50,000.
ROW = np.dtype(
    [
        ("index", "i8"),
        ("label", "i8"),
        ("content", "u8"),
        ("look", "u8"),
        ("width", "i4"),
        ("height", "i4"),
        ("readable", "?"),
        ("flat", "?"),
    ]
)


@dataclass
class Unreadable:
    """Images of a split that cannot be read, all of one kind.

    Args:
        count: how many.
        examples: the first few, as `(name, reason)`.
    """

    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Survey:
    """What was found in a split.

    Args:
        split: what was read: the split, or a sample of it.
        size: images of the whole split.
        labels: int64, the labels of the whole split where it has them in memory, else of the images that were read.
        rows: one `ROW` for each image that was read, in the order of the split. Width and height are of the upright image. An
            image that is not readable has its index, its label and the hash of its bytes alone.
        counts: Counters of the readable images, by name: `format`, `mode`, `orientation`, `bits`, `alpha`, `animated`.
        unreadable: by kind, such as `an HTML page`.
        damage: where a damaged file ended the reading, and why. Empty for none.
    """

    split: Split
    size: int
    labels: np.ndarray
    rows: np.ndarray
    counts: dict[str, Counter]
    unreadable: dict[str, Unreadable]
    damage: str = ""

    @property
    def readable(self) -> np.ndarray:
        """The rows of the readable images."""
        return self.rows[self.rows["readable"]]

    def name_of(self, row: int) -> str:
        """The name of the image of a row."""
        return self.split.name_of(int(self.rows["index"][row]))


@dataclass(frozen=True)
class Look:
    """What one image is. `reason` and `kind` say why it is unreadable, and are empty for a readable one."""

    index: int
    label: int = -1
    content: int = 0
    header: Header | None = None
    look: int = 0
    flat: bool = False
    kind: str = ""
    reason: str = ""


def survey(split: Split, options: ReadOptions, limit: int, step: Callable[[int], object] = lambda count: None) -> Survey:
    """Read the images of a split and describe them.

    Args:
        split: what to read.
        options: how training reads images.
        limit: how many images to read at most: `split.sample(limit)`.
        step: is called with 1 after each image, for a progress bar.
    """
    sample, read = split.sample(limit), reader_of(options)
    rows = np.zeros(sample.size, ROW)
    counts = {name: Counter() for name in ("format", "mode", "orientation", "bits", "alpha", "animated")}
    found = Survey(sample, split.size, rows["label"], rows, counts, {})
    done, last = 0, "the start of the data"

    def describe_one(encoded, index, label, reason):
        if reason:
            return Look(index, kind="a file or record that cannot be opened", reason=reason)
        return look_at(encoded, index, label, read)

    def damaged(reason):
        found.damage = reason

    for done, look in enumerate(each_image(sample, describe_one, damaged), 1):
        last = sample.name_of(look.index)
        row = rows[done - 1]
        row["index"], row["label"], row["content"] = look.index, look.label, look.content
        if look.kind:
            kind = found.unreadable.setdefault(look.kind, Unreadable())
            kind.count += 1
            if kind.count <= EXAMPLES:
                kind.examples.append((last, look.reason))
        else:
            header = look.header
            row["width"], row["height"] = header.width, header.height
            row["look"], row["flat"], row["readable"] = look.look, look.flat, True
            counts["format"][header.format] += 1
            counts["mode"][header.mode] += 1
            counts["orientation"][header.orientation] += 1
            counts["bits"][header.bits] += 1
            counts["alpha"][bool(header.alpha)] += 1
            counts["animated"][header.frames > 1] += 1
        step(1)
    if found.damage:
        found.damage = f"A damaged record follows {last} ({found.damage}), and the records behind it cannot be read."
    found.rows = rows[:done]
    found.labels = split.labels if isinstance(split, Images) else found.rows["label"]
    return found


def reader_of(options: ReadOptions) -> Callable[[bytes], np.ndarray]:
    """A function from an encoded image to the pixels that training would see, uint8 `(H, W, 3)`. It raises CorruptImage."""
    import tensorflow as tf

    from pf_keras.data.decode import decode_whole

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def in_graph(encoded):
        return decode_whole(encoded, THUMBNAIL, options)

    def read(encoded):
        if identify(encoded) not in ("jpeg", "png"):
            return decode(encoded, options)
        try:
            return in_graph(encoded).numpy()
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            decode(encoded, options)  # whose words are clearer
            raise CorruptImage(image_reason(error)) from None

    return read


def look_at(encoded: bytes, index: int, label: int, read: Callable[[bytes], np.ndarray]) -> Look:
    """Describe one encoded image. `read` gives its pixels."""
    content = int.from_bytes(hashlib.sha256(encoded).digest()[:8], "big")
    try:
        pixels = read(encoded)
        header = describe(encoded)
    except CorruptImage as error:
        return Look(index, label, content, kind=_kind(encoded, error), reason=str(error))
    flat = int(pixels.max()) - int(pixels.min()) < FLAT
    return Look(index, label, content, header, perceptual_hash(pixels), flat)


def perceptual_hash(pixels: np.ndarray) -> int:
    """64 bits that hardly change when an image is resized or compressed again.

    Args:
        pixels: uint8 `(H, W, 3)`.
    """
    import imagehash
    from PIL import Image

    bits = imagehash.phash(Image.fromarray(pixels)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def thumbnails(split: Split, indices: Sequence[int], options: ReadOptions) -> dict[int, np.ndarray]:
    """The pixels of a few readable images, each at most a few hundred pixels a side: `{index: uint8 (H, W, 3)}`."""
    import tensorflow as tf
    from PIL import Image

    wanted, load, read, found = tf.constant(sorted(indices), tf.int64), split.loader(), reader_of(options), {}
    if not len(indices):
        return found
    keys = split.keys(shuffle=False).filter(lambda key: tf.reduce_any(key["index"] == wanted))
    for key in keys.take(len(set(indices))):
        image = Image.fromarray(read(load(key)[0].numpy()))
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        found[int(key["index"])] = np.asarray(image)
    return found


def class_counts(labels: np.ndarray, classes: Sequence[str]) -> dict[str, int]:
    """The number of images of each class: every class that has a name, and other labels by their number.

    Images without a label are not counted.
    """
    counts = dict.fromkeys(classes, 0)
    for label, count in zip(*np.unique(labels[labels >= 0], return_counts=True), strict=True):
        name = classes[label] if label < len(classes) else str(label)
        counts[name] = counts.get(name, 0) + int(count)
    return counts


def _kind(encoded: bytes, error: CorruptImage) -> str:
    """What an image is that cannot be read, to group by."""
    kind = identify(encoded)
    if isinstance(error, TooManyPixels):
        return f"a {kind.upper()} of too many pixels"
    if kind == "unknown":
        return "no known kind of file"
    return kind if " " in kind else f"a damaged or unsupported {kind.upper()}"
