"""Every format is read as Pillow shows it: upright, transparency on a background, 16 bits scaled. Other files are named."""

import dataclasses
import functools
import io
import struct
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps, features

from experiments.classify import converted
from pf_keras.config import DataConfig
from pf_keras.data.decode import IN_GRAPH, decode_and_crop, decode_whole
from pf_keras.data.formats import REDUCE_ABOVE
from pf_keras.data.reader import (
    DEFAULTS,
    CorruptImage,
    Header,
    ReadOptions,
    TooManyPixels,
    check,
    decode,
    decode_grey16,
    describe,
    identify,
    to_8_bits,
)
from pf_keras.errors import UserError
from tests.data import images_made as made
from tfrecords.encode import prepare

PIXELS = made.pixels(48, 48)
ORIENTATIONS = range(1, 9)
# The largest difference to Pillow's pixels, of 255. Blending and the colours of CMYK are rounded in another way.
EXACT, ROUNDED = 0, 1


def rgba():
    opacity = np.linspace(0, 255, 48 * 48).reshape(48, 48, 1).astype("uint8")
    return Image.fromarray(np.concatenate([PIXELS, opacity], axis=-1))


def palette(transparent=None):
    image = Image.fromarray(PIXELS).quantize(16)
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


def grey():
    return Image.fromarray(PIXELS[..., 0])


def cmyk():
    blocks = np.random.default_rng(0).integers(0, 256, (6, 6, 4), dtype="uint8").repeat(8, 0).repeat(8, 1)
    return Image.fromarray(blocks, "CMYK")


def without_adobe_marker(data):
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def ycck():
    """A CMYK JPEG whose marker says that its first three channels are YCbCr."""
    data = made.encoded(cmyk(), "JPEG", quality=100, subsampling="4:4:4")
    at = data.index(b"Adobe")
    return data[: at + 11] + b"\x02" + data[at + 12 :]


def bmp(bits, compression=0):
    """A BMP of 16 or 32 bits, which Pillow does not write."""
    height, width = PIXELS.shape[:2]
    red, green, blue = (PIXELS[..., channel].astype("uint32") for channel in range(3))
    if bits == 16:  # five bits a channel
        rows = ((red >> 3) << 10 | (green >> 3) << 5 | blue >> 3).astype("<u2")
    else:
        rows = (red << 16 | green << 8 | blue).astype("<u4")
    body = rows[::-1].tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(body), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + header + body


def saved(image, kind, **options):
    return lambda: made.encoded(image() if callable(image) else Image.fromarray(image), kind, **options)


def tiff(image=PIXELS, **options):
    return saved(image, "TIFF", **options)


