"""The range of the 16-bit grey images of a source, for `data.range16=data`."""

import sys
from dataclasses import replace

from pf_keras.config import DataConfig
from pf_keras.data.each_image import each_image
from pf_keras.data.reader import grey16_range
from pf_keras.data.records import Split
from pf_keras.processes import progress

DELAY = 10  # seconds before progress is shown


def with_range(config: DataConfig, split: Split) -> DataConfig:
    """The config with the range of the data in place of `data.range16=data`. Reads every image of the split once.

    A config with another `data.range16` is returned as it is. Without 16-bit grey images the range of the type is used.

    Args:
        config: of the data.
        split: the training images.
    """
    if config.range16 != "data":
        return config
    with progress(split.size, "img", "range", delay=DELAY) as bar:

        def range_of(encoded, index, label, reason):
            bar.update(1)
            return None if reason else grey16_range(encoded, config.max_pixels)

        found = [one for one in each_image(split, range_of) if one]
    low, high = min((one[0] for one in found), default=0), max((one[1] for one in found), default=0)
    if low == high:
        reason = f"all pixels of the {len(found)} 16-bit grey images are {low}" if found else "there are no 16-bit grey images"
        print(f"data.range16: {reason}, so the range is that of the type", file=sys.stderr)
        return replace(config, range16="type")
    print(f"data.range16: {low}-{high}, found in {len(found)} images", file=sys.stderr)
    return replace(config, range16=f"{low}-{high}")
