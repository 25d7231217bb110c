"""What a record stores of an image file: its own bytes, or pixels that every program shows right.

JPEG files (RGB or grey) and PNG files whose names end in .png keep their bytes. CMYK JPEGs, PNGs with other names, and all
other formats become RGB JPEGs, but 16-bit grey images become PNGs of 16 bits. An image with an EXIF orientation is stored
upright, and a transparent one on white.
"""

import io
from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image, features

from pf_keras.data import reader
from pf_keras.data.formats import MAX_PIXELS
from pf_keras.data.reader import CorruptImage

CONVERTED_QUALITY = 100  # of the JPEG that another format becomes, as in the public converters
_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I")

CMYK, NAMED, OTHER = "cmyk_to_rgb_jpeg", "png_named_otherwise_to_rgb_jpeg", "other_format_to_rgb_jpeg"
GREY16 = "other_format_to_16_bit_png"
GREY, TURNED, TRANSPARENT, RESIZED = "grey", "exif_orientation_applied", "transparency_on_white", "resized"
ODDITIES = (CMYK, NAMED, OTHER, GREY16, GREY, TURNED, TRANSPARENT, RESIZED)


@dataclass(frozen=True)
class Prepared:
    """What a record stores of an image.

    Attributes:
        encoded: the bytes of the image file.
        height: in pixels.
        width: in pixels.
        channels: 1 to 4.
        colorspace: "RGB" or "Grayscale".
        format: "JPEG" or "PNG".
        oddities: those of `ODDITIES` that apply.
    """

    encoded: bytes
    height: int
    width: int
    channels: int
    colorspace: str
    format: str
    oddities: tuple[str, ...]


def prepare(
    data: bytes, name: str, resize_shorter: int | None = None, quality: int | None = None, max_pixels: int = MAX_PIXELS
) -> Prepared:
    """Check an image file, and convert or resize it if necessary.

    Args:
        data: the bytes of the file.
        name: the name of the file.
        resize_shorter: reduces an image to this shorter side in pixels. Smaller images keep their bytes.
        quality: JPEG quality of a resized image.
        max_pixels: a larger image is refused.

    Raises:
        CorruptImage: the file is damaged, too large, or not an image.
    """
    options = reader.ReadOptions(max_pixels=max_pixels)
    kind, image = reader.open_image(data, max_pixels)
    jpeg, png = kind == "jpeg", kind == "png"
    grey = image.mode in _GREY_MODES
    oddities = [GREY] if grey else []
    if kind != "tiff" and reader.orientation_of(kind, data, image) != 1:
        oddities.append(TURNED)
    if image.has_transparency_data:
        oddities.append(TRANSPARENT)
    wrong = TURNED in oddities or TRANSPARENT in oddities
    odd_format = ""
    if jpeg and image.mode == "CMYK":
        odd_format = CMYK
    elif png and not name.lower().endswith(".png"):
        odd_format = NAMED
    elif not jpeg and not png:
        odd_format = OTHER
    resize = resize_shorter is not None and min(image.size) > resize_shorter
    if resize:
        oddities.append(RESIZED)
    values = reader.decode_grey16(data, max_pixels) if odd_format or resize or wrong else None
    if odd_format:
        oddities.append(odd_format if values is None else GREY16)
    if odd_format or resize or wrong:
        pixels = Image.fromarray(reader.decode(data, options) if values is None else values)
        if grey and not odd_format and values is None:
            pixels = pixels.convert("L")
        format = "PNG" if values is not None or (png and not odd_format and not resize) else "JPEG"
        image, data = _encoded(pixels, format, resize_shorter if resize else None, quality)
    else:
        reader.check(data, options)
        format = "JPEG" if jpeg else "PNG"
    channels = 3 if image.mode == "P" else len(image.getbands())
    colorspace = "Grayscale" if image.mode in _GREY_MODES else "RGB"
    return Prepared(data, image.height, image.width, channels, colorspace, format, tuple(oddities))


def _encoded(pixels: Image.Image, format: str, shorter: int | None, quality: int | None) -> tuple[Image.Image, bytes]:
    """The image, reduced to a `shorter` side if that is given, and its bytes without metadata."""
    options = {"quality": CONVERTED_QUALITY, "subsampling": "4:4:4"} if format == "JPEG" else {}
    if shorter:
        scale = shorter / min(pixels.size)
        size = [max(1, round(side * scale)) for side in pixels.size]
        if pixels.mode == "I;16":  # which Pillow resizes as 32-bit numbers only
            values = np.asarray(pixels.convert("I").resize(size, Image.Resampling.BICUBIC))
            pixels = Image.fromarray(np.clip(values, 0, 65535).astype(np.uint16))
        else:
            pixels = pixels.resize(size, Image.Resampling.BICUBIC)
            options = {"quality": quality}
    out = io.BytesIO()
    try:
        pixels.save(out, format, **options)
    except Exception as error:  # a JPEG cannot have more than 65,535 pixels a side, for example
        raise CorruptImage(f"cannot be stored as a {format} ({reader.words_of(error)})") from None
    return pixels, out.getvalue()


def check_decodes(data: bytes) -> None:
    """Decode every pixel of an image file.

    Raises:
        CorruptImage: that fails, or the image is too large to try.
    """
    reader.decode(data)


def encoder() -> str:
    """The versions of the libraries that write images, and of the rules of reading. Others may write other bytes."""
    return f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}, reading rules {reader.RULES}"
