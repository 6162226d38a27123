"""What people read of an evaluation: the table, the pictures and the page."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from statistics import NormalDist

import matplotlib.image
import msgspec
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from speechrnn.errors import OutputError
from speechrnn.evaluation.clips import (
    ANY_KEYWORD,
    Condition,
    DetectionCurve,
    Evaluation,
    ReliabilityDiagram,
    evaluate,
)
from speechrnn.evaluation.plots import check_picture, draw_all, draw_curve, to_svg
from speechrnn.evaluation.report import to_html, to_table
from speechrnn.evaluation.streams import THRESHOLDS, CurvePoint, StreamCurve
from speechrnn.evaluation.tables import Table
from speechrnn.labels import Labels
from speechrnn.spec import ModelInfo, Spec
from tests.evaluation.test_clips import CLIPS, write_clips
from tests.helpers import RATE_HZ, assert_one_line, fake_recognizer, noise, write_audio

PICTURES = ["confusion", "detection", "calibration", "conditions"]
_NEVER_CLOSED = {"meta", "br"}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    hum = write_audio(tmp_path_factory.mktemp("noise") / "hum.wav", noise(5 * RATE_HZ))
    clips = write_clips(tmp_path_factory.mktemp("clips"), CLIPS)
    return evaluate(fake_recognizer(), clips, noise=hum.parent)


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """A single clip: nearly everything that can be undefined is."""
    return evaluate(fake_recognizer(), write_clips(tmp_path_factory.mktemp("silent"), {"_silence_": ("silence",)}))


def test_the_table_tells_accuracy_folders_and_confusion(result: Evaluation) -> None:
    lines = to_table(result).splitlines()
    assert lines[0] == "accuracy 66.67 % of 12 clips"
    rows = [line.split(maxsplit=3) for line in lines]
    assert ["marvin", "3", "66.67", "unknown 2, yes 1"] in rows
    assert {row[0] for row in rows if len(row) == 4} >= CLIPS.keys()
    matrix = [line.split() for line in lines[-4:]]
    assert matrix == [
        [label, *(str(count or ".") for count in row)]
        for label, row in zip(result.labels, result.confusion, strict=True)
    ]


def test_the_table_tells_classes_conditions_and_intervals(result: Evaluation) -> None:
    text = to_table(result)
    rows = [line.split() for line in text.splitlines()]
    low, high = (f"{100 * bound:.2f}" for bound in result.intervals["keyword_accuracy"])
    assert ["keywords", "right", "66.67", low, "to", high] in rows
    assert next(row[:5] for row in rows if row[:2] == ["yes", "4"]) == ["yes", "4", "75.00", "75.00", "75.00"]
    assert "+100 ms" in text
    assert "noise at 0 dB" in text
    assert "12 files that name no speaker" in text


def test_what_was_not_scored_is_listed(tmp_path: Path) -> None:
    folder = write_clips(tmp_path, CLIPS)
    (folder / "no" / "text.wav").write_text("no audio")
    recognizer = fake_recognizer(ModelInfo(spec=Spec(labels=Labels(("yes", "no"), unknown=False))))
    text = to_table(evaluate(recognizer, folder))
    assert "4 clips left out, for the model has no class for their folders: _unknown_ 1, marvin 3" in text
    assert f"1 clips could not be read:\n  {folder / 'no' / 'text.wav'}: " in text
    assert "--noise FOLDER" in text


def test_rates_of_nothing_are_a_dash(silent: Evaluation) -> None:
    rows = [line.split() for line in to_table(silent).splitlines()]
    assert ["keywords", "right", "-", "-"] in rows
    assert ["silence", "1", "100.00", "100.00", "100.00", "-"] in rows


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_drawn(result: Evaluation, name: str) -> None:
    file = io.BytesIO()
    draw_all(result)[name].savefig(file, format="png")
    file.seek(0)
    picture = matplotlib.image.imread(file)
    assert min(picture.shape[:2]) > 300
    assert picture[..., :3].min() < 0.2 < 0.9 < picture[..., :3].max()


def test_a_curve_is_drawn_with_the_points_of_the_spotter() -> None:
    points = [CurvePoint(level, level, 0.0, 100 * (1 - level)) for level in (0.1, 0.5, 0.9, 1.0)]
    figure = draw_curve(StreamCurve("default", points, {"as set": points[1], "strict": points[2]}))
    line, *marks = [np.asarray(one.get_xydata()) for one in figure.axes[0].get_lines()]
    np.testing.assert_allclose(line, [(90, 10), (50, 50), (10, 90), (0, 100)], atol=1e-9)
    np.testing.assert_allclose(np.concatenate(marks), [(50, 50), (10, 90)], atol=1e-9)
    _, names = figure.axes[0].get_legend_handles_labels()
    assert names == ["detector, by threshold", "spotter, as set", "spotter, strict"]


def names_of(curve: StreamCurve) -> list[Annotation]:
    """The thresholds that are written into the picture of a curve."""
    figure = draw_curve(curve)
    figure.draw_without_rendering()
    return [one for one in figure.axes[0].texts if isinstance(one, Annotation)]


def far_apart(threshold: float) -> CurvePoint:
    return CurvePoint(threshold, threshold**20, 0.0, 300 * (1 - threshold))


def close_together(threshold: float) -> CurvePoint:
    return CurvePoint(threshold, 0.5 if threshold < 0.97 else 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        (far_apart, ["0.3", "0.5", "0.7", "0.9", "0.95", "0.98", "0.99"]),
        (close_together, ["0.3", "0.98"]),
    ],
)
def test_thresholds_are_written_into_a_curve_but_never_over_each_other(
    point: Callable[[float], CurvePoint], expected: list[str]
) -> None:
    names = names_of(StreamCurve("default", [point(level) for level in THRESHOLDS], {}))
    assert [name.get_text() for name in names] == expected
    boxes = [name.get_window_extent() for name in names]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_a_curve_where_no_keyword_was_spoken_is_drawn_without_a_line() -> None:
    points = [CurvePoint(level, math.nan, math.nan, 1.0) for level in THRESHOLDS]
    file = io.BytesIO()
    draw_curve(StreamCurve("default", points, {"as set": points[0]})).savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")


def test_no_detection_is_drawn_where_none_was_measured(silent: Evaluation) -> None:
    assert list(draw_all(silent)) == ["confusion", "calibration", "conditions"]


@pytest.mark.slow
def test_drawing_twice_gives_the_same_svg(result: Evaluation) -> None:
    first, second = ([to_svg(figure) for figure in draw_all(result).values()] for _ in range(2))
    assert first == second


def test_drawing_leaves_the_settings_of_matplotlib_alone(result: Evaluation) -> None:
    before = dict(matplotlib.rcParams)
    to_svg(draw_all(result)["confusion"])
    assert dict(matplotlib.rcParams) == before


class _Page(HTMLParser):
    """Notes what a page holds, and that its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in _NEVER_CLOSED:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_no_other_file(result: Evaluation) -> None:
    text = to_html(result, "a model")
    page = _Page(text)
    assert page.open == []
    assert page.seen.count("svg") == len(PICTURES)
    assert not {"script", "link", "img", "iframe"} & set(page.seen)
    references = [value for name, value in page.attributes if name in ("href", "xlink:href", "src")]
    references += re.findall(r"url\(([^)]*)\)", text)
    assert references
    assert all(str(reference).startswith("#") for reference in references)


