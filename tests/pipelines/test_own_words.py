"""The examples that ship for own words, and the study of them: what is stored, and who is learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.make_negatives import half_of, read_spans, spaced
from pipelines.studies import own_words
from pipelines.studies.compare_local_wake import hits_at, trimmed
from pipelines.studies.own_words import choose
from speechrnn.recognizer import load
from speechrnn.teaching.model_file import base_scores
from tests.helpers import RATE_HZ, silence, sine


def test_what_is_stored_gives_the_scores_of_the_network() -> None:
    recognizer = load("commands10")
    embeddings = np.random.default_rng(0).normal(0, 1, (300, 256)).astype(np.float32)
    space = spaced(recognizer, embeddings, [embeddings[:10], embeddings[10:20]])
    assert space.directions.T @ space.directions == pytest.approx(np.eye(96), abs=1e-4)
    scores = base_scores(recognizer)
    assert scores(space.restore(space.reduce(embeddings))) == pytest.approx(scores(embeddings), abs=1e-2)
    assert (np.linalg.eigvalsh(space.within) > -1e-5).all()


def test_words_of_speech_are_found_in_the_rows_that_have_some_of_them(tmp_path: Path) -> None:
    path = tmp_path / "aligned.csv"
    path.write_text("audio,start_s,end_s,label\na.wav,1.02,1.31,time\nb.wav,0,1,never\n")
    assert read_spans(path, {"a.wav": 100}, 1000) == (["time"], [(110, 123)])


def test_a_speaker_belongs_to_one_half() -> None:
    halves = [half_of(f"speaker {number}") for number in range(200)]
    assert halves == [half_of(f"speaker {number}") for number in range(200)]
    assert 70 < sum(halves) < 130


RECORDINGS = {
    Path(f"{speaker}{number}"): own_words.Tested(speaker, np.zeros((4, 2), np.float32), np.zeros((9, 2), np.float32))
    for speaker in "abcd"
    for number in range(6)
}


@pytest.mark.parametrize(("n", "n_speakers"), [(3, 3), (4, 4), (6, 4)])
def test_recordings_of_many_are_of_as_many_as_there_are(n: int, n_speakers: int) -> None:
    chosen = choose(RECORDINGS, n, one_speaker=False, draw=1)
    assert len(chosen) == len({*chosen}) == n
    assert len({RECORDINGS[file].speaker for file in chosen}) == n_speakers


def test_recordings_of_one_are_of_one_who_has_more() -> None:
    chosen = choose(RECORDINGS, 5, one_speaker=True, draw=1)
    assert len(chosen) == 5
    assert len({RECORDINGS[file].speaker for file in chosen}) == 1


def test_draws_differ_and_are_the_same_every_time() -> None:
    draws = [choose(RECORDINGS, 4, one_speaker=False, draw=draw) for draw in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_hits_are_counted_at_what_others_reach() -> None:
    assert hits_at([0.5, 0.96, 0.995], np.linspace(0, 1, 101).tolist()) == pytest.approx((1 / 3, 2 / 3))


def test_a_word_is_trimmed_with_the_same_around_it_everywhere() -> None:
    samples = np.concatenate([silence(0.1), sine(300, 0.4), silence(0.9)])
    word = trimmed(samples)
    assert word is not None
    assert len(word) / RATE_HZ == pytest.approx(1.2, abs=0.03)
    assert trimmed(silence(1)) is None
