"""Figures: what becomes of matplotlib's output, and the small sums behind them."""

import re
from xml.etree import ElementTree

import pytest

from mashbill.report.figures import canvas, curves, intervals, reliability, streams


def draw(paint, **options):
    values = {"box": canvas.Box(200, 100), "identity": "x", "label": "a picture"} | options
    return canvas.picture(paint, **values)


def test_picture_is_bare_svg() -> None:
    svg = draw(lambda axes: axes.plot([0, 1], [0, 1], color=canvas.teacher_colour(1), marker="o", label="a"))
    root = ElementTree.fromstring(svg)
    assert root.attrib == {"viewBox": "0 0 200 100", "class": "chart", "role": "img", "aria-label": "a picture"}
    assert not {"metadata", "style"} & {element.tag for element in root.iter()}
    assert "stroke:var(--t1)" in svg
    assert not re.search(r"xmlns|xlink|http|<!--|#[0-9a-f]{6}\b", svg)


def test_identifiers_begin_with_the_figure_and_resolve() -> None:
    svg = draw(lambda axes: axes.plot([0, 1], [0, 1], marker="o"), identity="loss")
    ids = re.findall(r' id="([^"]*)"', svg)
    assert ids
    assert all(name.startswith("loss-") for name in ids)
    assert set(re.findall(r'(?:href="|url\()#([\w-]+)', svg)) <= set(ids)


def test_text_stays_text_and_is_escaped() -> None:
    svg = draw(lambda axes: axes.set_title("<b>$x_1$ & 日本</b>"), label='"<&>"')
    assert ">&lt;b&gt;$x_1$ &amp; 日本&lt;/b&gt;</text>" in svg
    assert 'aria-label="&quot;&lt;&amp;&gt;&quot;"' in svg


def test_teacher_colours_come_round() -> None:
    assert canvas.teacher_colour(0) == canvas.teacher_colour(8) != canvas.teacher_colour(7)


@pytest.mark.parametrize(
    ("positions", "expected"),
    [([0.5, 0.5, 0.5], [0.5, 0.6, 0.7]), ([0.9, 0.95], [0.85, 0.95]), ([0.2, 0.8], [0.2, 0.8]), ([0.0], [0.05])],
)
def test_names_move_apart_and_stay_inside(positions, expected) -> None:
    assert canvas.spread(positions, 0.1, 0.05, 0.95) == pytest.approx(expected)


def test_plain_text_has_no_control_characters() -> None:
    assert canvas.plain("a\x00b\u202ec\td") == "a b c d"
    assert len(canvas.plain("x" * 99, 10)) == 10


def test_condensed_stream_keeps_its_ends_and_its_sum() -> None:
    stream = streams.Stream([float(n) for n in range(1000)], [[0.25] * 1000, [0.75] * 1000])
    short = streams.condense(stream, 40)
    assert len(short.steps) == 40
    assert (short.steps[0], short.steps[-1]) == (0.0, 999.0)
    assert short.shares == [[0.25] * 40, [0.75] * 40]
    assert streams.condense(short, 40) is short


def test_condensed_stream_is_made_of_means() -> None:
    short = streams.condense(streams.Stream([1.0, 2.0, 3.0, 4.0], [[0.0, 1.0, 0.5, 0.7]]), 2)
    assert short.shares[0] == pytest.approx([0.5, 0.6])


def test_a_single_step_is_still_an_area() -> None:
    svg = draw(streams.area(streams.Stream([10.0], [[0.4], [0.6]]), extent=(0.0, 10.0), teachers=("a", "b")))
    assert svg.count("<path") >= 2
    assert ">a</text>" in svg


def test_thinned_curve_keeps_its_ends_and_drops_what_is_not_finite() -> None:
    steps, values = curves.thin([float(n) for n in range(100)], [float("nan"), *[1.0] * 98, 2.0], 10)
    assert (steps[0], steps[-1], values[-1]) == (1.0, 99.0, 2.0)
    assert len(steps) <= 12


@pytest.mark.parametrize(
    "values", [[3.0, 0.5, 0.1], [0.0, 0.0, 0.0], [1.0, 0.0, -1.0], [2.0, 2.0, 2.0], [1e-9, 1e4, 1.0]]
)
def test_curves_of_every_kind_are_drawn(values) -> None:
    drawn = [curves.Curve("loss", [1.0, 2.0, 3.0], values), curves.Curve("nothing", [], [])]
    svg = draw(curves.lines(drawn, extent=(1.0, 3.0), resumes=(2,)))
    assert "resumed" in svg
    assert ">nothing<" not in svg


def test_dots_and_seeds_share_an_axis() -> None:
    assert intervals.extent([0.2, 0.4]) == pytest.approx((0.188, 0.412))
    low, high = intervals.extent([0.5])
    assert low < 0.5 < high
    rows = [intervals.Dot("student", 0.5, 0.4, 0.6, strong=True), intervals.Dot("a teacher", 0.3, 0.3, 0.3)]
    assert ">a teacher</text>" in draw(intervals.dots(rows, extent=(0.2, 0.7), is_share=True))
    arms = [intervals.Arm("main", [0.5, 0.5, 0.5], strong=True), intervals.Arm("one", [0.4])]
    assert draw(intervals.seeds(arms, extent=(0.3, 0.6), is_share=False)).count("<use") >= 4


def test_reliability_is_drawn() -> None:
    model = reliability.Reliability("student", [0.1, 0.9], [0.2, 0.8], [0.0, 1.0])
    assert "stroke-dasharray" in draw(reliability.diagram([model]))
