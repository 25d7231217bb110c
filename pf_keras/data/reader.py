"""Reads image files of every kind into RGB pixels, by their content, with Pillow.

It decides what an image looks like: upright, transparency on a background, 16 bits scaled to 8. `decode.py` reads JPEG and PNG
faster, inside tf.data, to the same pixels.
"""

import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, PngImagePlugin

from pf_keras.data.formats import EXIF_ENTRIES, FLIPPED, HEAD, MAX_PIXELS, MIRRORED, REDUCE_ABOVE, TURNED

if TYPE_CHECKING:
    from pf_keras.config import DataConfig

RULES = 2  # the version of the rules by which pixels are read. 1 ignored orientation and transparency
PLUGINS = {
    "jpeg": "JPEG",
    "png": "PNG",
    "gif": "GIF",
    "bmp": "BMP",
    "webp": "WEBP",
    "tiff": "TIFF",
    "ppm": "PPM",
    "heic": "HEIF",
    "avif": "AVIF",
}
READS = tuple(PLUGINS)
NAMES = "JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, HEIC and AVIF"
RANGE16 = (0, 65535)

_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"version https://git-lfs", "a git-lfs pointer"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\x01\0", "an icon"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
)
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # the sizes that a BMP's second header can have
_PNG_END = b"IEND\xaeB`\x82"
_TILE_WIDTH, _TILE_HEIGHT = 322, 323  # tags of a TIFF
_ORIENTATION, _LONG = 0x0112, 4  # an EXIF tag, and the type of a number of 4 bytes

warnings.filterwarnings("ignore", module="PIL.")  # on damaged metadata, in the middle of a training's output
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # a PNG with one long text is not damaged


class CorruptImage(ValueError):
    """A file that is damaged, too large, or not an image. The message says which."""


class TooManyPixels(CorruptImage):
    """An image with more pixels than `ReadOptions.max_pixels`."""


@dataclass(frozen=True)
class ReadOptions:
    """How pixels are read.

    Args:
        exif: whether the EXIF orientation of JPEG, PNG, WebP and AVIF is applied. TIFF and HEIC are always upright.
        background: what is behind transparent pixels: `white`, `black`, or `drop` to show their hidden colours, as version 0.1
            did.
        range16: the values of 16-bit grey images that become black and white.
        max_pixels: an image whose header declares more is refused before memory is taken for it.
    """

    exif: bool = True
    background: str = "white"
    range16: tuple[int, int] = RANGE16
    max_pixels: int = MAX_PIXELS

    @classmethod
    def from_config(cls, config: "DataConfig") -> "ReadOptions":
        """The options of a config.

        Raises:
            ValueError: `data.range16` is `data`, and was not replaced by the range of the data (`range16.found_range`).
        """
        if config.range16 == "data":
            raise ValueError("data.range16 is still 'data', not a range.")
        range16 = RANGE16 if config.range16 == "type" else tuple(int(value) for value in config.range16.split("-"))
        return cls(config.exif, config.background, range16, config.max_pixels)


DEFAULTS = ReadOptions()


@dataclass(frozen=True)
class Header:
    """What an image file says about itself.

    Attributes:
        format: one of `READS`.
        width: of the upright image, in pixels.
        height: of the upright image, in pixels.
        mode: of Pillow, such as `RGB` or `I;16`.
        orientation: 1 to 8, of EXIF; 1 is upright.
        alpha: whether it may have transparent pixels.
        bits: of a channel, 1 to 32.
        frames: pictures in the file; the first is read.
    """

    format: str
    width: int
    height: int
    mode: str
    orientation: int
    alpha: bool
    bits: int
    frames: int


