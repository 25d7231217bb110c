"""From encoded bytes to a cropped uint8 image, inside tf.data and in exported graphs.

TensorFlow reads JPEG and PNG. All other formats go through `reader.py`, which these pixels agree with.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from pf_keras.data.formats import EXIF_ENTRIES, FLIPPED, HEAD, MIRRORED, REDUCE_ABOVE, TURNED
from pf_keras.data.reader import DEFAULTS, RANGE16, CorruptImage, ReadOptions, decode
from pf_keras.noise import ATTEMPTS, CROP

# A function from int32 (height, width) to int32 (top, left, height, width), a window inside the upright image.
Window = Callable[[object, object], tuple]
IN_GRAPH = "JPEG, PNG or 24-bit BMP"  # no WebP, whose operation only TensorFlow 2.20 and later have
# A marker of Adobe's, before the image's own if it has one. Without any, TensorFlow takes a CMYK image for its negative.
_ADOBE = b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
_ORIENTATION, _LONG = 0x0112, 4  # an EXIF tag, and the type of a number of 4 bytes


def decode_and_crop(encoded, window: Window, size: int, options: ReadOptions = DEFAULTS, python: bool = True):
    """Decode an image of any size and crop it.

    Args:
        encoded: scalar string: the bytes of an image file.
        window: where to crop the upright image.
        size: of the result, in pixels a side.
        options: how pixels are read.
        python: whether Python code may run, which reads all formats of `reader.READS`. Without it, as in an exported graph and
            another machine's TPU, the formats are `IN_GRAPH`.

    Returns:
        uint8 (size, size, 3), resized by bilinear interpolation.

    Raises:
        InvalidArgumentError: the image is damaged, too large, or of another format.
    """
    return resize(_read_window(encoded, window, size, options, python), size)


def decode_whole(encoded, shorter: int, options: ReadOptions = DEFAULTS):
    """Decode a whole image as training does.

    Args:
        encoded: scalar string: the bytes of an image file.
        shorter: a JPEG above `REDUCE_ABOVE` pixels may be reduced, to no less than this shorter side.
        options: how pixels are read.

    Returns:
        uint8 (H, W, 3), upright.

    Raises:
        InvalidArgumentError: as `decode_and_crop`.
    """
    return _read_window(encoded, lambda height, width: (0, 0, height, width), shorter, options, python=True)


def _read_window(encoded, window, size, options, python):
    """The window of an image, before it is resized to `size`: uint8 (h, w, 3)."""
    encoded = tf.convert_to_tensor(encoded)

    def jpeg():
        return _cut_jpeg(encoded, window, size, options)

    @_apart
    def png():
        return _cut_png(encoded, window, options)

    @_apart
    def other():
        image, orientation = _read(encoded, options) if python else _read_in_graph(encoded, options)
        return _cut(image, window, orientation)

    def not_jpeg():
        return tf.cond(tf.equal(tf.strings.substr(encoded, 0, 8), b"\x89PNG\r\n\x1a\n"), png, other)

    return tf.ensure_shape(tf.cond(tf.io.is_jpeg(encoded), jpeg, not_jpeg), (None, None, 3))


def _apart(function: Callable) -> Callable:
    """The function as one operation of the graph. Without this, an image pays for the operations of branches not taken.

    A function of the module is traced once for all graphs, which saves a second of each start.
    """
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True}, reduce_retracing=True)


def resize(images, size: int):
    """Resize by bilinear interpolation, rounding halves up: uint8 (..., H, W, 3) -> uint8 (..., size, size, 3)."""
    images = tf.image.resize(images, (size, size), method="bilinear")
    return tf.cast(images + 0.5, tf.uint8)  # needs no clipping: interpolation stays between the pixels' values


def _check_pixels(height, width, options: ReadOptions):
    fits = tf.cast(height, tf.int64) * tf.cast(width, tf.int64) <= options.max_pixels
    says = ["its header declares", width, "x", height, f"pixels, more than the {options.max_pixels:,} allowed"]
    return tf.debugging.Assert(fits, says)


def _cut_jpeg(encoded, window, size, options):
    """The window of a JPEG, decoding only its rows. Of a large image it may be reduced, to no less than `size`."""

    def marked():
        return tf.strings.join([_ADOBE, tf.strings.substr(encoded, 2, -1)])

    height, width, channels = tf.unstack(tf.io.extract_jpeg_shape(encoded))
    with tf.control_dependencies([_check_pixels(height, width, options)]):
        source = tf.cond(tf.equal(channels, 4), marked, lambda: encoded)
    large = tf.cast(height, tf.float32) * tf.cast(width, tf.float32) > REDUCE_ABOVE

    def cut(box, ratio):
        # The accurate transform is as fast as the default one, whose pixels differ by up to 10 of 255.
        box = tf.maximum(tf.stack(box) // ratio, (0, 0, 1, 1))
        return tf.image.decode_and_crop_jpeg(source, box, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    orientation = _orientation_behind(tf.strings.substr(encoded, 0, HEAD), b"Exif\0\0") if options.exif else 1
    box, turn = _place(window, height, width, orientation)
    sides = tf.cast(tf.minimum(box[2], box[3]) >= [2 * size, 4 * size, 8 * size], tf.int32)
    power = tf.where(large, tf.reduce_sum(sides), 0)
    return turn(tf.switch_case(power, [lambda ratio=ratio: cut(box, ratio) for ratio in (1, 2, 4, 8)]))


def _cut_png(encoded, window, options):
    """The window of a PNG."""
    width, height = tf.unstack(tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False), 2)
    depth, colour = tf.unstack(tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 24, 2), tf.uint8), tf.int32), 2)
    orientation = _orientation_behind(encoded, b"eXIf") if options.exif else 1  # some programs write it behind the pixels

    def whole():
        return _cut(tf.io.decode_png(encoded, channels=3), window, orientation)

    def transparent():
        return _on_background(_cut(tf.io.decode_png(encoded, channels=4), window, orientation), options)

    def scaled():
        low, high = options.range16
        image = tf.cast(_cut(tf.io.decode_png(encoded, channels=4, dtype=tf.uint16), window, orientation), tf.int32)
        grey = (tf.clip_by_value(image[..., :3], low, high) - low) * 256 // (high - low + 1)
        image = tf.cast(tf.concat([grey, image[..., 3:] // 256], axis=-1), tf.uint8)
        return image[..., :3] if options.background == "drop" else _on_background(image, options)

    def of_8_bits():
        if options.background == "drop":
            return whole()
        # A transparent colour, or transparent entries of a palette. Where other data have this mark by chance, no harm is done.
        has_colour = tf.size(_behind(encoded, b"tRNS")) > 1
        return tf.cond(tf.logical_or(colour >= 4, has_colour), transparent, whole)

    with tf.control_dependencies([_check_pixels(height, width, options)]):
        if options.range16 == RANGE16:  # TensorFlow keeps the high 8 bits too
            return of_8_bits()
        return tf.cond(tf.logical_and(depth > 8, tf.equal(colour, 0)), scaled, of_8_bits)


def _read(encoded, options):
    """The pixels and the orientation of an image, which `reader.decode` has turned already."""

    def read(data):
        try:
            return decode(data if isinstance(data, bytes) else data.item(), options), ""
        except CorruptImage as error:
            return np.zeros((1, 1, 3), np.uint8), str(error)

    image, problem = tf.numpy_function(read, [encoded], (tf.uint8, tf.string), stateful=False)
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(problem, ""), [problem])]):
        return tf.ensure_shape(image, (None, None, 3)), 1


def _read_in_graph(encoded, options):
    """The pixels and the orientation of a BMP, by TensorFlow alone."""
    header = tf.strings.substr(tf.strings.join([tf.strings.substr(encoded, 0, 54), b"\0" * 54]), 0, 54)
    values = tf.cast(tf.io.decode_raw(header, tf.uint8), tf.int64)

    def number(place, count):
        return tf.reduce_sum(values[place : place + count] * 256 ** np.arange(count, dtype="int64"))

    def has(magic, place=0):
        return tf.equal(tf.strings.substr(header, place, len(magic)), magic)

    # TensorFlow misreads packed BMPs and takes the palette's indices for grey values.
    is_bmp = tf.reduce_all([has(b"BM"), tf.equal(number(28, 2), 24), tf.equal(number(30, 4), 0)])
    rows = tf.minimum(number(22, 4), 2**32 - number(22, 4))  # negative where rows are stored from top to bottom
    pixels = tf.where(is_bmp, tf.minimum(number(18, 4), 2**31) * rows, 0)
    fits = tf.logical_and(pixels > 0, pixels <= options.max_pixels)
    says = [f"not a {IN_GRAPH} of 1 to {options.max_pixels:,} pixels; its header declares", pixels]

    with tf.control_dependencies([tf.debugging.Assert(fits, says)]):
        return tf.ensure_shape(tf.io.decode_bmp(encoded, channels=3), (None, None, 3)), 1


def _on_background(image, options):
    """uint8 (H, W, 4) with opacity in the last channel -> uint8 (H, W, 3)."""
    image = tf.cast(image, tf.int32)
    opacity, behind = image[..., 3:], 255 if options.background == "white" else 0
    return tf.cast((image[..., :3] * opacity + behind * (255 - opacity) + 127) // 255, tf.uint8)


def _behind(data, mark: bytes):
    """The bytes before the first `mark` and, if there is one, those behind it: string (1,) or (2,)."""
    return tf.strings.split(data[None], mark, maxsplit=1).values


def _orientation_behind(data, mark: bytes):
    """The EXIF orientation in the data behind a mark, or 1 where there is no such mark."""
    parts = _behind(data, mark)
    return tf.cond(tf.size(parts) > 1, lambda: _orientation(parts[1]), lambda: 1)


@_apart
def _orientation(exif):
    """`reader.orientation` as a graph: scalar string -> int32 scalar."""
    exif = tf.strings.substr(exif, 0, HEAD)
    prefix = tf.equal(tf.strings.substr(exif, 0, 6), b"Exif\0\0")
    exif = tf.cond(prefix, lambda: tf.strings.substr(exif, 6, -1), lambda: exif)
    order = tf.strings.substr(exif, 0, 2)
    little = tf.equal(order, b"II")
    values = tf.io.decode_raw(tf.strings.join([exif, b"\0" * (8 + 2 + 12 * EXIF_ENTRIES)]), tf.uint8)

    def number(part):
        """int64 (...), from the bytes in the last axis."""
        powers = 256 ** np.arange(part.shape[-1], dtype="int64")
        return tf.reduce_sum(tf.cast(part, tf.int64) * tf.where(little, powers, powers[::-1]), axis=-1)

    start = tf.minimum(number(tf.ensure_shape(values[4:8], (4,))), tf.cast(tf.strings.length(exif), tf.int64))
    count = number(tf.ensure_shape(values[start : start + 2], (2,)))
    entries = tf.reshape(values[start + 2 : start + 2 + 12 * EXIF_ENTRIES], (EXIF_ENTRIES, 12))
    value = tf.where(tf.equal(number(entries[:, 2:4]), _LONG), number(entries[:, 8:12]), number(entries[:, 8:10]))
    chosen = tf.logical_and(tf.equal(number(entries[:, :2]), _ORIENTATION), np.arange(EXIF_ENTRIES) < count)
    found = tf.where(tf.reduce_any(chosen), value[tf.argmax(tf.cast(chosen, tf.int32))], 1)
    known = tf.logical_or(little, tf.equal(order, b"MM"))
    return tf.cast(tf.where(known & (found >= 1) & (found <= 8), found, 1), tf.int32)


def _place(window, height, width, orientation):
    """Where a window of the upright image is in the stored picture, and a function that turns what is there upright.

    Args:
        window: in the upright image.
        height: of the stored picture.
        width: of the stored picture.
        orientation: 1 to 8. Python's 1 needs no operation.

    Returns:
        `((top, left, height, width), turn)`.
    """
    if isinstance(orientation, int):
        return window(height, width), lambda part: part
    sides = tf.where(orientation >= min(TURNED), (width, height), (height, width))
    box = tf.stack(window(sides[0], sides[1]))

    def turn(part):
        return tf.cond(orientation > 1, lambda: _turned(part, orientation), lambda: part)

    return tf.unstack(tf.cond(orientation > 1, lambda: _stored(box, sides, orientation), lambda: box)), turn


@_apart
def _stored(box, sides, orientation):
    """Where in the stored picture a box of the upright image of these sides is."""
    top, left, rows, columns = tf.unstack(box)
    top = tf.where(tf.reduce_any(tf.equal(orientation, FLIPPED)), sides[0] - top - rows, top)
    left = tf.where(tf.reduce_any(tf.equal(orientation, MIRRORED)), sides[1] - left - columns, left)
    return tf.where(orientation >= min(TURNED), (left, top, columns, rows), (top, left, rows, columns))


@_apart
def _turned(image, orientation):
    """A part of the stored picture, upright."""
    image = tf.cond(orientation >= min(TURNED), lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    image = tf.cond(tf.reduce_any(tf.equal(orientation, MIRRORED)), lambda: tf.reverse(image, [1]), lambda: image)
    return tf.cond(tf.reduce_any(tf.equal(orientation, FLIPPED)), lambda: tf.reverse(image, [0]), lambda: image)


def _cut(image, window, orientation):
    """The window of a decoded image that is stored in this orientation."""
    shape = tf.shape(image)
    (top, left, rows, columns), turn = _place(window, shape[0], shape[1], orientation)
    return turn(image[top : top + rows, left : left + columns])


def random_window(noise, scale: Sequence[float], ratio: Sequence[float]) -> Window:
    """A window of random area and aspect ratio at a random place, with the law of torchvision's `RandomResizedCrop`.

    Area and aspect ratio are drawn until the window fits into the image, up to ten times. If none fits, it is the largest
    window in the middle whose aspect ratio is in the range.

    Args:
        noise: float32 (K,), uniform in [0, 1), K >= len(CROP).
        scale: (low, high), the fraction of the image's area.
        ratio: (low, high), width over height, uniform on a logarithmic scale.
    """

    def drawn(name):
        first = CROP.index(name)
        return noise[first : first + CROP.count(name)]

    def window(height, width):
        size = tf.cast(tf.stack([height, width]), tf.float32)
        area = (scale[0] + drawn("area") * (scale[1] - scale[0])) * size[0] * size[1]
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = tf.exp(low + drawn("aspect_ratio") * (high - low))
        sides = tf.round(tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)], axis=1))  # (ATTEMPTS, 2)
        fits = tf.reduce_all(tf.logical_and(sides >= 1, sides <= size), axis=1)
        # A last window, which always fits: the sides of the image, of which one is cut if the image is too wide or too high.
        largest = tf.maximum(1.0, tf.round(tf.minimum(size, tf.stack([size[1] / ratio[0], size[0] * ratio[1]]))))
        chosen = tf.argmax(tf.concat([fits, [True]], axis=0))
        sides = tf.concat([sides, [largest]], axis=0)[chosen]
        room = size - sides
        # A float32 product can round up to the excluded end of its range.
        random = tf.minimum(tf.floor(tf.concat([drawn("top"), drawn("left")], axis=0) * (room + 1)), room)
        place = tf.where(chosen < ATTEMPTS, random, room // 2)
        top, left, rows, columns = tf.unstack(tf.cast(tf.concat([place, sides], axis=0), tf.int32))
        return top, left, rows, columns

    return window


def centre_window(fraction: float) -> Window:
    """The central square whose side is a fraction of the shorter side."""

    def window(height, width):
        side = tf.cast(tf.minimum(height, width), tf.float32) * fraction
        side = tf.maximum(tf.cast(tf.round(side), tf.int32), 1)
        return (height - side) // 2, (width - side) // 2, side, side

    return window
