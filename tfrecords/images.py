"""One image file on its way into a record: recognised, bounded, and converted only where it must be.

JPEG files (RGB or grey) and PNG files that are named so keep their bytes. CMYK JPEGs, PNGs named otherwise than .png,
BMP, GIF and WebP become RGB JPEGs, because the pipeline's JPEG decoder does not read them all.

EXIF orientation is left as the field does it: pixels are taken as they are stored and the tag is ignored, which is what
`tf.io.decode_jpeg` and so the public converters and their readers do. Images that carry such a tag are counted.
"""

import io
import warnings
from dataclasses import dataclass

MAX_PIXELS = 89_478_485  # before decoding; 256 MiB as RGB; Pillow warns from here, ImageNet has up to 61 million
MAX_BYTES = 256 << 20  # of an image file
CONVERTED_QUALITY = 100  # of the JPEG that an odd file becomes, as in the public converters
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
_PNG_END = b"IEND\xaeB`\x82"
_ORIENTATION = 0x0112

CMYK, NAMED, OTHER = "cmyk_to_rgb_jpeg", "png_named_otherwise_to_rgb_jpeg", "other_format_to_rgb_jpeg"
GREY, ROTATED, RESIZED = "grey", "exif_orientation_ignored", "resized"
ODDITIES = (CMYK, NAMED, OTHER, GREY, ROTATED, RESIZED)


class BadImage(Exception):
    """A file that is not an image, is damaged, or is too large. Its text says which."""


@dataclass(frozen=True)
class Prepared:
    """What a record stores of an image. `oddities` are those of `ODDITIES` that apply to it."""

    encoded: bytes
    height: int
    width: int
    channels: int
    colorspace: str
    format: str
    oddities: tuple[str, ...]


def prepare(data: bytes, name: str, resize_shorter: int | None = None, quality: int | None = None) -> Prepared:
    """The image to store for the file `name` with the bytes `data`.

    With `resize_shorter` an image whose shorter side is longer than that many pixels is reduced to it and stored as a
    JPEG of `quality`; smaller ones keep their bytes. Raises BadImage.
    """
    image = _open(data)
    width, height = image.size
    oddities = []
    jpeg = image.format in ("JPEG", "MPO")  # MPO: a JPEG with further pictures behind the first
    grey = image.mode in ("1", "L", "LA", "I;16", "I")
    if grey:
        oddities.append(GREY)
    if "exif" in image.info and _rotated(image):
        oddities.append(ROTATED)
    if image.mode == "CMYK":
        oddities.append(CMYK)
    elif image.format == "PNG" and not name.lower().endswith(".png"):
        oddities.append(NAMED)
    elif not jpeg and image.format != "PNG":
        oddities.append(OTHER)
    convert = not {CMYK, NAMED, OTHER}.isdisjoint(oddities)
    resize = resize_shorter is not None and min(width, height) > resize_shorter
    if not convert and not resize:
        _check_whole(image, data, jpeg)
        channels = 3 if image.mode == "P" else len(image.getbands())
        return Prepared(
            data, height, width, channels, "Grayscale" if grey else "RGB", "JPEG" if jpeg else "PNG", tuple(oddities)
        )
    try:
        pixels, encoded = _reencoded(image, grey, convert, resize_shorter if resize else None, quality)
    except BadImage:
        raise
    except Exception as error:  # as a JPEG of more than 65,535 pixels a side
        raise BadImage(f"cannot be stored as a JPEG ({_words(error)})") from None
    oddities += [RESIZED] if resize else []
    channels = len(pixels.getbands())
    colorspace = "Grayscale" if channels == 1 else "RGB"
    return Prepared(encoded, pixels.height, pixels.width, channels, colorspace, "JPEG", tuple(oddities))


def _reencoded(image, grey: bool, convert: bool, shorter: int | None, quality: int | None):
    """The decoded image, reduced to a `shorter` side where that is asked for, and its bytes as a JPEG without metadata."""
    pixels = _decode(image)
    if pixels.mode.startswith("I"):  # 16 bits, of which `convert` would cut what is above 255
        pixels = pixels.point(lambda value: value / 256).convert("L")
    pixels = pixels.convert("L" if shorter and grey and not convert else "RGB")
    out = io.BytesIO()
    if shorter:
        scale = shorter / min(pixels.size)
        pixels = pixels.resize([max(1, round(side * scale)) for side in pixels.size], _bicubic())
    pixels.info.clear()  # a comment would be stored again
    if shorter:
        pixels.save(out, "JPEG", quality=quality)
    else:
        pixels.save(out, "JPEG", quality=CONVERTED_QUALITY, subsampling="4:4:4")
    return pixels, out.getvalue()


def check_decodes(data: bytes) -> None:
    """Decodes every pixel. Raises BadImage where that fails, or where the image is too large to try."""
    _decode(_open(data))


def encoder() -> str:
    """What writes a converted or resized image: another version may give other bytes."""
    import PIL
    from PIL import features

    return f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}"


def _open(data: bytes):
    """The image with its header read and no pixel decoded."""
    from PIL import Image, PngImagePlugin

    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # of all texts: a long one is no damage
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on large images: the bound is below
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImage(f"its header declares more pixels than the {MAX_PIXELS:,} allowed ({error})") from None
    except Image.UnidentifiedImageError:
        what = "an empty file" if not data else "not a readable image of the formats " + ", ".join(_FORMATS)
        raise BadImage(what) from None
    except Exception as error:  # Pillow's readers raise many kinds on damaged headers
        raise BadImage(f"damaged header ({_words(error)})") from None
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(f"its header declares {image.width} x {image.height} pixels, more than the {MAX_PIXELS:,} allowed")
    return image


def _decode(image):
    try:
        image.load()
    except Exception as error:  # as above, on damaged data
        raise BadImage(f"damaged image data ({_words(error)})") from None
    return image


def _check_whole(image, data: bytes, jpeg: bool) -> None:
    """Finds a truncated file without decoding a whole one: a JPEG ends with its end mark, a PNG is all checksums.

    A JPEG with something else behind its end mark is decoded, and so told from one that is cut short. Damage in the
    middle of a JPEG, which has no checksums, is left to `tfrecords.verify --decode`.
    """
    if not jpeg:
        try:
            image.verify()
        except Exception as error:
            raise BadImage(f"damaged PNG ({_words(error)})") from None
        if _PNG_END not in data:  # of its last chunk Pillow does not check the checksum
            raise BadImage("damaged PNG (cut short)")
    elif not data.endswith(b"\xff\xd9"):
        _decode(image)


def _rotated(image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged EXIF says nothing about the pixels
        return False


def _bicubic():
    from PIL import Image

    return Image.Resampling.BICUBIC


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
