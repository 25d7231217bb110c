"""What a record stores of an image file: its own bytes, or a JPEG if training could not read them.

JPEG files (RGB or grey) and PNG files whose names end in .png keep their bytes. CMYK JPEGs, PNGs with other names, BMP, GIF and
WebP become RGB JPEGs.

EXIF orientation is ignored, as by `tf.io.decode_jpeg` and so by the public converters. Images with such a tag are counted.
"""

import io
from dataclasses import dataclass

import PIL
from PIL import Image, PngImagePlugin, features

from pf_keras.data.formats import MAX_PIXELS

CONVERTED_QUALITY = 100  # of the JPEG that another format becomes, as in the public converters
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
_PNG_END = b"IEND\xaeB`\x82"
_ORIENTATION = 0x0112
_GREY_MODES = ("1", "L", "LA", "I;16", "I")

CMYK, NAMED, OTHER = "cmyk_to_rgb_jpeg", "png_named_otherwise_to_rgb_jpeg", "other_format_to_rgb_jpeg"
GREY, ROTATED, RESIZED = "grey", "exif_orientation_ignored", "resized"
ODDITIES = (CMYK, NAMED, OTHER, GREY, ROTATED, RESIZED)

PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # a PNG with one long text is not damaged
Image.MAX_IMAGE_PIXELS = None  # `_open` refuses large images; Pillow would warn first


class CorruptImage(Exception):
    """A file that is damaged, too large, or not an image. The message says which."""


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


def prepare(data: bytes, name: str, resize_shorter: int | None = None, quality: int | None = None) -> Prepared:
    """Check an image file, and convert or resize it if necessary.

    Args:
        data: the bytes of the file.
        name: the name of the file.
        resize_shorter: reduces an image to this shorter side in pixels. Smaller images keep their bytes.
        quality: JPEG quality of a resized image.

    Raises:
        CorruptImage: the file is damaged, too large, or not an image.
    """
    image = _open(data)
    jpeg = image.format in ("JPEG", "MPO")  # MPO: a JPEG with further pictures behind the first
    grey = image.mode in _GREY_MODES
    oddities = [GREY] if grey else []
    if "exif" in image.info and _rotated(image):
        oddities.append(ROTATED)
    odd_format = ""
    if image.mode == "CMYK":
        odd_format = CMYK
    elif image.format == "PNG" and not name.lower().endswith(".png"):
        odd_format = NAMED
    elif not jpeg and image.format != "PNG":
        odd_format = OTHER
    if odd_format:
        oddities.append(odd_format)
    resize = resize_shorter is not None and min(image.size) > resize_shorter
    if resize:
        oddities.append(RESIZED)
    if odd_format or resize:
        _decode(image)
        try:
            image, data = _as_jpeg(image, grey and not odd_format, resize_shorter if resize else None, quality)
        except Exception as error:  # a JPEG cannot have more than 65,535 pixels a side, for example
            raise CorruptImage(f"cannot be stored as a JPEG ({_words(error)})") from None
    else:
        _check_whole(image, data, jpeg)
    channels = 3 if image.mode == "P" else len(image.getbands())
    colorspace = "Grayscale" if image.mode in _GREY_MODES else "RGB"
    format = "PNG" if image.format == "PNG" else "JPEG"
    return Prepared(data, image.height, image.width, channels, colorspace, format, tuple(oddities))


def _as_jpeg(pixels: Image.Image, grey: bool, shorter: int | None, quality: int | None) -> tuple[Image.Image, bytes]:
    """The image, reduced to a `shorter` side if that is given, and its bytes as a JPEG without metadata."""
    if pixels.mode.startswith("I"):  # 16 bits: keep the high 8, which `convert` would clip
        pixels = pixels.point(lambda value: value / 256).convert("L")
    pixels = pixels.convert("L" if shorter and grey else "RGB")
    options = {"quality": CONVERTED_QUALITY, "subsampling": "4:4:4"}
    if shorter:
        scale = shorter / min(pixels.size)
        pixels = pixels.resize([max(1, round(side * scale)) for side in pixels.size], Image.Resampling.BICUBIC)
        options = {"quality": quality}
    pixels.info.clear()  # or a comment would be saved too
    out = io.BytesIO()
    pixels.save(out, "JPEG", **options)
    return pixels, out.getvalue()


def check_decodes(data: bytes) -> None:
    """Decode every pixel of an image file.

    Raises:
        CorruptImage: that fails, or the image is too large to try.
    """
    _decode(_open(data))


def encoder() -> str:
    """The versions of the libraries that write images. Other versions may write other bytes."""
    return f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}"


def _open(data: bytes) -> Image.Image:
    """The image with its header read and no pixel decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.UnidentifiedImageError:
        what = "not a readable image of the formats " + ", ".join(_FORMATS) if data else "an empty file"
        raise CorruptImage(what) from None
    except Exception as error:  # Pillow raises many kinds on damaged headers
        raise CorruptImage(f"damaged header ({_words(error)})") from None
    if image.width * image.height > MAX_PIXELS:
        raise CorruptImage(f"its header declares {image.width} x {image.height} pixels, more than the {MAX_PIXELS:,} allowed")
    return image


def _decode(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:  # Pillow raises many kinds on damaged data
        raise CorruptImage(f"damaged image data ({_words(error)})") from None


def _check_whole(image: Image.Image, data: bytes, jpeg: bool) -> None:
    """Find a truncated file without decoding a whole one: a JPEG has an end mark, a PNG has checksums.

    Damage inside a JPEG, which has no checksums, is left to `tfrecords.verify --decode`.
    """
    if not jpeg:
        try:
            image.verify()
        except Exception as error:
            raise CorruptImage(f"damaged PNG ({_words(error)})") from None
        if _PNG_END not in data:  # Pillow does not check the last chunk
            raise CorruptImage("damaged PNG (cut short)")
    elif not data.endswith(b"\xff\xd9"):
        _decode(image)  # a whole JPEG may have other bytes behind its end mark


def _rotated(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged EXIF says nothing about the pixels
        return False


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