# name: (bytes, largest difference to Pillow, whether an exported model reads it)
FORMATS = {
    "jpeg": (saved(PIXELS, "JPEG", quality=95, subsampling="4:4:4"), EXACT, True),
    "progressive jpeg": (saved(PIXELS, "JPEG", quality=95, subsampling="4:4:4", progressive=True), EXACT, True),
    "grey jpeg": (saved(grey, "JPEG"), EXACT, True),
    "cmyk jpeg": (saved(cmyk, "JPEG", quality=100, subsampling="4:4:4"), ROUNDED, True),
    "cmyk jpeg without adobe's marker": (
        lambda: without_adobe_marker(made.encoded(cmyk(), "JPEG", quality=100, subsampling="4:4:4")), ROUNDED, True,
    ),
    "ycck jpeg": (ycck, ROUNDED, True),
    "png": (saved(PIXELS, "PNG"), EXACT, True),
    "grey png": (saved(grey, "PNG"), EXACT, True),
    "one bit png": (saved(lambda: grey().convert("1"), "PNG"), EXACT, True),
    "palette png": (saved(palette, "PNG"), EXACT, True),
    "png with opacity": (saved(rgba, "PNG"), ROUNDED, True),
    "grey png with opacity": (saved(lambda: rgba().convert("LA"), "PNG"), ROUNDED, True),
    "png with a transparent colour": (saved(PIXELS, "PNG", transparency=tuple(PIXELS[5, 5].tolist())), ROUNDED, True),
    "grey png with a transparent value": (saved(grey, "PNG", transparency=int(PIXELS[5, 5, 0])), ROUNDED, True),
    "palette png with a transparent entry": (saved(lambda: palette(3), "PNG"), ROUNDED, True),
    "palette png with opacities": (saved(lambda: palette(bytes(range(0, 160, 10))), "PNG"), ROUNDED, True),
    "animated png": (
        saved(PIXELS, "PNG", save_all=True, append_images=[Image.fromarray(255 - PIXELS)]), EXACT, True,
    ),
    "gif": (saved(palette, "GIF"), EXACT, False),
    "gif with a transparent entry": (saved(lambda: palette(3), "GIF"), ROUNDED, False),
    "animated gif": (lambda: made.animated_gif(3, (48, 48)), EXACT, False),
    "bmp": (saved(PIXELS, "BMP"), EXACT, True),
    "palette bmp": (saved(palette, "BMP"), EXACT, False),
    "grey bmp": (saved(grey, "BMP"), EXACT, False),
    "one bit bmp": (saved(lambda: grey().convert("1"), "BMP"), EXACT, False),
    "16 bit bmp": (lambda: bmp(16), EXACT, False),
    "32 bit bmp": (lambda: bmp(32), EXACT, False),
    "webp": (saved(PIXELS, "WEBP", quality=80), EXACT, False),
    "lossless webp": (saved(PIXELS, "WEBP", lossless=True), EXACT, False),
    "webp with opacity": (saved(rgba, "WEBP", lossless=True, exact=True), ROUNDED, False),
    "animated webp": (
        saved(PIXELS, "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(255 - PIXELS)]), EXACT, False,
    ),
    "tiff": (tiff(), EXACT, False),
    "lzw tiff": (tiff(compression="tiff_lzw"), EXACT, False),
    "deflate tiff": (tiff(compression="tiff_adobe_deflate"), EXACT, False),
    "jpeg tiff": (tiff(compression="jpeg"), EXACT, False),
    "fax tiff": (tiff(lambda: grey().convert("1"), compression="group4"), EXACT, False),
    "grey tiff": (tiff(grey), EXACT, False),
    "palette tiff": (tiff(palette), EXACT, False),
    "cmyk tiff": (tiff(cmyk), EXACT, False),
    "tiff with opacity": (tiff(rgba), ROUNDED, False),
    "big tiff": (tiff(big_tiff=True), EXACT, False),
    "tiff of several pages": (tiff(save_all=True, append_images=[Image.fromarray(255 - PIXELS)]), EXACT, False),
    "ppm": (saved(PIXELS, "PPM"), EXACT, False),
    "pgm": (saved(grey, "PPM"), EXACT, False),
    "pbm": (saved(lambda: grey().convert("1"), "PPM"), EXACT, False),
    "avif": (saved(PIXELS, "AVIF", quality=90), EXACT, False),
    "avif with opacity": (saved(rgba, "AVIF", quality=90), ROUNDED, False),
}  # fmt: skip


def shown_by_pillow(data, background="white"):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image.convert("RGBA"))
    return np.asarray(image.convert("RGB")).astype(int)


def whole(height, width):
    return 0, 0, height, width


@functools.cache
def graph(options=DEFAULTS, python=True):
    """`decode_and_crop` of the whole image at its own size, for images of 48x48 pixels."""
    return tf.function(
        lambda data: decode_and_crop(data, whole, 48, options, python), input_signature=[tf.TensorSpec((), tf.string)]
    )


TRAINING, SERVING = graph(), graph(python=False)


def made_or_skipped(kind):
    if kind.startswith("avif") and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    return FORMATS[kind][0]()


