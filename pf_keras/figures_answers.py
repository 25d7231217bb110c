"""The pictures of what a model answers: sheets of photographs, heat maps, and a map of features."""

import os
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pf_keras.errors import printable
from pf_keras.figures import save_figure

# Inches.
CELL, CAPTION, GAP, APART, LABEL, HEAD = 1.25, 0.36, 0.08, 0.3, 1.35, 0.32
CHARACTERS = 21  # of a line of a caption
LABEL_CHARACTERS = 17
GOOD, BAD = "#1a7f37", "#cf222e"
HOTTEST = 6  # times the mean, which heat maps show in the brightest colour, so that even attention looks even
COLOURS = 20  # groups of a map that have a colour of their own
BLANK = np.full((8, 8, 3), 200, "uint8")  # in place of a photograph


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet.

    Args:
        picture: uint8 `(H, W, 3)`.
        lines: what is written below it, two lines at most.
        good: whether its frame is green or red. None for no frame.
    """

    picture: np.ndarray
    lines: Sequence[str] = ()
    good: bool | None = None


@dataclass(frozen=True)
class Row:
    """One row of a sheet.

    Args:
        cells: its pictures. None leaves a place empty.
        label: what is written to the left of it.
        note: a line below the label.
    """

    cells: Sequence[Cell | None]
    label: str = ""
    note: str = ""


def draw_sheet(title: str, rows: Sequence[Row], path: os.PathLike, group: int = 0, headings: Sequence[str] = ()) -> None:
    """Draw rows of photographs with text below them. Names in the text are shown as they are, whatever they contain.

    Args:
        title: above the sheet.
        rows: at least one.
        path: of the picture.
        group: after so many pictures of a row there is a wider gap. 0 for none.
        headings: one for each group, above the first row.
    """
    import matplotlib.figure

    columns = max(len(row.cells) for row in rows)
    group = group or columns
    left = LABEL if any(row.label for row in rows) else 0.0

    def place(column):
        return left + column * (CELL + GAP) + column // group * (APART - GAP)

    top = HEAD + (0.26 if headings else 0)
    width, height = place(columns - 1) + CELL, top + len(rows) * (CELL + CAPTION + GAP)
    figure = matplotlib.figure.Figure(figsize=(width, height))

    def text(x, y, string, **options):
        figure.text(x / width, 1 - y / height, string, parse_math=False, **options)

    text(0, 0, title, fontsize=11, va="top", ha="left", weight="bold")
    for number, heading in enumerate(headings):
        text(place(number * group), top - 0.05, heading, fontsize=9, va="bottom", ha="left")
    for number, row in enumerate(rows):
        y = top + number * (CELL + CAPTION + GAP)
        label = "\n".join([*wrap(row.label, LABEL_CHARACTERS), row.note])
        text(left - 0.12, y + CELL / 2, label, fontsize=9, va="center", ha="right")
        for column, cell in enumerate(row.cells):
            if cell is None:
                continue
            x = place(column)
            axes = figure.add_axes((x / width, 1 - (y + CELL) / height, CELL / width, CELL / height))
            axes.imshow(cell.picture, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(cell.good is not None)
                spine.set_color(GOOD if cell.good else BAD)
                spine.set_linewidth(2.5)
            lines = "\n".join(shorten(line, CHARACTERS) for line in cell.lines[:2])
            text(x + CELL / 2, y + CELL + 0.05, lines, fontsize=6.8, va="top", ha="center")
    _save(figure, path)


def draw_map(title: str, maps: Mapping[str, np.ndarray], groups: np.ndarray, names: Sequence[str], path: os.PathLike) -> None:
    """Draw points in two dimensions, a panel for each way to lay them out.

    Args:
        title: above the panels.
        maps: `{heading: float (n, 2)}`.
        groups: int `(n,)`, the group of each point, or -1 for none. The largest groups get colours of their own.
        names: of the groups.
        path: of the picture.
    """
    import matplotlib.figure

    largest = np.argsort(-np.bincount(groups[groups >= 0], minlength=len(names)), kind="stable")
    shown = sorted(largest[: COLOURS if len(names) > COLOURS else None].tolist())
    width = 4.4 * len(maps) + 1.9
    figure = matplotlib.figure.Figure(figsize=(width, 4.7))
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    palette = _palette(len(shown))
    others = ~np.isin(groups, shown)
    for axes, (heading, points) in zip(panels, maps.items(), strict=True):
        size = float(np.clip(9000 / len(points), 5, 30))
        axes.scatter(*points[others].T, s=size, color="#b5b5b5", linewidths=0)
        for number, colour in zip(shown, palette, strict=True):
            axes.scatter(*points[groups == number].T, s=size, color=colour, linewidths=0, alpha=0.85)
        axes.set_title(heading, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", adjustable="datalim")
    handles = [_dot(colour) for colour in palette]
    labels = [shorten(names[number], 24) for number in shown]
    if others.any():
        handles, labels = [*handles, _dot("#b5b5b5")], [*labels, "other classes" if len(names) > COLOURS else "no label"]
    figure.suptitle(title, fontsize=11, weight="bold", x=0.01, ha="left")
    figure.tight_layout(rect=(0, 0, 1 - 1.9 / width, 0.98))
    legend = figure.legend(
        handles, labels, loc="center left", bbox_to_anchor=(1 - 1.85 / width, 0.5), fontsize=7.5, frameon=False
    )
    for entry in legend.get_texts():
        entry.set_parse_math(False)
    _save(figure, path)


def in_rows(cells: Sequence[Cell | None], columns: int) -> list[Row]:
    """Cells as rows of a sheet."""
    return [Row(cells[start : start + columns]) for start in range(0, len(cells), columns)]


def draw_attention(
    title: str, pictures: Sequence[np.ndarray], heats, lines: Sequence[Sequence[str]], path: os.PathLike
) -> None:
    """Draw photographs, and beside each the attention of the model's pooling query over its patches.

    Args:
        title: above the sheet.
        pictures: uint8 `(H, W, 3)` each.
        heats: float `(n, grid, grid)`, whose sum over an image is 1.
        lines: the text below each photograph, two lines at most.
        path: of the picture.
    """
    cells = []
    for picture, heat, text in zip(pictures, heats, lines, strict=True):
        cells += [Cell(picture, text), Cell(heat_map(picture, heat), [brightest(heat)])]
    draw_sheet(title, in_rows(cells, 6), path, group=2)


def brightest(heat: np.ndarray) -> str:
    """How bright a heat map is, as text below it: a map whose highest value is near its mean says little."""
    return f"highest {float(np.nanmax(heat) / np.nanmean(heat)):.1f}x mean"


def heat_map(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A photograph with a heat map on it.

    Args:
        picture: uint8 `(H, W, 3)`.
        heat: float `(grid, grid)`, at least 0. Patches that are NaN are shown in grey.

    Returns:
        uint8 `(H, W, 3)`. Black is no heat, and the brightest colour is `HOTTEST` times the mean or more.
    """
    from matplotlib import colormaps
    from PIL import Image

    height, width = picture.shape[:2]
    hidden = np.isnan(heat)
    scaled = (np.where(hidden, 0, heat) / max(HOTTEST * float(np.nanmean(heat)), 1e-12)).clip(0, 1)
    # Smooth where all patches are visible, because steps of the grid would look like edges of the photograph.
    method = Image.Resampling.NEAREST if hidden.any() else Image.Resampling.BICUBIC
    large = np.asarray(Image.fromarray(scaled.astype("float32")).resize((width, height), method)).clip(0, 1)
    grey = picture.mean(axis=-1, keepdims=True) / 255
    colour = colormaps["inferno"](large)[..., :3]
    mixed = 0.42 * grey + 0.68 * colour
    if hidden.any():
        mask = np.asarray(Image.fromarray(hidden).resize((width, height), Image.Resampling.NEAREST))
        mixed[mask] = 0.5
    return (255 * mixed.clip(0, 1)).astype("uint8")