def identify(data: bytes) -> str:
    """What a file is, by its content: one of `READS`, or words for a message, such as "an HTML page" or "unknown"."""
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if not data:
        return "an empty file"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return "ppm"
    if data[4:8] == b"ftyp":
        if data[8:11] == b"crx":
            return "a raw file of a camera"
        brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
        return "avif" if b"avi" in brands else "heic" if any(b in brands for b in (b"hei", b"hev", b"mif1")) else "a video"
    text = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if b"<svg" in text:
        return "an SVG drawing"
    if text.startswith(b"<?xml"):
        return "an XML file"
    if text.startswith((b"{", b"[")):
        return "a JSON file"
    if not any(data[: 1 << 16]):
        return "a file of zeros"
    return "unknown"


def describe(data: bytes) -> Header:
    """What an image file says about itself, without decoding its pixels. Raises CorruptImage."""
    kind, image = open_image(data, None)
    orientation = orientation_of(kind, data, image)
    width, height = image.size
    if orientation in TURNED and kind != "tiff":
        width, height = height, width
    frames = 1
    with contextlib.suppress(Exception):  # Pillow raises many kinds where a later picture is damaged
        frames = 1 if kind == "jpeg" else getattr(image, "n_frames", 1)
    bits = _bits(kind, data, image)
    return Header(kind, width, height, image.mode, orientation, image.has_transparency_data, bits, frames)


