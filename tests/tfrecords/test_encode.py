"""Which images keep their bytes, which are converted, and which are refused before they are decoded."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from tfrecords import encode
from tfrecords.encode import CorruptImage, prepare


def opened(prepared):
    return Image.open(io.BytesIO(prepared.encoded))


def test_palette_png_is_rgb_and_may_have_a_long_text():
    texts = PngInfo()
    texts.add_text("XML:com.adobe.xmp", "x" * (2 << 20), zip=True)
    out = io.BytesIO()
    Image.new("P", (30, 20)).save(out, "PNG", pnginfo=texts)
    prepared = prepare(out.getvalue(), "a.png")
    assert (prepared.channels, prepared.colorspace, prepared.encoded) == (3, "RGB", out.getvalue())


@pytest.mark.parametrize("mode, channels, colorspace, odd", [("RGB", 3, "RGB", ()), ("L", 1, "Grayscale", ("grey",))])
def test_jpeg_keeps_its_bytes(helpers, mode, channels, colorspace, odd):
    data = helpers.image(1, mode=mode)
    prepared = prepare(data, "a.JPEG")
    assert prepared == encode.Prepared(data, 30, 40, channels, colorspace, "JPEG", odd)


def test_png_keeps_its_bytes_but_becomes_a_jpeg_if_named_jpeg(helpers):
    data = helpers.image(2, format="PNG")
    assert prepare(data, "a.png").encoded == data
    assert prepare(data, "a.png").format == "PNG"
    prepared = prepare(data, "n02105855_2933.JPEG")
    assert (prepared.format, prepared.oddities) == ("JPEG", (encode.NAMED,))
    picture = opened(prepared)
    assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (40, 30))
    source = Image.open(io.BytesIO(data)).tobytes()
    assert max(abs(a - b) for a, b in zip(source, picture.tobytes(), strict=True)) < 12  # quality 100


def test_cmyk_becomes_rgb_with_the_colours_of_tensorflow(helpers):
    import tensorflow as tf

    blocks = Image.new("CMYK", (64, 64), (10, 200, 30, 40))
    blocks.paste((250, 5, 120, 0), (0, 0, 32, 64))
    out = io.BytesIO()
    blocks.save(out, "JPEG", quality=100)
    prepared = prepare(out.getvalue(), "a.JPEG")
    assert (prepared.channels, prepared.colorspace, prepared.oddities) == (3, "RGB", (encode.CMYK,))
    reference = tf.io.decode_jpeg(out.getvalue(), channels=3).numpy().astype(int)
    ours = tf.io.decode_jpeg(prepared.encoded, channels=3).numpy().astype(int)
    assert abs(reference - ours).mean() < 2


@pytest.mark.parametrize("format", ["BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_other_formats_become_rgb_jpeg(helpers, format):
    prepared = prepare(helpers.image(3, format=format), f"a.{format.lower()}")
    assert (opened(prepared).format, opened(prepared).mode, prepared.oddities[0]) == ("JPEG", "RGB", encode.OTHER)


def test_image_too_long_for_a_jpeg_is_corrupt():
    out = io.BytesIO()
    Image.new("RGB", (70_000, 2)).save(out, "PNG")
    with pytest.raises(CorruptImage, match="cannot be stored as a JPEG"):
        prepare(out.getvalue(), "a.jpg")


@pytest.mark.parametrize("size", [100, 70_000])
def test_converted_image_loses_its_comment(size):
    out = io.BytesIO()
    Image.new("RGB", (40, 30)).save(out, "GIF", comment=b"secret" * (size // 6))
    assert b"secret" not in prepare(out.getvalue(), "a.gif").encoded


@pytest.mark.parametrize("format, name", [("PNG", "a.png"), ("PNG", "a.jpg"), ("TIFF", "a.tif"), ("PPM", "a.pgm")])
@pytest.mark.parametrize("shorter", [None, 20])
def test_16_bit_grey_is_stored_with_16_bits(format, name, shorter):
    """A 12-bit X-ray would be black in 8 bits."""
    ramp = np.linspace(0, 4095, 40 * 30, dtype="uint16").reshape(30, 40)
    out = io.BytesIO()
    Image.fromarray(ramp).save(out, format)
    prepared = prepare(out.getvalue(), name, shorter, 95 if shorter else None)
    assert (prepared.format, prepared.channels, prepared.colorspace) == ("PNG", 1, "Grayscale")
    pixels = np.asarray(opened(prepared))
    assert pixels.dtype == np.uint16 and encode.GREY in prepared.oddities
    assert (encode.GREY16 in prepared.oddities) == (name != "a.png")
    if shorter:
        exact = np.asarray(Image.fromarray(ramp.astype("float32")).resize((27, 20), Image.Resampling.BICUBIC))
        assert np.abs(pixels - exact.clip(0, 65535)).max() <= 1  # rounding
    else:
        np.testing.assert_array_equal(pixels, ramp)


def test_exif_orientation_is_applied_and_counted(helpers):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = helpers.image(4, size=(400, 300), exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    prepared = prepare(data, "a.jpg")
    assert (prepared.width, prepared.height, prepared.oddities) == (300, 400, (encode.TURNED,))
    assert encode.TURNED == "exif_orientation_applied" and not opened(prepared).getexif()
    assert np.abs(np.asarray(opened(prepared), int) - np.asarray(upright, int)).max() < 8  # quality 100
    small = prepare(data, "a.jpg", 64, 90)
    assert (small.width, small.height, set(small.oddities)) == (64, 85, {encode.TURNED, encode.RESIZED})
    assert not opened(small).getexif()
    exif[0x0112] = 1
    data = helpers.image(4, exif=exif)
    prepared = prepare(data, "a.jpg")
    assert (prepared.encoded, prepared.oddities) == (data, ())


def test_transparent_png_is_stored_on_white(helpers):
    data = helpers.image(4, mode="RGBA", format="PNG")
    prepared = prepare(data, "a.png")
    picture = Image.open(io.BytesIO(data))
    expected = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    assert (prepared.format, prepared.channels, prepared.oddities) == ("PNG", 3, (encode.TRANSPARENT,))
    np.testing.assert_array_equal(opened(prepared), expected)
    prepared = prepare(data, "a.jpg")
    assert (prepared.format, prepared.oddities) == ("JPEG", (encode.TRANSPARENT, encode.NAMED))
    assert np.abs(np.asarray(opened(prepared), int) - np.asarray(expected, int)).max() < 12


def test_settings_of_a_build_name_the_rules_of_reading():
    assert encode.encoder().endswith("reading rules 2")  # so that a build of other rules is not continued


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_resizing_reduces_the_shorter_side_and_never_enlarges(helpers, mode):
    tall = prepare(helpers.image(5, size=(300, 1001), mode=mode), "a.JPEG", 128, 90)
    assert (tall.width, tall.height, opened(tall).mode) == (128, 427, mode)
    assert opened(tall).size == (128, 427)
    small = helpers.image(6, size=(128, 500), mode=mode)
    assert prepare(small, "a.JPEG", 128, 90).encoded == small


@pytest.mark.parametrize("keep", [0, 10, 200, 0.5, -2, -1])
@pytest.mark.parametrize("format, name", [("JPEG", "a.JPEG"), ("PNG", "a.png")])
def test_truncated_files_are_corrupt(helpers, keep, format, name):
    data = helpers.image(7, format=format)
    cut = data[: int(keep * len(data)) if isinstance(keep, float) else keep]
    with pytest.raises(CorruptImage):
        prepare(cut, name)


def test_jpeg_with_bytes_behind_its_end_is_whole(helpers):
    data = helpers.image(8) + b"\0\0 trailing"
    assert prepare(data, "a.JPEG").encoded == data


@pytest.mark.parametrize("data", [b"", b"<html>", bytes(1000), b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\x00\x10JFIF"])
def test_other_files_are_corrupt(data):
    with pytest.raises(CorruptImage):
        prepare(data, "a.JPEG")


def test_checksums_find_a_damaged_png(helpers):
    data = bytearray(helpers.image(9, format="PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(CorruptImage, match="damaged PNG"):
        prepare(bytes(data), "a.png")


def bomb_png(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bomb_jpeg(helpers, width, height):
    data = helpers.image(10)
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.parametrize("width, height", [(9460, 9460), (30000, 30000), (65000, 65000)])
def test_decompression_bombs_are_refused_by_their_header(helpers, monkeypatch, width, height):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    for data in (bomb_png(width, height), bomb_jpeg(helpers, width, height)):
        with pytest.raises(CorruptImage, match=r"header declares .* pixels.*89,478,485"):
            prepare(data, "a.JPEG", 256, 90)
        with pytest.raises(CorruptImage, match="89,478,485"):
            encode.check_decodes(data)