def framed(picture: np.ndarray, grid: int, patch: int) -> np.ndarray:
    """A copy of a photograph with a red frame around one patch of the grid."""
    side = picture.shape[0] // grid
    line = max(1, side // 8)
    row, column = divmod(int(patch), grid)
    found = picture.copy()
    window = found[row * side : (row + 1) * side, column * side : (column + 1) * side]
    inner = window[line:-line, line:-line].copy()
    window[:] = (207, 34, 46)
    window[line:-line, line:-line] = inner
    return found


def shorten(text: str, width: int) -> str:
    """A line of at most `width` characters. What cannot be printed is written as an escape; the middle of a long text goes."""
    text = printable(text)
    if _width(text) <= width:
        return text
    tail = ""
    while _width(text[-len(tail) - 1 :]) <= (width - 1) // 2:
        tail = text[-len(tail) - 1 :]
    head = text
    while _width(head) + 1 + _width(tail) > width:
        head = head[:-1]
    return f"{head}…{tail}"


def wrap(text: str, width: int, most: int = 3) -> list[str]:
    """Text as lines of at most `width` characters, at most `most` of them."""
    words, lines = text.split(), [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _width(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [shorten(line, width) for line in lines]


def _width(text: str) -> int:
    """How wide a text is, in Latin characters."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _palette(count: int) -> list:
    from matplotlib import colormaps

    return list(colormaps["tab10" if count <= 10 else "tab20"].colors[:count])


def _dot(colour):
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", linestyle="", markersize=5, color=colour)


def _save(figure, path: os.PathLike) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on characters that the font does not have, which are drawn as boxes
        save_figure(figure, path)
