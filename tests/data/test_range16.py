"""`data.range16=data` finds the range of the 16-bit grey images that a run trains on."""

import numpy as np
import pytest
from PIL import Image

from pf_keras.config import DataConfig
from pf_keras.data.formats import MAX_PIXELS
from pf_keras.data.range16 import find_range16
from pf_keras.data.sources import open_source
from tests.data import images_made as made


def x_rays(folder, count=12, low=100, high=4000):
    """12-bit images in TIFF and PNG. Returns the lowest and the highest value."""
    folder.mkdir(parents=True)
    rng, ends = np.random.default_rng(count), []
    for number in range(count):
        values = rng.integers(low, high, (20, 30), dtype="uint16")
        Image.fromarray(values).save(folder / f"{number}.{('png', 'tif', 'pgm')[number % 3]}")
        ends += [values.min(), values.max()]
    return min(ends), max(ends)


def test_range_is_that_of_the_training_images_alone(tmp_path, capsys):
    low, high = x_rays(tmp_path / "train" / "a")
    x_rays(tmp_path / "val" / "a", low=0, high=60_000)
    (tmp_path / "train" / "a" / "colour.jpg").write_bytes(made.jpeg())
    (tmp_path / "train" / "a" / "cut.png").write_bytes(made.png16()[0][:200])
    source = open_source(DataConfig(source=f"folder:{tmp_path}"))
    assert find_range16(source.train, MAX_PIXELS) == f"{low}-{high}"
    assert "found in 12 images" in capsys.readouterr().err


@pytest.mark.parametrize("value", [None, 7])
def test_without_a_range_in_the_data_that_of_the_type_is_used(value, tmp_path, capsys):
    for number in range(4):
        pixels = made.pixels(seed=number) if value is None else np.full((20, 30), value, "uint16")
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    source = open_source(DataConfig(source=f"folder:{tmp_path}"))
    assert find_range16(source.train, MAX_PIXELS) == "type"
    said = capsys.readouterr().err
    assert ("there are no 16-bit grey images" if value is None else "grey images are 7") in said