def decode(data: bytes, options: ReadOptions = DEFAULTS, shorter: int | None = None) -> np.ndarray:
    """The pixels of an image file. Of several pictures in the file, the first.

    Args:
        data: the bytes of the file.
        options: how pixels are read.
        shorter: a JPEG above `REDUCE_ABOVE` pixels may be reduced while it is decoded, to no less than this shorter side.

    Returns:
        uint8 (H, W, 3).

    Raises:
        CorruptImage: the file is damaged, too large, or not an image that can be read.
    """
    kind, image = open_image(data, options.max_pixels)
    orientation = orientation_of(kind, data, image) if options.exif else 1
    bits = _bits(kind, data, image)
    if kind == "jpeg" and shorter and image.width * image.height > REDUCE_ABOVE:
        scale = max(1, min(image.size) // shorter)
        image.draft(None, (image.width // scale, image.height // scale))  # by a half, a quarter or an eighth
    with _decoding():
        image.load()
        pixels = np.asarray(_rgb(kind, image, bits, options))
    return _upright(pixels, kind, orientation)


def decode_grey16(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray | None:
    """The values of a 16-bit grey image without transparency, upright: uint16 (H, W), 0 for black. None for another image.

    An image of fewer bits, such as a 12-bit TIFF, is scaled to 16.

    Raises:
        CorruptImage: the file is damaged, too large, or not an image that can be read.
    """
    kind, image = open_image(data, max_pixels)
    if not _is_grey16(kind, image) or image.has_transparency_data:
        return None
    orientation = orientation_of(kind, data, image)
    with _decoding():
        values, highest = np.asarray(image).astype(np.uint32), 2 ** _bits(kind, data, image) - 1
        values = (values * 65535 // highest).astype(np.uint16)
        return _upright(65535 - values if _white_is_zero(kind, image) else values, kind, orientation)


def open_image(data: bytes, max_pixels: int | None = MAX_PIXELS) -> tuple[str, Image.Image]:
    """The kind of an image file and its first picture, with the header read and no pixel decoded. Raises CorruptImage."""
    kind = identify(data)
    if kind == "an empty file":
        raise CorruptImage(kind)
    if kind == "a git-lfs pointer":
        raise CorruptImage("it is a git-lfs pointer, not an image; run `git lfs pull`")
    if kind not in READS:
        what = "not a readable image" if kind == "unknown" else f"it is {kind}, not an image"
        raise CorruptImage(f"{what} of the formats {NAMES}")
    if kind == "webp":  # Pillow takes memory for its canvas when it opens it
        _check_pixels(*_webp_size(data), max_pixels)
    try:
        image = _plugin(kind)(io.BytesIO(data), "")
    except CorruptImage:
        raise
    except Image.DecompressionBombError:
        raise _beyond_pillow() from None
    except Exception as error:  # Pillow raises many kinds on damaged headers
        if "unknown pixel mode" in str(error):
            raise CorruptImage(f"this kind of {PLUGINS[kind]} is not supported; convert it, for example to PNG") from None
        raise CorruptImage(f"damaged header ({words_of(error)})") from None
    _check_pixels(*image.size, max_pixels)
    if kind == "tiff":  # a small image can have a tile of any size
        _check_pixels(*(image.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_HEIGHT)), max_pixels)
    return kind, image


def check(data: bytes, options: ReadOptions = DEFAULTS) -> None:
    """Check an image file without decoding it: its header, and that a JPEG or PNG is not cut short.

    Damage in the middle of an image is not found.

    Raises:
        CorruptImage: the file is cut short, too large, or not an image that can be read.
    """
    kind, image = open_image(data, options.max_pixels)
    if kind == "png":
        try:
            image.verify()
        except Exception as error:  # Pillow raises many kinds
            raise CorruptImage(f"damaged PNG ({words_of(error)})") from None
        if _PNG_END not in data:  # Pillow does not check the last chunk
            raise CorruptImage("damaged PNG (cut short)")
    elif kind == "jpeg" and not data.endswith(b"\xff\xd9"):
        decode(data, options)  # a whole JPEG may have other bytes behind its end mark


def grey16_range(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int] | None:
    """The lowest and the highest value of a 16-bit grey image. None for another image, and for one that cannot be read."""
    try:
        kind, image = open_image(data, max_pixels)
        if not _is_grey16(kind, image):
            return None
        with _decoding():
            values = np.asarray(image)
    except CorruptImage:
        return None
    return int(values.min()), int(values.max())


def to_8_bits(values: np.ndarray, range16: tuple[int, int]) -> np.ndarray:
    """Scale 16-bit values by a range. With `RANGE16` this keeps the high 8 bits. uint16 -> uint8, of the same shape."""
    low, high = range16
    return ((np.clip(values, low, high).astype(np.int64) - low) * 256 // (high - low + 1)).astype(np.uint8)


def orientation_of(kind: str, data: bytes, image: Image.Image) -> int:
    """The EXIF orientation of an image file, 1 to 8."""
    if kind == "jpeg":
        return orientation(data[:HEAD].partition(b"Exif\0\0")[2])
    if kind == "png":
        return orientation(data.partition(b"eXIf")[2])
    if kind == "tiff":
        found = image.tag_v2.get(_ORIENTATION, 1)
        return found if found in range(1, 9) else 1
    exif = image.info.get("exif")
    return orientation(exif.removeprefix(b"Exif\0\0")) if isinstance(exif, bytes) else 1


def orientation(tiff: bytes) -> int:
    """The orientation in EXIF data, which begin with II or MM: 1 to 8, and 1 where they are damaged or have none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if not order:
        return 1
    padded = tiff + bytes(8 + 2 + 12 * EXIF_ENTRIES)  # damaged data may point behind their end
    start = min(struct.unpack_from(order + "I", padded, 4)[0], len(tiff))
    (count,) = struct.unpack_from(order + "H", padded, start)
    for place in range(start + 2, start + 2 + 12 * min(count, EXIF_ENTRIES), 12):
        tag, kind, _, value = struct.unpack_from(order + "HHI4s", padded, place)
        if tag == _ORIENTATION:
            (found,) = struct.unpack_from(order + ("I" if kind == _LONG else "H"), value)
            return found if 1 <= found <= 8 else 1
    return 1


def _plugin(kind: str):
    """Pillow's reader of a kind. It is called itself, because `Image.open` has a limit of pixels for the whole process."""
    name = PLUGINS[kind]
    if name not in Image.OPEN:
        Image.init()
    if kind == "heic" and name not in Image.OPEN:
        try:
            import pillow_heif
        except ImportError:
            raise CorruptImage('it is HEIC, which needs pillow-heif: pip install "pf-keras[heif]"') from None
        pillow_heif.register_heif_opener()
    if name not in Image.OPEN:
        raise CorruptImage(f'it is {name}, which this Pillow cannot read: pip install -U "pillow>=11.3"')
    return Image.OPEN[name][0]


def _check_pixels(width: int, height: int, max_pixels: int | None) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise TooManyPixels(f"its header declares {width} x {height} pixels, more than the {max_pixels:,} allowed")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height in the header of a WebP; (0, 0) for a damaged one."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        sizes = int.from_bytes(data[21:25], "little")
        return 1 + sizes % 2**14, 1 + (sizes >> 14) % 2**14
    return int.from_bytes(data[26:28], "little") % 2**14, int.from_bytes(data[28:30], "little") % 2**14


def _bits(kind: str, data: bytes, image: Image.Image) -> int:
    """Bits of a channel."""
    if kind == "png":
        return data[24]
    if kind == "tiff":
        bits = image.tag_v2.get(258, (1,))
        return max(bits) if isinstance(bits, tuple) else bits
    if kind == "ppm" and image.mode == "I":
        return 16
    return {"1": 1, "I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)


def _rgb(kind: str, image: Image.Image, bits: int, options: ReadOptions) -> Image.Image:
    """The image with 8 bits a channel and without transparency."""
    transparent = image.info.get("transparency")
    hidden = None  # pixels that a 16-bit grey image declares transparent
    if _is_grey16(kind, image):
        values = np.asarray(image)
        hidden = values == transparent if isinstance(transparent, int) else None
        grey = to_8_bits(values, (0, 2**bits - 1) if options.range16 == RANGE16 and bits < 16 else options.range16)
        image = Image.fromarray(255 - grey if _white_is_zero(kind, image) else grey)
    elif image.mode in ("I", "F"):
        numbers = "floating-point numbers" if image.mode == "F" else "signed or 32-bit numbers"
        raise CorruptImage(f"its pixels are {numbers}, whose black and white are not known; convert it to 8 or 16 bits")
    elif kind == "png" and bits != 8 and image.mode in ("L", "RGB") and transparent is not None:
        # Pillow scales these pixels to 8 bits, but not the colour that is transparent.
        scaled = [value >> 8 if bits == 16 else value * 255 // (2**bits - 1) for value in np.atleast_1d(transparent).tolist()]
        image.info["transparency"] = scaled[0] if len(scaled) == 1 else tuple(scaled)
    if image.mode in ("RGBa", "La"):  # colours that are multiplied by their opacity
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    background = options.background
    if background == "drop":
        if kind != "gif":
            return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
        background = "black"  # as TensorFlow reads GIFs
    if hidden is not None:
        image = image.convert("RGBA")
        image.putalpha(Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8)))
    if not image.has_transparency_data:
        return image.convert("RGB")
    behind = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")


def _is_grey16(kind: str, image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and kind == "ppm")


def _white_is_zero(kind: str, image: Image.Image) -> bool:
    """Whether 0 is white in an image, which Pillow ignores where it has 16 bits."""
    return kind == "tiff" and image.tag_v2.get(262) == 0


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """Turn what Pillow raises on damaged data into CorruptImage."""
    try:
        yield
    except CorruptImage:
        raise
    except Image.DecompressionBombError:
        raise _beyond_pillow() from None
    except MemoryError:
        raise CorruptImage("there is not enough memory to decode it") from None
    except Exception as error:  # Pillow raises many kinds
        raise CorruptImage(f"damaged image data ({words_of(error)})") from None


def _beyond_pillow() -> TooManyPixels:
    """Some of Pillow's plugins have a limit that cannot be lifted for one image alone."""
    limit = 2 * Image.MAX_IMAGE_PIXELS
    return TooManyPixels(f"its header declares more than the {limit:,} pixels that Pillow allows")


def _upright(pixels: np.ndarray, kind: str, orientation: int) -> np.ndarray:
    """Turn pixels (H, W, ...) upright. Pillow has done so with a TIFF."""
    if kind == "tiff":
        return pixels
    if orientation in TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in MIRRORED:
        pixels = pixels[:, ::-1]
    if orientation in FLIPPED:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def words_of(error: Exception) -> str:
    """An error of Pillow, in one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
