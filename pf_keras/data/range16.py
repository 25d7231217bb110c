"""The range of the 16-bit grey images of a source, for `data.range16=data`."""

import sys

from pf_keras.data.each_image import each_image
from pf_keras.data.reader import grey16_range
from pf_keras.data.records import Split
from pf_keras.processes import progress

DELAY = 10  # seconds before progress is shown


def find_range16(split: Split, max_pixels: int) -> str:
    """The range of the 16-bit grey images of a split, in the form of `data.range16`. Reads every image once.

    Args:
        split: the training images.
        max_pixels: larger images are skipped, because they are refused later.

    Returns:
        Such as `0-4095`, or `type` where there are no such images, or all their values are equal.
    """
    with progress(split.size, "img", "range", delay=DELAY) as bar:

        def range_of(encoded, index, label, reason):
            bar.update(1)
            return None if reason else grey16_range(encoded, max_pixels)

        found = [one for one in each_image(split, range_of) if one]
    low, high = min((one[0] for one in found), default=0), max((one[1] for one in found), default=0)
    if low == high:
        reason = f"all pixels of the {len(found)} 16-bit grey images are {low}" if found else "there are no 16-bit grey images"
        print(f"data.range16: {reason}, so the range is that of the type", file=sys.stderr)
        return "type"
    print(f"data.range16: {low}-{high}, found in {len(found)} images", file=sys.stderr)
    return f"{low}-{high}"