@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_equal_those_of_pillow_in_reading_training_and_serving(kind):
    data, (_, tolerance, served) = made_or_skipped(kind), FORMATS[kind]
    expected = shown_by_pillow(data)
    assert np.abs(decode(data).astype(int) - expected).max() == EXACT
    assert np.abs(TRAINING(data).numpy().astype(int) - expected).max() <= tolerance
    if served:
        assert np.abs(SERVING(data).numpy().astype(int) - expected).max() <= tolerance
    else:
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"not a {IN_GRAPH} of"):
            SERVING(data)


@pytest.mark.parametrize("kind", [kind for kind, (_, _, served) in FORMATS.items() if not served])
def test_the_client_of_an_export_converts_what_the_model_does_not_read(kind):
    data = made_or_skipped(kind)
    assert np.abs(SERVING(converted(data)).numpy().astype(int) - shown_by_pillow(data)).max() <= ROUNDED


def test_the_client_keeps_jpeg_and_png_and_16_bits():
    for kind in ("jpeg", "png", "png with opacity"):
        data = FORMATS[kind][0]()
        assert converted(data) == data
    values = np.arange(0, 65536, 28, dtype="uint16")[: 48 * 48].reshape(48, 48)
    for data in (made.encoded(Image.fromarray(values), "TIFF"), b"P5\n48 48\n65535\n" + values.astype(">u2").tobytes()):
        np.testing.assert_array_equal(SERVING(converted(data))[..., 0], values >> 8)
    for data in (b"", made.HTML, made.encoded(PIXELS[..., 0].astype("float32"), "TIFF"), made.tiff_bomb()):
        with pytest.raises(ValueError):
            converted(data)


