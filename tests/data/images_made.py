"""Image files of every kind that the tests need, as bytes, and folders of them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def pixels(height=40, width=60, seed=0):
    """uint8 (height, width, 3), smooth so that JPEG hardly changes it."""
    y, x = np.mgrid[:height, :width]
    wave = np.random.default_rng(seed).uniform(0.5, 2, (3, 2))
    waves = [np.sin(fy * y / max(height, 2) * 6 + fx * x / max(width, 2) * 6) for fy, fx in wave]
    return (127.5 + 100 * np.stack(waves, -1)).astype("uint8")


def encoded(array, kind, **options):
    buffer = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(**options):
    return encoded(pixels(), "JPEG", **{"quality": 95, **options})


def cmyk_jpeg():
    return encoded(Image.fromarray(pixels()).convert("CMYK"), "JPEG", quality=95)


def png16():
    """A grey 16-bit PNG, and its pixels."""
    array = (pixels()[..., 0].astype("uint16") * 257) ^ 0x55
    return encoded(array, "PNG"), array


def animated_gif(frames=3, size=(60, 40)):
    images = [Image.fromarray(pixels(size[1], size[0], seed)).quantize() for seed in range(frames)]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:])
    return buffer.getvalue()


def png_bomb(side=60_000):
    """A PNG of a few hundred bytes whose header declares `side` x `side` pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**5))) + chunk(b"IEND", b"")


def jpeg_bomb(side=60_000):
    """A JPEG whose header declares `side` x `side` pixels."""
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0") + 5
    data[frame : frame + 4] = struct.pack(">HH", side, side)
    return bytes(data)


def gif_bomb(side=60_000):
    """A GIF whose header declares `side` x `side` pixels."""
    data = bytearray(animated_gif(1))
    data[6:10] = struct.pack("<HH", side, side)
    return bytes(data)


def gif_of_many_frames(frames=100, side=1000):
    """A small GIF whose frames together have more pixels than the limit."""
    data = encoded(Image.new("P", (side, side)), "GIF")
    start = data.index(b"\x2c" + bytes(4) + struct.pack("<HH", side, side))
    return data[:start] + data[start:-1] * frames + b";"


def bmp_bomb(side=60_000):
    """A BMP whose header declares `side` x `side` pixels."""
    data = bytearray(encoded(pixels(), "BMP"))
    data[18:26] = struct.pack("<ii", side, side)
    return bytes(data)


def webp_bomb(side=16_383):
    """A lossy WebP whose header declares `side` x `side` pixels, the most there can be."""
    data = bytearray(encoded(pixels(), "WEBP"))
    data[26:30] = struct.pack("<HH", side, side)
    return bytes(data)


def lossless_webp_bomb(side=16_384):
    """A lossless WebP whose header declares `side` x `side` pixels, the most there can be."""
    data = bytearray(encoded(pixels(), "WEBP", lossless=True))
    data[21:25] = struct.pack("<I", (side - 1) | (side - 1) << 14)
    return bytes(data)


def extended_webp_bomb(side=60_000):
    """An animated WebP whose canvas is `side` x `side` pixels."""
    data = bytearray(encoded(pixels(), "WEBP", save_all=True, append_images=[Image.fromarray(pixels(seed=1))]))
    data[24:30] = (side - 1).to_bytes(3, "little") * 2
    return bytes(data)


def tiff_bomb(side=60_000):
    """A TIFF whose header declares `side` x `side` pixels."""
    return encoded(pixels(), "TIFF", compression="tiff_lzw", tiffinfo={}).replace(
        struct.pack("<HHIHH", 256, 3, 1, 60, 0), struct.pack("<HHII", 256, 4, 1, side)
    ).replace(struct.pack("<HHIHH", 257, 3, 1, 40, 0), struct.pack("<HHII", 257, 4, 1, side))


def tile_bomb(side=30_000):
    """A TIFF of 16 x 16 pixels with one tile of `side` x `side` pixels."""
    tile = zlib.compress(bytes(1000))
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side), (324, 8 + 2 + 12 * 10 + 4),
            (325, len(tile))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + tile


HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 5


CORRUPT = {
    "truncated.jpg": lambda: jpeg()[:-600],
    "empty.png": lambda: b"",
    "page.jpg": lambda: HTML,
    "bomb.png": png_bomb,
}


def photos(folder):
    """A train and a val folder of two classes, 12 good images in each split."""
    for split in ("train", "val"):
        for number in range(12):
            place = folder / split / f"class{number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"good{number:02d}.jpg").write_bytes(encoded(pixels(seed=number), "JPEG"))
    return folder


def add_corrupt(folder):
    """Add one image of every kind of `CORRUPT` to a folder."""
    for name, content in CORRUPT.items():
        (folder / name).write_bytes(content())


def photos_with_two_bad(folder):
    """Two classes of 10 training and 4 validation images each, and one corrupt image in each split."""
    for split, count in (("train", 10), ("val", 4)):
        for number in range(2 * count):
            place = folder / split / f"class{number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.jpg").write_bytes(encoded(pixels(seed=number), "JPEG"))
    (folder / "train" / "class1" / "page.jpg").write_bytes(HTML)
    (folder / "val" / "class0" / "cut.jpg").write_bytes(jpeg()[:-600])
    return folder
