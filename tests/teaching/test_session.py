"""Recording own words: which takes are kept, why others are not, and that an interrupted session goes on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechrnn.audio import Samples
from speechrnn.errors import DeviceError, OutputError
from speechrnn.sources import ArraySource, AudioSource
from speechrnn.teaching.judging import Refused, judge
from speechrnn.teaching.recordings import takes_of
from speechrnn.teaching.session import COUNT_DOWN_S, TAKE_S, Session, alike
from tests import virtual_microphone
from tests.helpers import COMMAND, PATIENCE_S, RATE_HZ, ROOT, assert_one_line, noise, run, silence, sine
from tests.virtual_microphone import VirtualMicrophone

HISS = 0.01


def take(*words: Samples, gap_s: float = 0.6) -> Samples:
    """Words in faint noise, a gap before and after each."""
    parts = [part for one in words for part in (silence(gap_s), one)]
    samples = np.concatenate([*parts, silence(gap_s)])
    return np.asarray(samples + HISS * noise(len(samples)), dtype=np.float32)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (take(1.99 * sine(300, 0.4)), "clipped"),
        (silence(2.5), "nothing heard"),
        (take(), "nothing heard"),
        (take(sine(300, 0.3), sine(400, 0.3)), "2 words heard"),
        (take(0.014 * sine(300, 0.4)), "too faint"),
        (take(sine(300, 0.4))[round(0.8 * RATE_HZ) :], "cut off"),
        (take(0.4 * sine(300, 0.4)) + 0.42 * noise(round(1.6 * RATE_HZ)), "hardly louder than the room"),
    ],
)
def test_a_take_that_will_not_do_is_refused_with_the_reason(samples: Samples, reason: str) -> None:
    judged = judge(samples, RATE_HZ)
    assert isinstance(judged, Refused)
    assert reason in judged.reason


def test_a_good_take_is_trimmed_to_a_third_of_a_second_around_the_word() -> None:
    judged = judge(take(sine(300, 0.4)), RATE_HZ)
    assert not isinstance(judged, Refused)
    assert len(judged) / RATE_HZ == pytest.approx(1.0, abs=0.05)


def spoken(*words: Samples) -> Callable[[], ArraySource]:
    """A microphone in which a take is spoken whenever it is opened, the next each time."""
    takes = iter(words)

    def open_microphone() -> ArraySource:
        word = np.concatenate([silence(COUNT_DOWN_S + 0.5), next(takes), silence(TAKE_S)])
        samples = (word + HISS * noise(len(word))).astype(np.float32)
        return ArraySource(samples, RATE_HZ, block_samples=320)

    return open_microphone


def test_a_session_records_what_is_missing_and_says_what_it_refuses(tmp_path: Path) -> None:
    said: list[str] = []
    words = [sine(300, 0.4), silence(0.4), sine(320, 0.4)]
    Session(tmp_path, spoken(*words), RATE_HZ, speaker="ana", say=said.append).record_word("lights", 2)
    assert sorted(path.name for path in (tmp_path / "lights").iterdir()) == ["ana_nohash_0.wav", "ana_nohash_1.wav"]
    assert said[:3] == [
        "say 'lights' after the count-down (1 of 2)",
        "say 'lights' after the count-down (2 of 2)",
        "not kept, nothing heard: speak after the count-down, and see whether this is the right microphone",
    ]
    [kept] = takes_of(tmp_path / "lights" / "ana_nohash_1.wav", RATE_HZ)
    assert len(kept.word) / RATE_HZ == pytest.approx(0.4, abs=0.03)
    Session(tmp_path, spoken(sine(340, 0.4)), RATE_HZ).record_word("lights", 3)
    assert (tmp_path / "lights" / "me_nohash_0.wav").exists()
    Session(tmp_path, spoken(), RATE_HZ).record_word("lights", 3)


def test_a_take_may_be_recorded_again(tmp_path: Path) -> None:
    answers = iter([False, True])
    words = [sine(300, 0.2), sine(300, 0.6)]
    Session(tmp_path, spoken(*words), RATE_HZ, keep=lambda samples: next(answers)).record_word("lights", 1)
    assert len(takes_of(tmp_path / "lights" / "me_nohash_0.wav", RATE_HZ)[0].word) > RATE_HZ // 2


def test_a_microphone_that_hears_nothing_ends_the_session(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as raised:
        Session(tmp_path, spoken(*[silence(0.4)] * 9), RATE_HZ).record_word("lights", 1)
    assert_one_line(raised.value, "'lights': 5 takes were no good", "nothing heard")
    assert not [*tmp_path.iterdir()]


def test_a_source_that_ends_in_a_take_is_told(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="ended in the middle of a take"):
        Session(tmp_path, lambda: ArraySource(silence(1), RATE_HZ), RATE_HZ).record_word("lights", 1)


def test_the_room_is_recorded_once(tmp_path: Path) -> None:
    room = HISS * noise(4 * RATE_HZ)
    for _ in range(2):
        Session(tmp_path, lambda: ArraySource(room, RATE_HZ), RATE_HZ).record_room(3)
    [path] = (tmp_path / "_background_noise_").iterdir()
    assert soundfile.info(path).duration == 3.0


def test_words_that_are_spelled_alike_are_recorded_as_what_it_is_not(tmp_path: Path) -> None:
    assert alike("light", 2) != alike("music", 2)
    assert "light" not in alike("light", 5)
    session = Session(tmp_path, spoken(sine(300, 0.4), sine(320, 0.4)), RATE_HZ)
    session.record_others("light", 2)
    session.record_others("light", 2)
    names = {path.name for path in (tmp_path / "_not_").iterdir()}
    assert names == {f"me_nohash_{word}.wav" for word in alike("light", 2)}


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as raised:
        Session(tmp_path / "file", spoken(sine(300, 0.4)), RATE_HZ).record_word("lights", 1)
    assert_one_line(raised.value, "cannot write there")


def test_a_machine_without_a_microphone_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str | None, **settings: object) -> AudioSource:
        raise DeviceError("no microphone found; plug one in")

    monkeypatch.setattr("speechrnn.sources.open_source", refuse)
    done = run("record", tmp_path / "words", "--label", "lights")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "speechrnn: no microphone found; plug one in")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(("--label", "a/b"), "'a/b'"), (("--label", "_not_"), "'_not_'"), (("--label", "unknown"), "reserved name")],
)
def test_names_that_cannot_be_folders_of_words_are_refused(
    arguments: tuple[str, ...], part: str, tmp_path: Path
) -> None:
    assert_one_line(run("record", tmp_path / "words", *arguments), part)


LACKING = virtual_microphone.missing()


@pytest.fixture
def microphone(tmp_path: Path) -> Iterator[VirtualMicrophone]:
    with VirtualMicrophone(tmp_path) as started:
        yield started


@pytest.mark.slow
@pytest.mark.skipif(bool(LACKING), reason=f"no virtual microphone: {LACKING} missing")
def test_words_that_are_played_into_a_microphone_are_recorded(microphone: VirtualMicrophone, tmp_path: Path) -> None:
    recording = np.concatenate([take(sine(300 + 10 * n, 0.4), gap_s=0.7) for n in range(90)])
    soundfile.write(tmp_path / "played.wav", recording, RATE_HZ)
    player = subprocess.Popen(["paplay", str(tmp_path / "played.wav")], env=microphone.environment)
    command = [*COMMAND, "record", str(tmp_path / "mine"), "--label", "lights", "--count", "2", "--room", "0"]
    try:
        time.sleep(0.5)
        done = subprocess.run(
            command,
            env={**microphone.environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    finally:
        player.kill()
        player.wait()
    assert done.returncode == 0, done.stderr
    assert len([*(tmp_path / "mine" / "lights").glob("me_nohash_*.wav")]) == 2