def test_the_client_needs_pillow_for_other_formats_only(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    data = b"\xff\xd8\xff"
    assert converted(data) == data
    with pytest.raises(ImportError):
        converted(b"GIF89a")


@pytest.mark.parametrize("background", ["white", "black", "drop"])
@pytest.mark.parametrize("kind", [kind for kind in FORMATS if "opacit" in kind or "transparent" in kind])
def test_transparent_pixels_show_the_background(kind, background):
    data, options = made_or_skipped(kind), ReadOptions(background=background)
    if background == "drop":  # hidden colours, as before
        reference = tf.io.decode_image(data, channels=3, expand_animations=False) if kind[0] in "gp" else None
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB") if reference is None else reference).astype(int)
    else:
        expected = shown_by_pillow(data, background)
    for found in (decode(data, options), graph(options)(data).numpy()):
        assert np.abs(found.astype(int) - expected).max() <= ROUNDED


def turned(kind, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return made.encoded(made.pixels(64, 96), kind, exif=exif.tobytes(), **options)


EXIF = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "AVIF": {"quality": 90},
}


@tf.function
def cut(data, box, python):
    return decode_and_crop(data, lambda height, width: tuple(tf.unstack(box)), 20, python=python)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", EXIF)
def test_images_are_turned_upright(kind, orientation):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = turned(kind, orientation, **EXIF[kind])
    expected = shown_by_pillow(data)
    np.testing.assert_array_equal(decode(data), expected)
    header = describe(data)
    assert (header.height, header.width) == expected.shape[:2] and header.orientation == orientation

    for top, left in ((0, 0), (7, 30), (44, 44)):
        box = tf.constant([top, left, 20, 20])
        for python in (True, False) if kind in ("JPEG", "PNG") else (True,):
            found = cut(tf.constant(data), box, python).numpy()
            np.testing.assert_array_equal(found, expected[top : top + 20, left : left + 20])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_window_is_drawn_in_the_upright_image(orientation):
    """Here the lower half of it, whose sides depend on those of the image."""
    data = turned("JPEG", orientation, **EXIF["JPEG"])
    expected = shown_by_pillow(data)
    height, width = expected.shape[:2]
    found = decode_and_crop(tf.constant(data), lambda h, w: (h // 2, w - h // 2, h // 2, h // 2), height // 2)
    np.testing.assert_array_equal(found, expected[height // 2 :, width - height // 2 :])


def test_exif_can_be_ignored():
    for kind in ("JPEG", "PNG", "WEBP"):
        data, options = turned(kind, 6, **EXIF[kind]), ReadOptions(exif=False)
        stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decode(data, options), stored)
        found = decode_and_crop(tf.constant(data), lambda height, width: (0, 0, 64, 64), 64, options)
        np.testing.assert_array_equal(found, stored[:64, :64])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value, kind", [(6, "short"), (6, "long"), (0, "short"), (9, "short"), (77_777, "long")])
def test_orientation_in_both_byte_orders_and_types(order, value, kind):
    block = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 2)
    block += struct.pack(order + "HHIHH", 0x010F, 3, 1, 5, 0)  # another entry first
    block += struct.pack(order + "HHI", 0x0112, 3 if kind == "short" else 4, 1)
    block += struct.pack(order + ("HH" if kind == "short" else "I"), *([value, 0] if kind == "short" else [value]))
    data = made.encoded(made.pixels(64, 96), "JPEG", exif=b"Exif\0\0" + block)
    assert describe(data).orientation == (value if value == 6 else 1)
    shown = shown_by_pillow(data)
    found = decode_and_crop(tf.constant(data), lambda height, width: (0, 0, 60, 60), 60).numpy().astype(int)
    assert np.abs(found - shown[:60, :60]).max() < 12


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_damaged_exif_data_do_not_hide_an_image(cut):
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    damaged = block[:cut] + b"\xff" * (len(block) - cut)
    data = made.encoded(PIXELS, "JPEG", quality=95, subsampling="4:4:4", exif=damaged)
    np.testing.assert_array_equal(TRAINING(data), decode(data))


def test_16_bits_are_scaled_by_the_range():
    values, data = np.arange(0, 65536, 28, dtype="uint16")[: 48 * 48].reshape(48, 48), {}
    image = Image.fromarray(values)
    data["png"], data["tiff"] = made.encoded(image, "PNG"), made.encoded(image, "TIFF")
    data["ppm"] = b"P5\n48 48\n65535\n" + values.astype(">u2").tobytes()
    for encoded in data.values():
        for found in (decode(encoded), TRAINING(encoded).numpy()):
            np.testing.assert_array_equal(found, np.stack([values >> 8] * 3, -1))
    np.testing.assert_array_equal(SERVING(data["png"])[..., 0], values >> 8)
    options = ReadOptions(range16=(1000, 5000))  # as of a 12-bit X-ray
    expected = to_8_bits(values, (1000, 5000))
    assert expected[values <= 1000].max() == 0 and expected[values >= 5000].min() == 255
    for encoded in data.values():
        for found in (decode(encoded, options), graph(options)(encoded).numpy()):
            np.testing.assert_array_equal(found, np.stack([expected] * 3, -1))
    np.testing.assert_array_equal(graph(options, python=False)(data["png"])[..., 2], expected)


def png_of(values, colour, transparent=b""):
    """A PNG of 16 bits, of which Pillow writes grey ones only."""
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    body = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("colour, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("transparent", [False, True])
def test_16_bit_png_of_every_colour_type(colour, channels, transparent):
    if transparent and colour > 2:
        pytest.skip("it has opacities already")
    values = np.random.default_rng(0).integers(0, 65536, (48, 48, channels), dtype="uint16")
    hidden = values[5, 5].copy()
    data = png_of(values, colour, hidden.astype(">u2").tobytes() if transparent else b"")
    high = (values >> 8).astype(int)
    pixels = high[..., :3] if channels > 2 else high[..., :1].repeat(3, -1)
    opacity = high[..., -1:] if colour >= 4 else np.where((values == hidden).all(-1, keepdims=True) & transparent, 0, 255)
    expected = (pixels * opacity + 255 * (255 - opacity)) / 255
    for found in (decode(data), TRAINING(data).numpy(), SERVING(data).numpy()):
        assert np.abs(found - expected).max() <= 1
    low = ReadOptions(range16=(0, 4095))
    if colour == 0:
        expected = np.where(opacity == 0, 255, to_8_bits(values, (0, 4095))).repeat(3, -1)
    for found in (decode(data, low), graph(low)(data).numpy()):
        assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_transparent_value_of_a_grey_png_of_few_bits(bits):
    import zlib

    levels = np.random.default_rng(0).integers(0, 2**bits, (48, 48), dtype="uint8")
    per_byte = 8 // bits
    packed = (levels.reshape(48, -1, per_byte) << np.arange(8 - bits, -1, -bits, dtype="uint8")).sum(-1).astype("uint8")

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 48, bits, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", b"\0\1") + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    expected = np.where(levels == 1, 255, levels * (255 // (2**bits - 1)))
    for found in (decode(data), TRAINING(data).numpy(), SERVING(data).numpy()):
        np.testing.assert_array_equal(found[..., 1], expected)


def test_16_bit_tiff_in_which_0_is_white():
    values = np.arange(0, 65536, 28, dtype="uint16")[: 48 * 48].reshape(48, 48)
    data = made.encoded(Image.fromarray(values), "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(decode(data)[..., 0], (65535 - values) >> 8)


@pytest.mark.parametrize("dtype, words", [("int32", "signed or 32-bit"), ("float32", "floating-point")])
def test_pixels_without_a_known_range_are_refused(dtype, words):
    with pytest.raises(CorruptImage, match=words):
        decode(made.encoded(PIXELS[..., 0].astype(dtype), "TIFF"))


def test_range_of_a_config():
    with pytest.raises(ValueError, match="still 'data'"):
        ReadOptions.from_config(DataConfig(range16="data"))
    assert ReadOptions.from_config(DataConfig()) == ReadOptions()
    assert ReadOptions.from_config(DataConfig(range16="0-4095")) == ReadOptions(range16=(0, 4095))
    for wrong in ("4095", "5-5", "0-65536", "high", "-1-5"):
        with pytest.raises(UserError, match="Use type, data, or a range of 16-bit values such as 0-4095"):
            DataConfig(range16=wrong)


LARGE = (1800, 2400)


def large(**options):
    return made.encoded(made.pixels(*LARGE), "JPEG", quality=90, **options)


def test_large_jpeg_is_reduced_while_it_is_decoded():
    data = large()
    assert LARGE[0] * LARGE[1] > REDUCE_ABOVE
    expected = made.pixels(*LARGE).astype(int)
    for shorter, scale in ((None, 1), (1000, 1), (900, 2), (450, 4), (64, 8)):
        found = decode(data, shorter=shorter)
        assert found.shape == (LARGE[0] // scale, LARGE[1] // scale, 3)
        assert np.abs(found - expected[::scale, ::scale]).max() < 12
    top, left, side = 300, 800, 1200
    box = lambda height, width: (top, left, side, side)  # noqa: E731
    for size in (100, 150, 300, 600, 1200):
        found = decode_and_crop(tf.constant(data), box, size).numpy().astype(int)
        places = (np.arange(size) + 0.5) * side / size - 0.5
        reference = expected[(top + places).round().astype(int)][:, (left + places).round().astype(int)]
        assert np.abs(found - reference).max() < 14


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_large_jpeg_is_reduced_and_turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = large(exif=exif.tobytes())
    expected = shown_by_pillow(data)
    found = decode_and_crop(tf.constant(data), lambda height, width: (100, 200, 1600, 1600), 200).numpy().astype(int)
    places = (100 + (np.arange(200) + 0.5) * 8).round().astype(int)
    assert np.abs(found - expected[places][:, places + 100]).max() < 14


@pytest.mark.parametrize("size", [8, 32, 224])
def test_photographs_up_to_four_megapixels_are_not_reduced(size):
    """So their numbers are what they were."""
    for height, width in ((32, 32), (375, 500), (1600, 2000)):
        data = tf.constant(made.encoded(made.pixels(height, width), "JPEG"))
        window = (height // 8, width // 8, height // 2, width // 2)
        pixels = tf.image.decode_and_crop_jpeg(data, window, channels=3, dct_method="INTEGER_ACCURATE")
        before = tf.cast(tf.image.resize(pixels, (size, size)) + 0.5, tf.uint8)
        np.testing.assert_array_equal(decode_and_crop(data, lambda h, w, window=window: window, size), before)


OTHER_FILES = {
    b"": "an empty file",
    b"<!DOCTYPE html><html>": "an HTML page",
    b"\n <HTML lang=en>": "an HTML page",
    b"<?xml version='1.0'?><svg": "an SVG drawing",
    b"<?xml version='1.0'?><a>": "an XML file",
    b'{"error": "not found"}': "a JSON file",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a": "a git-lfs pointer",
    b"%PDF-1.7": "a PDF",
    b"\x1f\x8b\x08\x00": "gzip",
    b"PK\x03\x04": "a ZIP archive",
    b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00isommp42": "a video",
    b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic": "heic",
    b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic": "heic",
    b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf": "avif",
    bytes(100): "a file of zeros",
    b"BMW is a make of cars": "unknown",
    b"Paris": "unknown",
    b"\xff\xd8\xff": "jpeg",
}


@pytest.mark.parametrize("data", OTHER_FILES)
def test_files_are_identified_by_their_content(data):
    what = OTHER_FILES[data]
    assert identify(data) == what
    with pytest.raises(CorruptImage) as error:
        decode(data)
    if what[:2] in ("a ", "an", "gz"):
        assert what in str(error.value)
    with pytest.raises(tf.errors.InvalidArgumentError):
        TRAINING(data)


def test_formats_are_identified():
    for kind in FORMATS:
        names = [word for word in ("jpeg", "png", "gif", "bmp", "webp", "tiff", "avif") if word in kind.split()]
        if not kind.startswith("avif") or features.check("avif"):
            assert identify(FORMATS[kind][0]()) == (names or ["ppm"])[-1]


def test_heic_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(CorruptImage, match=r'needs pillow-heif: pip install "pf-keras\[heif\]"'):
        decode(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic")


def test_heic_is_read_by_its_library():
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    data = made.encoded(PIXELS, "HEIF", quality=95)
    assert identify(data) == "heic"
    np.testing.assert_array_equal(decode(data), shown_by_pillow(data))
    np.testing.assert_array_equal(TRAINING(data), shown_by_pillow(data))


def test_header_of_an_image():
    assert describe(FORMATS["png with opacity"][0]()) == Header("png", 48, 48, "RGBA", 1, True, 8, 1)
    assert describe(FORMATS["one bit png"][0]()) == Header("png", 48, 48, "1", 1, False, 1, 1)
    assert describe(FORMATS["animated gif"][0]()) == Header("gif", 48, 48, "P", 1, False, 8, 3)
    assert describe(FORMATS["tiff of several pages"][0]()) == Header("tiff", 48, 48, "RGB", 1, False, 8, 2)
    assert describe(made.png16()[0]) == Header("png", 60, 40, "I;16", 1, False, 16, 1)
    assert describe(made.encoded(made.pixels().astype("uint16")[..., 0], "TIFF")).bits == 16


BOMBS = {
    "jpeg": made.jpeg_bomb,
    "png": made.png_bomb,
    "gif": made.gif_bomb,
    "bmp": made.bmp_bomb,
    "webp": made.webp_bomb,
    "lossless webp": made.lossless_webp_bomb,
    "extended webp": made.extended_webp_bomb,
    "tiff": made.tiff_bomb,
    "tile of a tiff": made.tile_bomb,
    "ppm": lambda: b"P6\n60000 60000\n255\n" + bytes(1000),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_image_that_declares_too_many_pixels_is_refused_by_its_header(kind, monkeypatch):
    data = BOMBS[kind]()
    with pytest.raises(TooManyPixels, match="its header declares [0-9]+ x [0-9]+ pixels, more than the 89,478,485 allowed"):
        decode(data)
    if kind in ("jpeg", "png"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="60000.*x.*60000.*pixels, more than the 89,478,485 allowed"):
            TRAINING(data)
    with pytest.raises(tf.errors.InvalidArgumentError, match="89,478,485"):
        SERVING(data)


def test_the_limit_can_be_lifted():
    data, options = made.encoded(PIXELS, "PNG"), ReadOptions(max_pixels=48 * 48)
    assert decode(data, options).shape == (48, 48, 3)
    small = dataclasses.replace(options, max_pixels=48 * 48 - 1)
    for encoded in (data, made.encoded(PIXELS, "JPEG"), made.encoded(PIXELS, "WEBP"), made.encoded(PIXELS, "BMP")):
        with pytest.raises(TooManyPixels):
            decode(encoded, small)
        for python in (True, False):
            with pytest.raises(tf.errors.InvalidArgumentError, match="2,303"):
                graph(small, python)(encoded)


def test_reader_does_not_import_tensorflow():
    import subprocess

    code = "import sys, pf_keras.data.reader; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


STORED = 4  # levels that a JPEG of quality 100 may be off: it rounds the colours to and from YCbCr, and each frequency


@pytest.mark.parametrize("kind", FORMATS)
def test_a_built_record_shows_the_same_pixels(kind):
    data = made_or_skipped(kind)
    stored = prepare(data, "image.png" if "png" in kind else "image")
    found = TRAINING(stored.encoded).numpy().astype(int)
    assert stored.format in ("JPEG", "PNG")
    same = ROUNDED if stored.encoded == data or stored.format == "PNG" else STORED
    assert np.abs(found - shown_by_pillow(data)).max() <= same


def test_orientation_behind_the_pixels_of_a_png_is_applied():
    data = turned("PNG", 6)
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    moved = data[:at] + data[end:-12] + data[at:end] + data[-12:]
    expected = shown_by_pillow(data)
    np.testing.assert_array_equal(decode(moved), expected)
    whole_png = tf.function(lambda data: decode_whole(data, 8), input_signature=[tf.TensorSpec((), tf.string)])
    np.testing.assert_array_equal(whole_png(moved), expected)


@pytest.mark.parametrize("inverted", [False, True])
def test_grey_of_12_bits_and_grey_whose_0_is_white(inverted):
    values = np.linspace(0, 4095, 48 * 48, dtype="uint16").reshape(48, 48)
    data = made.encoded(values, "TIFF", tiffinfo={262: 0 if inverted else 1})
    grey = decode(data, ReadOptions(range16=(0, 4095)))[..., 0]
    assert (grey[0, 0], grey[-1, -1]) == ((255, 0) if inverted else (0, 255))
    np.testing.assert_array_equal(SERVING(converted(data)), decode(data))
    upright = values if not inverted else 65535 - values
    np.testing.assert_array_equal(decode_grey16(data), upright)


def test_image_that_pillow_itself_refuses_is_too_large(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # as if the image had 178 million pixels
    for kind in ("WEBP", "TIFF"):
        with pytest.raises(TooManyPixels, match="more than the 200 pixels that Pillow allows"):
            decode(made.encoded(PIXELS, kind), ReadOptions(max_pixels=10**6))


def test_check_finds_what_is_cut_short_without_decoding_it():
    for kind in ("JPEG", "PNG", "WEBP", "GIF"):
        check(made.encoded(PIXELS, kind))
    for data in (made.jpeg()[:-600], made.encoded(PIXELS, "PNG")[:-12], made.encoded(PIXELS, "PNG")[:-400], b"", made.HTML):
        with pytest.raises(CorruptImage):
            check(data)
    with pytest.raises(TooManyPixels):
        check(made.jpeg(), ReadOptions(max_pixels=100))
