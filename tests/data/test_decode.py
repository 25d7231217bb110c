"""Images decode to the pixels that Pillow reads. Other bytes are refused before memory is allocated for them."""

import io
import math
import resource
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pf_keras.data.decode import centre_window, decode_and_crop, random_window
from pf_keras.noise import CROP
from tests.data import images_made as made


@tf.function(input_signature=[tf.TensorSpec((), tf.string), tf.TensorSpec((4,), tf.int32), tf.TensorSpec((), tf.int32)])
def _cut(encoded, box, size):
    return decode_and_crop(encoded, lambda height, width: tuple(tf.unstack(box)), size)


def cut(encoded, box, size):
    """A square window decoded at its own size, so that resizing does not blur the comparison."""
    return _cut(encoded, box, size).numpy()


def seen(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)


GOOD = {
    "png": lambda: made.encoded(made.pixels(), "PNG"),
    "grey png": lambda: made.encoded(made.pixels()[..., 0], "PNG"),
    "palette png": lambda: made.encoded(Image.fromarray(made.pixels()).quantize(16), "PNG"),
    "one bit png": lambda: made.encoded(Image.fromarray(made.pixels()).convert("1"), "PNG"),
    "animated gif": made.animated_gif,
    "bmp": lambda: made.encoded(made.pixels(), "BMP"),
    "jpeg": made.jpeg,
    "progressive jpeg": lambda: made.jpeg(progressive=True),
    "grey jpeg": lambda: made.encoded(made.pixels()[..., 0], "JPEG", quality=95),
    "cmyk jpeg": made.cmyk_jpeg,
}


@pytest.mark.parametrize("kind", GOOD)
def test_pixels_equal_those_of_pillow(kind):
    encoded = GOOD[kind]()
    ours, theirs = cut(encoded, (6, 14, 34, 34), 34), seen(encoded)[6:40, 14:48]
    # JPEG interpolates coarser colours between neighbouring pixels, which a window lacks at its edges.
    np.testing.assert_array_equal(ours[2:-2, 2:-2], theirs[2:-2, 2:-2])


def test_16_bit_png_keeps_its_high_8_bits():
    encoded, array = made.png16()
    assert np.abs(cut(encoded, (0, 0, 32, 32), 32)[..., 0].astype(int) - (array >> 8)[:32, :32]).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF"])
@pytest.mark.parametrize("shape", [(1, 1), (30_000, 1), (1, 30_000)])
def test_images_of_extreme_shapes(kind, shape):
    array = np.broadcast_to(np.array([200, 30, 90], "uint8"), (*shape, 3))
    encoded = made.encoded(array, kind)
    noise = tf.fill([len(CROP)], 0.9999999)
    for window in (centre_window(0.875), random_window(noise, (0.2, 1.0), (0.75, 4 / 3))):
        image = decode_and_crop(tf.constant(encoded), window, 8).numpy().astype(int)
        assert (image == seen(encoded)[0, 0]).all()


def reference_window(draws, height, width, scale, ratio):
    """The law of torchvision's `RandomResizedCrop`, from random numbers by name: (top, left, height, width)."""
    for area, aspect in zip(draws["area"], draws["aspect_ratio"], strict=True):
        pixels = height * width * (scale[0] + area * (scale[1] - scale[0]))
        shape = math.exp(math.log(ratio[0]) + aspect * (math.log(ratio[1]) - math.log(ratio[0])))
        columns, rows = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < columns <= width and 0 < rows <= height:
            top, left = (int(draws[name][0] * (room + 1)) for name, room in (("top", height - rows), ("left", width - columns)))
            return top, left, rows, columns
    rows, columns = height, width
    if width / height < ratio[0]:
        rows = round(width / ratio[0])
    elif width / height > ratio[1]:
        columns = round(height * ratio[1])
    return (height - rows) // 2, (width - columns) // 2, rows, columns


@pytest.mark.parametrize("height, width", [(375, 500), (32, 32), (40, 400), (300, 20), (1, 1)])
def test_random_windows_have_the_law_of_random_resized_crop(height, width):
    """In float32 a side may round to the neighbouring pixel, so one draw in 300 may differ."""
    scale, ratio, images = (0.2, 1.0), (0.75, 4 / 3), 3000
    noise = np.random.default_rng(0).random((images, len(CROP)), "float32")
    window = tf.function(lambda numbers: tf.stack(random_window(numbers, scale, ratio)(height, width)))
    ours = tf.vectorized_map(window, noise).numpy()
    names = {name: [i for i, other in enumerate(CROP) if other == name] for name in CROP}
    named = [{name: row[places].tolist() for name, places in names.items()} for row in noise]
    theirs = [reference_window(draws, height, width, scale, ratio) for draws in named]
    assert (ours != np.array(theirs)).any(axis=1).mean() < 1 / 300
    assert (ours[:, :2] >= 0).all() and (ours[:, :2] + ours[:, 2:] <= (height, width)).all() and (ours[:, 2:] >= 1).all()


BAD = {
    "empty": lambda: b"",
    "html": lambda: made.HTML,
    "three bytes of a jpeg": lambda: b"\xff\xd8\xff",
    "truncated jpeg": lambda: made.jpeg()[:-600],
    "truncated png": lambda: GOOD["png"]()[:-600],
    "truncated gif": lambda: made.animated_gif(1)[:-600],
    "truncated bmp": lambda: GOOD["bmp"]()[:-600],
    "truncated webp": lambda: made.encoded(made.pixels(), "WEBP")[:-100],
    "truncated tiff": lambda: made.encoded(made.pixels(), "TIFF", compression="tiff_lzw")[:-600],
    "truncated palette bmp": lambda: made.encoded(Image.fromarray(made.pixels()).quantize(16), "BMP")[:-600],
}


@pytest.mark.parametrize("kind", BAD)
def test_other_bytes_are_an_error(kind):
    with pytest.raises(tf.errors.InvalidArgumentError):
        cut(BAD[kind](), (0, 0, 40, 40), 8)


BOMBS = [
    "png_bomb", "jpeg_bomb", "gif_bomb", "bmp_bomb", "webp_bomb", "lossless_webp_bomb", "extended_webp_bomb", "tiff_bomb",
]  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_image_that_declares_too_many_pixels_is_refused_by_its_header(bomb):
    encoded = getattr(made, bomb)()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(tf.errors.InvalidArgumentError, match="its header declares.*pixels, more than the 89,478,485"):
        cut(encoded, (0, 0, 1, 1), 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # KiB
    assert len(encoded) < 30 * 2**20


def test_only_the_first_frame_of_a_gif_takes_memory():
    encoded = made.gif_of_many_frames()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert cut(encoded, (0, 0, 8, 8), 8).shape == (8, 8, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # KiB


@pytest.mark.parametrize("kind", ["images", "reader", "served"])
@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_mutated_images_decode_or_raise(kind, count):
    """Runs in its own process, so that a crash of native code fails the test."""
    done = subprocess.run([sys.executable, "-m", "tests.data.fuzz", kind, str(count)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout)
    assert done.stdout.startswith(f"{count} inputs")
