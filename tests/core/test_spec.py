"""What a caller may choose of a model's options, and what becomes of the others."""

from typing import Any

import msgspec
import pytest

from speechrnn.errors import ConfigError
from speechrnn.labels import Labels
from speechrnn.spec import ModelInfo, OperatingPoint, Options
from tests.helpers import FAKE_INFO, assert_one_line

GIVEN = Options(threshold=0.8, thresholds={"yes": 0.9, "no": 0.6}, smoothing_ms=300, keywords=("yes",), lag_ms=40)


@pytest.mark.parametrize(
    ("choice", "changed"),
    [
        ({}, {}),
        ({"threshold": 0.5}, {"threshold": 0.5, "thresholds": {}}),
        ({"thresholds": {"no": 0.7}}, {"thresholds": {"yes": 0.9, "no": 0.7}}),
        ({"threshold": 0.5, "thresholds": {"no": 0.7}}, {"threshold": 0.5, "thresholds": {"no": 0.7}}),
        ({"keywords": ["no"]}, {"keywords": ("no",)}),
        ({"keywords": ()}, {"keywords": ()}),
        ({"step_ms": 50}, {"step_ms": 50}),
        ({"step_ms": 400}, {"step_ms": 400, "smoothing_ms": 400}),
    ],
)
def test_a_choice_changes_what_it_says_and_leaves_the_rest(choice: dict[str, Any], changed: dict[str, Any]) -> None:
    assert GIVEN.with_choice(**choice) == msgspec.structs.replace(GIVEN, **changed)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"threshold": 1.5}, "got threshold = 1.5"),
        ({"thresholds": {"yes": 0}}, "got yes = 0"),
        ({"step_ms": 5}, "step_ms from 10 to 3600000, got 5"),
    ],
)
def test_a_choice_out_of_range_is_one_line(choice: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GIVEN.with_choice(**choice)
    assert_one_line(caught.value, expected)


@pytest.mark.parametrize("options", [Options(keywords=("maybe",)), Options(thresholds={"maybe": 0.5})])
def test_a_word_that_is_no_keyword_is_named_with_those_that_are(options: Options) -> None:
    with pytest.raises(ConfigError) as caught:
        options.check_labels(Labels(("yes", "no")))
    assert_one_line(caught.value, "maybe: no keyword of this model; expected yes, no")


def test_an_operating_point_is_known_by_its_name() -> None:
    info = ModelInfo(spec=FAKE_INFO.spec, options=GIVEN, operating_points={"strict": OperatingPoint(threshold=0.95)})
    assert info.options_at(None) == GIVEN
    assert info.options_at("strict") == msgspec.structs.replace(GIVEN, threshold=0.95, thresholds={})
    with pytest.raises(ConfigError) as caught:
        info.options_at("lax")
    assert_one_line(caught.value, "lax: no operating point of this model, which has: strict")


def test_a_model_file_calls_the_keywords_that_may_fire_only() -> None:
    assert msgspec.json.decode(b'{"only": ["yes"]}', type=Options).keywords == ("yes",)
    with pytest.raises(msgspec.ValidationError, match="expected a threshold above 0 and at most 1, got threshold = 2"):
        msgspec.json.decode(b'{"threshold": 2}', type=Options)


@pytest.mark.parametrize(("in_speech", "bound"), [(False, 0.5), (True, 0.0)])
def test_keywords_within_speech_are_asked_for_in_one_place(in_speech: bool, bound: float) -> None:
    alone = msgspec.structs.replace(GIVEN, quiet_before=0.5)
    assert alone.with_choice(in_speech=in_speech) == msgspec.structs.replace(GIVEN, quiet_before=bound)
