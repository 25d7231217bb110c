"""Which image files are read, and how large they may be."""

MAX_PIXELS = 89_478_485  # 256 MiB as RGB. Pillow warns of larger images; the largest of ImageNet has 61 million
MAX_BYTES = 256 << 20  # of an encoded image
REDUCE_ABOVE = 4_000_000  # pixels of a JPEG above which it is reduced while it is decoded
HEAD = 1 << 18  # bytes at the beginning of a JPEG in which its EXIF data are looked for
EXIF_ENTRIES = 64  # of the EXIF data that are looked at; cameras write the orientation among the first ten

# EXIF orientations by what turns the stored picture upright: first rows and columns change places, then it is flipped.
TURNED = (5, 6, 7, 8)
MIRRORED = (2, 3, 6, 7)  # left and right
FLIPPED = (3, 4, 7, 8)  # top and bottom