def test_references_in_the_page_lead_to_one_thing(result: Evaluation) -> None:
    text = to_html(result, "a model")
    targets = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', text))
    assert targets <= set(re.findall(r' id="([^"]+)"', text))


def test_pictures_take_the_colour_of_the_text(result: Evaluation) -> None:
    for name, figure in draw_all(result).items():
        svg = to_svg(figure)
        assert "currentColor" in svg, name
        assert not re.search(r"(?:fill|stroke): ?(?:#000000|black|#ffffff|white)\b", svg), name


@pytest.mark.parametrize("part", ["66.67", "marvin", "unknown 2, yes 1", "12 clips", "noise at 5 dB"])
def test_the_page_tells_the_scores(result: Evaluation, part: str) -> None:
    assert part in to_html(result, "a model")


def test_names_are_text_and_never_markup(result: Evaluation) -> None:
    odd = msgspec.structs.replace(result, labels=["<b>&", "$x^2", "unknown", "silence"], left_out=["clips/<i>/0.wav"])
    page = _Page(to_html(odd, "<u>model</u>"))
    assert not {"b", "i", "u"} & set(page.seen)


def test_the_page_of_a_single_clip_is_whole(silent: Evaluation) -> None:
    page = _Page(to_html(silent, "a model"))
    assert (page.open, page.seen.count("svg")) == ([], 3)


