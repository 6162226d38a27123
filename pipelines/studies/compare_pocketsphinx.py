"""Compare speechrnn with the keyword spotting of PocketSphinx on the same recording.

    pip install pocketsphinx
    python -m pipelines.studies.compare_pocketsphinx configs/commands10.toml commands10 --data data

The recording is a stream of validation words over noise (speechrnn.evaluation.synthetic_streams), and running speech
that speechrnn was trained on. PocketSphinx gets, for each keyword, the threshold of the highest F1 in a sweep on a
stream of other validation clips and other speech; where it finds several keywords at once, the most probable counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pipelines.inputs import open_inputs, parse_inputs
from speechrnn.audio import from_int16, to_int16
from speechrnn.cli.console import run_program
from speechrnn.config import TRAINING_RATE_HZ
from speechrnn.data.clips import Clip, Int16, Pack
from speechrnn.detector import Detection
from speechrnn.evaluation.ground_truth import Word
from speechrnn.evaluation.streams import Score, ScoredRecording, score
from speechrnn.evaluation.synthetic_streams import (
    Recipe,
    make_stream,
    of_pack,
    recordings_of,
    validation_clips,
)
from speechrnn.evaluation.tables import Table, number, percent
from speechrnn.recognizer import Recognizer
from speechrnn.spotter import KeywordSpotter

_BLOCK = TRAINING_RATE_HZ // 10
_THRESHOLDS = (1e-2, 1.0, 1e2, 1e4, 1e6, 1e8, 1e12)
_RECIPE = Recipe(slot_s=2.4, noise_gain=(0.1, 0.1))
_SWEPT_S = 360.0
_MEASURED_S = 960.0
_SPEECH_S = 1800
_SEED = 5


class TestRecording(NamedTuple):
    """Words with their truth, and running speech in which every detection counts as false; int16 [T] both."""

    stream: Int16
    words: list[Word]
    speech: Int16


class Result(NamedTuple):
    """Detections of one of both in a recording, and the CPU seconds for each second of it."""

    in_stream: list[Detection]
    in_speech: list[Detection]
    cost: float


def spot_speechrnn(recognizer: Recognizer, samples: Int16) -> Iterator[Detection]:
    """Detections in samples [T] at the options of the model."""
    spotter = KeywordSpotter(recognizer)
    for at in range(0, len(samples), _BLOCK):
        yield from spotter.push(from_int16(samples[at : at + _BLOCK]))
    yield from spotter.finish()


def make_decoder(thresholds: dict[str, float]) -> Any:
    """A PocketSphinx decoder that spots keywords, each with its own threshold."""
    from pocketsphinx import Decoder

    with tempfile.NamedTemporaryFile("w", suffix=".kws") as file:
        file.writelines(f"{word} /{threshold:g}/\n" for word, threshold in thresholds.items())
        file.flush()
        return Decoder(kws=file.name, lm=None, samprate=TRAINING_RATE_HZ, loglevel="FATAL")


def spot_pocketsphinx(decoder: Any, samples: Int16) -> Iterator[Detection]:
    """Detections in samples [T]; the search starts anew after each, or it would report it again and again."""
    start_s = 0.0
    decoder.start_utt()
    for at in range(0, len(samples), _BLOCK):
        decoder.process_raw(samples[at : at + _BLOCK].tobytes())
        if decoder.hyp() is None:
            continue
        best = max(decoder.seg(), key=lambda segment: segment.prob)
        now_s = min(at + _BLOCK, len(samples)) / TRAINING_RATE_HZ
        frames_s = best.start_frame / 100, best.end_frame / 100
        yield Detection(best.word.strip(), start_s + frames_s[0], start_s + frames_s[1], best.prob, now_s)
        decoder.end_utt()
        decoder.start_utt()
        start_s = now_s
    decoder.end_utt()


def run(spot: Callable[[Int16], Iterable[Detection]], recording: TestRecording) -> Result:
    """Run one of both on a recording."""
    start_s = time.process_time()
    found = list(spot(recording.stream)), list(spot(recording.speech))
    duration_s = (len(recording.stream) + len(recording.speech)) / TRAINING_RATE_HZ
    return Result(*found, (time.process_time() - start_s) / duration_s)


def score_parts(result: Result, recording: TestRecording, keywords: tuple[str, ...]) -> list[Score]:
    """The scores of the stream and of the running speech, in which every detection is a false alarm."""
    stream, words, speech = recording
    parts = [(stream, result.in_stream, words), (speech, result.in_speech, [])]
    return [
        score([ScoredRecording("", len(samples) / TRAINING_RATE_HZ, found, truth)], keywords)
        for samples, found, truth in parts
    ]


def f1_scores(result: Result, recording: TestRecording, keywords: tuple[str, ...]) -> dict[str, float]:
    """F1 of each keyword: wrong words and false alarms, those in speech included, lower its precision."""
    in_stream, in_speech = (part.per_keyword for part in score_parts(result, recording, keywords))
    found = {}
    for word, one in in_stream.items():
        n_detected = one.n_hits + one.n_wrong + one.n_false_alarms + in_speech[word].n_false_alarms
        found[word] = 2 * one.n_hits / max(1, n_detected + one.n_spoken)
    return found


def choose_thresholds(recording: TestRecording, keywords: tuple[str, ...]) -> dict[str, float]:
    """The threshold of the highest F1 for each keyword."""
    scores = {}
    for threshold in _THRESHOLDS:
        decoder = make_decoder(dict.fromkeys(keywords, threshold))
        scores[threshold] = f1_scores(run(partial(spot_pocketsphinx, decoder), recording), recording, keywords)
        print(f"all thresholds {threshold:g}: mean F1 {np.mean(list(scores[threshold].values())):.3f}", flush=True)
    return {word: max(_THRESHOLDS, key=lambda threshold: scores[threshold][word]) for word in keywords}


def make_recordings(pack: Pack, keywords: tuple[str, ...]) -> tuple[TestRecording, TestRecording]:
    """One to choose thresholds on, and one to measure on: of different clips."""
    clips, speech = validation_clips(pack), speech_clips(pack)
    others = [clip for number, clip in enumerate(speech) if number % 4]

    def record(clips: list[Clip], duration_s: float, speech: list[Clip]) -> TestRecording:
        recipe = _RECIPE._replace(duration_s=duration_s)
        stream, words = make_stream(of_pack(pack, keywords, clips), recipe, _SEED)
        return TestRecording(to_int16(stream), words, _end_to_end(pack, speech))

    return record(clips[::2], _SWEPT_S, speech[::4]), record(clips[1::2], _MEASURED_S, others)


def speech_clips(pack: Pack) -> list[Clip]:
    """About half an hour of the running speech of the training data, drawn evenly; none if there is none."""
    clips = recordings_of(pack, "training")
    n_samples = sum(clip.n_samples for clip in clips)
    return clips[:: max(1, n_samples // (_SPEECH_S * TRAINING_RATE_HZ))]


def _end_to_end(pack: Pack, clips: list[Clip]) -> Int16:
    return np.concatenate([np.zeros(0, dtype=np.int16), *map(pack.samples_of, clips)])


def row(name: str, result: Result, recording: TestRecording, keywords: tuple[str, ...]) -> tuple[str, ...]:
    """A row of the comparison."""
    stream, speech = score_parts(result, recording, keywords)
    return (
        name,
        percent(result.cost),
        percent(stream.hit_rate),
        percent(stream.wrong_rate + stream.false_alarm_rate),
        number(speech.false_alarms_per_hour, ".0f"),
        number(stream.delay_p50_ms, ".0f"),
        number(stream.delay_p95_ms, ".0f"),
    )


def main() -> None:
    """Choose the thresholds, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    if importlib.util.find_spec("pocketsphinx") is None:
        parser.exit(2, "PocketSphinx is not installed; run: pip install pocketsphinx\n")
    recognizer, pack = open_inputs(parse_inputs(parser))
    swept, recording = make_recordings(pack, recognizer.info.spec.labels.keywords)
    for name, (stream, words, speech) in {"sweep": swept, "comparison": recording}.items():
        minutes = [len(part) / TRAINING_RATE_HZ / 60 for part in (stream, speech)]
        print(f"{name}: {len(words)} words in {minutes[0]:.0f} min, {minutes[1]:.0f} min of running speech", flush=True)
    keywords = recognizer.info.spec.labels.keywords
    thresholds = choose_thresholds(swept, keywords)
    print("thresholds: " + ", ".join(f"{word} {threshold:g}" for word, threshold in thresholds.items()), end="\n\n")
    spotters = {
        "speechrnn": partial(spot_speechrnn, recognizer),
        "PocketSphinx": partial(spot_pocketsphinx, make_decoder(thresholds)),
    }
    rows = [row(name, run(spot, recording), recording, keywords) for name, spot in spotters.items()]
    head = ("", "of a core", "found", "wrong or false", "false alarms/h, speech", "delay p50 ms", "delay p95 ms")
    print("\n".join(Table(head, "<>>>>>>", rows).to_markdown()))


if __name__ == "__main__":
    run_program(main)
