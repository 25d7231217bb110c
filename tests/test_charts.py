"""Charts place lines and ticks where a reader expects them."""

import math

import pytest

from pf_keras.charts import BOTTOM, LEFT, MOST_POINTS, RIGHT, TOP, Line, line_chart


def places(*lines, **options):
    chart = line_chart("title", "step", lines, **options)
    return [line["places"] for line in chart["lines"]], chart


def test_points_are_placed_from_left_to_right_and_upwards():
    (line,), chart = places(Line("loss", [(0, 2.0), (50, 1.0), (100, 0.0)]))
    assert line == [(LEFT, TOP), ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2), (RIGHT, BOTTOM)]
    assert [label for _, label in chart["y_ticks"]] == ["0", "0.5", "1", "1.5", "2"]
    assert [label for _, label in chart["x_ticks"]] == ["0", "50", "100"]
    assert chart["legend"] == [{"style": 0, "name": "loss", "change": "2 to 0"}]


def test_all_lines_and_their_spread_are_inside():
    drawn = Line("a", [(10, 0.9), (1000, 0.99)], [0.05, None]), Line("b", [(10, 0.2)])
    lines, chart = places(*drawn, fractions=True, log_x=True)
    (x, low, high), *others = chart["lines"][0]["bars"]
    assert others == [] and TOP <= high < lines[0][0][1] < low <= BOTTOM and x == LEFT
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for line in lines for x, y in line)
    assert {label for _, label in chart["y_ticks"]} <= {f"{n}%" for n in range(0, 101)}
    assert [label for _, label in chart["x_ticks"]] == ["10", "1k"]


def test_a_spike_among_many_points_is_drawn():
    points = [(step, 5.0 if step == 4321 else 1.0 + step / 1e6) for step in range(10_000)]
    (line,), _ = places(Line("loss", points))
    assert len(line) <= MOST_POINTS + 1 and line[-1][0] == RIGHT and min(y for _, y in line) == TOP
    assert line == sorted(line, key=lambda place: place[0])


def test_values_that_are_not_finite_are_left_out():
    (line,), _ = places(Line("loss", [(1, math.nan), (2, 1.0), (3, math.inf), (4, 2.0)]))
    assert len(line) == 2


@pytest.mark.parametrize("points", [[], [(5, 1.0)], [(5, math.nan), (6, 1.0)]])
def test_a_single_point_is_no_chart(points):
    assert line_chart("title", "step", [Line("loss", points)]) is None


@pytest.mark.parametrize("value", [0.0, 1.0, -3e-9, 1e12])
def test_a_constant_is_a_line_in_the_middle(value):
    (line,), chart = places(Line("loss", [(1, value), (2, value)]))
    assert TOP < line[0][1] == line[1][1] < BOTTOM and len(chart["y_ticks"]) > 2


def test_lines_of_the_same_name_look_the_same():
    _, chart = places(Line("a", [(1, 1), (2, 2)]), Line("b", [(1, 3), (2, 1)]), Line("a", [(1, 1), (2, 3)]))
    assert [line["style"] for line in chart["lines"]] == [0, 1, 0]
    assert [(entry["name"], entry["change"]) for entry in chart["legend"]] == [("a", "2 runs"), ("b", "3 to 1")]
