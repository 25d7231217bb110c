"""Which image files are read, and how large they may be."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
MAX_PIXELS = 89_478_485  # 256 MiB as RGB. Pillow warns of larger images; the largest of ImageNet has 61 million
MAX_BYTES = 256 << 20  # of an encoded image
