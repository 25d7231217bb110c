"""The sheets of `predict` and `embed` show the photographs that their captions name: each one here has a colour of its own."""

import numpy as np
import pytest
from etils import epath
from PIL import Image
from tiny import tiny_config

from pf_keras.data.sources import open_source
from pf_keras.evaluation import attention
from pf_keras.evaluation.any_images import AnyImages
from pf_keras.evaluation.predictions import Predictions, row_kind
from pf_keras.tasks import embed, predict

CORRUPT = (0, 3, 4)  # numbers of images without an answer, so that an image's number is not its position among the answers
INDEX = np.array([number for number in range(16) if number not in CORRUPT])


@pytest.fixture
def images(tmp_path):
    for number in range(16):
        name = tmp_path / "album" / f"{number:02d}.png"
        name.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (10 * number, 100, 200 - 10 * number)).save(name)
        if number in CORRUPT:
            name.write_bytes(b"no image")
    config = tiny_config({"data.source": f"folder:{tmp_path / 'album'}"})
    return AnyImages(open_source(config.data, whole=True).validation, (), config, config.data.source)


def number_of(picture):
    """Which image a picture shows."""
    red, green, blue = picture.reshape(-1, 3).mean(axis=0)
    assert (red + blue, green) == (200, 100)
    return round(red / 10)


def paths_of(images):
    return [images.path_of(index) for index in INDEX.tolist()]


@pytest.fixture
def sheets(monkeypatch):
    """What is drawn, as the rows of cells of each file."""
    drawn = {}

    def draw_sheet(title, rows, path, *rest, **options):
        drawn[path.name] = rows

    for module in (predict, embed):
        monkeypatch.setattr(module, "draw_sheet", draw_sheet)
    return drawn


def test_predictions_are_shown_with_their_photographs(images, sheets, tmp_path):
    confidence = np.random.default_rng(0).permutation(np.linspace(0.55, 0.95, len(INDEX)))
    predicted = np.array([0] * 9 + [1] * 4)
    labels = np.where(np.arange(13) % 4 == 0, 1 - predicted, np.where(np.arange(13) % 5 == 0, -1, predicted))
    rows = np.zeros(13, row_kind(2))
    rows["index"], rows["probabilities"] = INDEX, np.stack([confidence, 1 - confidence], axis=1)
    rows["classes"] = np.stack([predicted, 1 - predicted], axis=1)
    predict.draw(images, Predictions(rows, labels, ("cat", "dog")), paths_of(images), None, epath.Path(tmp_path))

    def by_confidence(members):
        return INDEX[members[np.argsort(-confidence[members])]].tolist()

    good = {number: None if label < 0 else bool(label == p) for number, label, p in zip(INDEX, labels, predicted, strict=True)}
    percent = {number: f"{value:.1%}" for number, value in zip(INDEX, confidence, strict=True)}
    for row, kind in zip(sheets["certain.png"], (0, 1), strict=True):
        order, cells = by_confidence(np.flatnonzero(predicted == kind)), [cell for cell in row.cells if cell]
        expected = [*order[:4], *order[:-5:-1]] if kind == 0 else [*order[:2], *order[:-3:-1]]
        assert row.label == ("cat", "dog")[kind] and [number_of(cell.picture) for cell in cells] == expected
        assert [list(cell.lines) for cell in cells] == [[percent[number], f"{number:02d}.png"] for number in expected]
        assert [cell.good for cell in cells] == [good[number] for number in expected]

    wrong = by_confidence(np.flatnonzero((labels >= 0) & (labels != predicted)))
    cells = [cell for row in sheets["mistakes.png"] for cell in row.cells]
    assert len(wrong) == 4 and [number_of(cell.picture) for cell in cells] == wrong
    assert [cell.good for cell in cells] == [False] * 4
    for rank, (number, cell) in enumerate(zip(wrong, cells, strict=True), 1):
        position = INDEX.tolist().index(number)
        said, true = (("cat", "dog")[which] for which in (predicted[position], labels[position]))
        assert list(cell.lines) == [f"{rank}. {said} {confidence[position]:.0%}", f"true: {true}"]


@pytest.fixture
def looks(images, tmp_path):
    """13 features on a circle, at angles whose neighbours can be told by hand."""
    angles = np.random.default_rng(1).permutation(np.cumsum(np.linspace(0.05, 0.4, 13)))
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("float32")
    labels = np.arange(13) % 3 - 1
    return embed.Looks(images, INDEX, labels, paths_of(images), unit, epath.Path(tmp_path)), angles, labels


def test_neighbours_are_shown_with_their_photographs(looks, sheets):
    looks, angles, labels = looks
    looks.neighbours()
    rows = sheets["neighbours.png"]
    queries = [INDEX.tolist().index(number_of(row.cells[0].picture)) for row in rows]
    assert len(set(queries)) == embed.QUERIES and all(row.cells[0].lines[0] == "query" for row in rows)
    for row, query in zip(rows, queries, strict=True):
        similar = np.cos(angles - angles[query])
        nearest = sorted(set(range(13)) - {query}, key=lambda other: -similar[other])[: embed.NEIGHBOURS]  # noqa: B023
        assert [number_of(cell.picture) for cell in row.cells] == INDEX[[query, *nearest]].tolist()
        assert [cell.lines[1] for cell in row.cells] == [f"{number:02d}.png" for number in INDEX[[query, *nearest]]]
        assert [cell.lines[0] for cell in row.cells[1:]] == [f"{similar[other]:.2f}" for other in nearest]
        known = [labels[query] >= 0 and labels[other] >= 0 for other in nearest]
        same = [bool(labels[query] == labels[other]) if sure else None for other, sure in zip(nearest, known, strict=True)]
        assert row.cells[0].good is None and [cell.good for cell in row.cells[1:]] == same


def test_near_duplicates_are_shown_with_their_photographs(looks, sheets):
    looks, angles, _ = looks
    written = []
    looks.duplicates(0.99, lambda path, rows: written.extend(rows[1:]))
    cells = [cell for row in sheets["duplicates.png"] for cell in row.cells]
    names = [pair[place].rpartition("/")[2] for pair in written for place in (0, 1)]
    assert 2 <= len(names) == len(cells) and [f"{number_of(cell.picture):02d}.png" for cell in cells] == names
    for first, second in zip(cells[::2], cells[1::2], strict=True):
        one, other = (angles[INDEX.tolist().index(number_of(cell.picture))] for cell in (first, second))
        assert first.lines[1] == f"similarity {np.cos(one - other):.3f}" and abs(one - other) < 0.15


def test_heat_maps_are_of_the_photographs_that_they_are_shown_with(looks, monkeypatch):
    looks, _, labels = looks
    drawn = []

    def draw_attention(title, pictures, heats, lines, path):
        drawn.extend(zip(pictures, heats, lines, strict=True))

    monkeypatch.setattr(attention, "has_pooling", lambda model: True)
    monkeypatch.setattr(attention, "image_attention", lambda model, inputs: [number_of(image) for image in inputs])
    monkeypatch.setattr(attention, "draw_attention", draw_attention)
    looks.attention(None)
    assert len(drawn) == embed.QUERIES
    for picture, heat, (name, label) in drawn:
        number, position = number_of(picture), INDEX.tolist().index(number_of(picture))
        assert heat == number and name == f"{number:02d}.png"
        assert label == (str(labels[position]) if labels[position] >= 0 else "")
