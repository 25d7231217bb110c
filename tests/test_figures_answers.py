"""Sheets, heat maps and maps: names of any kind stay text, and heat is where it should be."""

import numpy as np
import pytest
from PIL import Image

from pf_keras.figures_answers import BLANK, Cell, Row, draw_map, draw_sheet, framed, heat_map, in_rows, shorten, wrap

HOSTILE = ["<script>alert(1)</script>.png", "$\\frac{1}{0}$ and $", "\x1b[31mred\n\r\t", "猫" * 40, "\\", "a" * 300, "", "🐈‍⬛"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("width", [6, 21])
def test_shortened_text_fits_and_can_be_printed(text, width):
    found = shorten(text, width)
    assert len(found) <= width and found.isprintable()
    assert all(len(line) <= width and line.isprintable() for line in wrap(text, width)) and len(wrap(text, width)) <= 3


def test_short_text_stays_and_a_long_one_keeps_both_ends():
    assert shorten("IMG_0001.jpg", 21) == "IMG_0001.jpg"
    assert shorten("holiday-in-the-mountains-0001.jpg", 21) == "holiday-in…s-0001.jpg"
    assert wrap("English springer spaniel", 17) == ["English springer", "spaniel"]


def test_sheet_with_names_of_any_kind_is_drawn(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), "uint8")
    rows = [Row([Cell(picture, [name, name], good), None, Cell(BLANK)], name, "2 images")
            for name, good in zip(HOSTILE, [True, False, None] * 3, strict=False)]  # fmt: skip
    draw_sheet(HOSTILE[1], rows, tmp_path / "sheet.png", 2, ["first", HOSTILE[1]])
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.height > 8 * 150
    assert [len(row.cells) for row in in_rows(list(range(7)), 3)] == [3, 3, 1]


@pytest.mark.parametrize("count", [2, 30])
def test_map_with_names_of_any_kind_is_drawn(tmp_path, count):
    rng = np.random.default_rng(0)
    names = [f"{number} {HOSTILE[number % len(HOSTILE)]}" for number in range(count)]
    groups = rng.integers(-1, count, 90)
    maps = {name: rng.normal(size=(90, 2)) for name in ("PCA", "t-SNE")}
    draw_map("90 images", maps, groups, names, tmp_path / "map.png")
    assert Image.open(tmp_path / "map.png").width > 800


def test_heat_is_brightest_at_its_patch_and_hidden_patches_are_grey():
    picture, heat = np.full((40, 40, 3), 60, "uint8"), np.full((4, 4), 0.01)
    heat[1, 2] = 0.9
    drawn = heat_map(picture, heat)
    assert drawn.shape == picture.shape and drawn.dtype == np.uint8
    row, column = np.unravel_index(drawn.sum(-1).argmax(), (40, 40))
    assert row // 10 == 1 and column // 10 == 2
    heat[3, 0] = np.nan
    assert (heat_map(picture, heat)[30:, :10] == 127).all() and not (heat_map(picture, heat)[:30, 30:] == 127).all()
    assert heat_map(picture, np.zeros((4, 4))).shape == picture.shape


def test_heat_has_a_fixed_scale():
    """Even attention is dark, and attention to one patch is bright wherever it is the same number of times the mean."""
    black, even = np.zeros((40, 40, 3), "uint8"), np.full((4, 4), 1 / 16)
    low = heat_map(black, even)
    assert low.max() < 90
    one = np.full((4, 4), 0.5 / 15)
    one[1, 2] = 0.5
    assert heat_map(black, one).max() > 150
    np.testing.assert_array_equal(heat_map(black, 9 * even), low)


def test_frame_leaves_the_inside_of_its_patch():
    picture = np.full((32, 32, 3), 7, "uint8")
    found = framed(picture, 4, 6)  # row 1, column 2
    changed = (found != picture).any(-1)
    assert changed[8:16, 16:24].sum() == changed.sum() == 64 - 36 and (picture == 7).all()