@pytest.mark.parametrize("name", ["curve.png", "CURVE.PNG", "new/curve.svg", "curve.pdf", "curve.jpg"])
@pytest.mark.slow
def test_a_picture_that_matplotlib_writes_may_go_there(name: str, tmp_path: Path) -> None:
    check_picture(tmp_path / name)
    Figure().savefig(tmp_path / name)
    assert (tmp_path / name).stat().st_size > 0


@pytest.mark.parametrize("name", ["curve", "curve.json", "curve.xyz", ".png", "file/curve.png"])
def test_a_picture_that_cannot_be_written_is_known_before_the_work(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError) as caught:
        check_picture(tmp_path / name)
    assert_one_line(caught.value, str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def drawn(figure: Figure, axis: int) -> list[np.ndarray]:
    """The points [n, 2] of each line of an axis."""
    return [np.asarray(line.get_xydata()) for line in figure.axes[axis].get_lines()]


def test_the_curves_of_detection_have_false_alarms_across_and_hits_or_misses_up(result: Evaluation) -> None:
    curve = DetectionCurve(10, 10, 0.9, 0.2, 0.3, [math.inf, 0.8, 0.1], [0.001, 0.1, 0.5], [0.4, 0.2, 0.01])
    figure = draw_all(msgspec.structs.replace(result, detection={ANY_KEYWORD: curve}))["detection"]
    np.testing.assert_allclose(drawn(figure, 0)[0], [(0.1, 60), (10, 80), (50, 99)])
    probit = NormalDist().inv_cdf
    points = [(0.001, 0.4), (0.1, 0.2), (0.5, 0.01)]
    np.testing.assert_allclose(drawn(figure, 1)[0], [(probit(x), probit(y)) for x, y in points])
    assert [(axis.get_xlabel(), axis.get_ylabel()) for axis in figure.axes] == [
        ("false alarms (%)", "found (%)"),
        ("false alarms (%)", "misses (%)"),
    ]


def test_reliability_is_drawn_as_accuracy_over_confidence_of_the_bins_with_clips(result: Evaluation) -> None:
    bins = ReliabilityDiagram(0.2, [0, 3, 5], [math.nan, 0.5, 0.9], [math.nan, 0.3, 0.8])
    figure = draw_all(msgspec.structs.replace(result, calibration=bins))["calibration"]
    diagonal, line = drawn(figure, 0)
    np.testing.assert_allclose(diagonal, [(0, 0), (100, 100)])
    np.testing.assert_allclose(line, [(50, 30), (90, 80)])
    assert [bar.get_height() for bar in figure.axes[1].patches if isinstance(bar, Rectangle)] == [0, 3, 5]


def test_the_confusion_matrix_has_the_truth_in_rows_and_the_predicted_in_columns(result: Evaluation) -> None:
    odd = msgspec.structs.replace(result, labels=["a", "b"], confusion=[[3, 1], [0, 4]])
    axis = draw_all(odd)["confusion"].axes[0]
    cells = {(text.get_position(), text.get_text()) for text in axis.texts}
    assert cells == {((0, 0), "3"), ((1, 0), "1"), ((1, 1), "4")}
    shades = {
        (patch.get_x(), patch.get_y()): patch.get_alpha() for patch in axis.patches if isinstance(patch, Rectangle)
    }
    assert shades == pytest.approx({(-0.5, -0.5): 0.9 * 0.75, (0.5, -0.5): 0.9 * 0.25, (0.5, 0.5): 0.9})
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.yaxis_inverted()) == ("predicted", "truth", True)


def test_conditions_are_drawn_with_the_accuracy_of_all_classes_and_of_keywords(result: Evaluation) -> None:
    shift = [Condition(9, 0.6, 0.5, -100), Condition(9, 0.9, 0.8), Condition(9, 0.7, 0.4, 100)]
    noise_found = [Condition(9, 0.95, 0.85), Condition(9, 0.3, 0.2, snr_db=0.0)]
    figure = draw_all(msgspec.structs.replace(result, shift=shift, noise=noise_found))["conditions"]
    assert [np.round(line[:, 1]).tolist() for axis in (0, 1) for line in drawn(figure, axis)] == [
        [60, 90, 70],
        [50, 80, 40],
        [95, 30],
        [85, 20],
    ]
    assert figure.axes[0].get_legend_handles_labels()[1] == ["all classes", "keywords"]


def test_a_table_is_markdown() -> None:
    table = Table(("", "n"), "<>", [("a|b", "1"), ("", "20")])
    assert table.to_markdown() == ["| | n |", "|---|---|", "| a\\|b | 1 |", "| | 20 |"]
    assert table.to_lines() == ["      n", "a|b   1", "     20"]
