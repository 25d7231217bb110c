"""Line charts for a page: the places of lines, ticks and labels, which the template `report.html` draws as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 380, 240  # of the drawing, in units that are about a pixel
LEFT, RIGHT, TOP, BOTTOM = 46, WIDTH - 12, 8, HEIGHT - 36  # the area of the lines
MOST_POINTS = 300  # of a line; of more points the highest and lowest of each part are kept
FEW = 30  # points that get a dot each
STYLES = 6  # colours and dashes of lines, in the style of the page


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Args:
        name: for the legend. Lines of the same name look the same.
        points: `(x, y)`. Points that are not finite are left out.
        spread: the standard deviation of each point, or None. Empty where no point has one.
    """

    name: str
    points: Sequence[tuple[float, float]]
    spread: Sequence[float | None] = ()

    def rows(self) -> np.ndarray:
        """The points and their spread, float `(n, 3)`."""
        spread = self.spread or [None] * len(self.points)
        rows = np.array([(x, y, s or 0) for (x, y), s in zip(self.points, spread, strict=True)], float).reshape(-1, 3)
        return rows[np.isfinite(rows).all(axis=1)]


def line_chart(title: str, x_title: str, lines: Sequence[Line], fractions: bool = False, log_x: bool = False) -> dict | None:
    """What the template needs to draw a chart, or None where the points have not two different x.

    Args:
        title: above the chart.
        x_title: below its x-axis.
        lines: drawn in this order.
        fractions: whether y is a fraction, which is shown in percent.
        log_x: whether x is logarithmic, with a tick at each point.
    """
    found = [(line.name, rows) for line in lines if len(rows := line.rows())]
    x, y, s = np.concatenate([rows for _, rows in found] or [np.empty((0, 3))]).T
    if len(set(x)) < 2:
        return None
    names = list(dict.fromkeys(name for name, _ in found))
    x_ticks = sorted(set(x.tolist())) if log_x else _ticks(x.min(), x.max(), inside=True)
    y_ticks = _ticks((y - s).min(), (y + s).max())
    if fractions:
        y_ticks = [tick for tick in y_ticks if 0 <= tick <= 1]
    along = np.log if log_x else np.asarray
    place_x = _scale(along(x.min()), along(x.max()), LEFT, RIGHT)
    place_y = _scale(min((y - s).min(), *y_ticks), max((y + s).max(), *y_ticks), BOTTOM, TOP)

    drawn = []
    for name, rows in found:
        x, y, s = rows[_shown(rows[:, 1])].T
        places = list(zip(place_x(along(x)), place_y(y), strict=True))
        bars = [bar for bar in zip(place_x(along(x)), place_y(y - s), place_y(y + s), strict=True) if bar[1] != bar[2]]
        drawn.append({"style": names.index(name) % STYLES, "places": places, "bars": bars, "dots": len(places) <= FEW})

    def show(value):
        return f"{value:.1%}" if fractions else f"{value:.4g}"

    legend = []
    for number, name in enumerate(names):
        same = [rows for other, rows in found if other == name]
        first, last = show(same[0][0, 1]), show(same[0][-1, 1])
        change = f"{len(same)} runs" if len(same) > 1 else first if first == last else f"{first} to {last}"
        legend.append({"style": number % STYLES, "name": name, "change": change})
    return {
        "kind": "chart",
        "title": title,
        "x_title": x_title,
        "area": {"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM, "width": WIDTH, "height": HEIGHT},
        "x_ticks": [(place_x(along(tick)), _short(tick)) for tick in x_ticks],
        "y_ticks": [(place_y(tick), f"{round(100 * tick, 6):g}%" if fractions else f"{tick:g}") for tick in y_ticks],
        "lines": drawn,
        "legend": legend,
    }


def _scale(low: float, high: float, start: float, end: float):
    """A function from values in `low..high` to places in `start..end`, rounded. A value alone is in the middle."""
    if high <= low:
        return lambda values: np.full(np.shape(values), (start + end) / 2).tolist()
    return lambda values: np.round(start + (np.asarray(values) - low) / (high - low) * (end - start), 1).tolist()


def _shown(values: np.ndarray) -> np.ndarray:
    """Which points of a line are drawn, in order: all, or the lowest and the highest of each part and the last."""
    if len(values) <= MOST_POINTS:
        return np.arange(len(values))
    parts = np.array_split(np.arange(len(values)), MOST_POINTS // 2)
    ends = [part[chosen(values[part])] for part in parts for chosen in (np.argmin, np.argmax)]
    return np.unique([*ends, len(values) - 1])


def _ticks(low: float, high: float, inside: bool = False, about: int = 4) -> list[float]:
    """Round numbers that enclose `low` and `high`, or only those between them."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = (math.ceil, math.floor) if inside else (math.floor, math.ceil)
    return [float(f"{n * step:.10g}") for n in range(first(low / step), last(high / step) + 1)]


def _short(value: float) -> str:
    """A number of steps or images on an axis: 1500 is 1.5k."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"
