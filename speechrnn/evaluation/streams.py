"""Detections matched with the ground truth: hits, misses, wrong words, false alarms.

A rule decides whether a detection is a hit, a wrong word, a false alarm or not counted. `RULES` has them all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechrnn.audio import Samples
from speechrnn.detector import Detection, Detector
from speechrnn.evaluation.ground_truth import GroundTruth, Word, count_words, with_model_spelling
from speechrnn.evaluation.metrics import ratio
from speechrnn.evaluation.tables import Table, number, percent
from speechrnn.labels import Labels
from speechrnn.recognizer import Recognizer, cached
from speechrnn.spec import Options
from speechrnn.spotter import KeywordSpotter, posteriors

EARLY_S = 0.1
LATE_S = 1.0
TOLERANCE_S = 0.75
BURST_S = 1.0
THRESHOLDS = tuple(float(level) for level in np.round(1 / (1 + np.exp(-np.linspace(-3, 7, 61))), 5))
"""Those of a curve: from 0.05 to 0.999, closer together at both ends, where posteriors are."""

VerdictKind = Literal["hit", "wrong", "false alarm", "not counted"]


class Verdict(NamedTuple):
    """What a detection counts as."""

    kind: VerdictKind
    """What the detection counts as."""
    word: Word | None = None
    """The word that was spoken there; None if none was, or it is not known."""


Judge = Callable[[Sequence[Detection], Sequence[Word], Sequence[str]], list[Verdict]]


class Rule(NamedTuple):
    """How detections are matched with words, given the model's keywords."""

    judge: Judge
    """Gives the verdicts, for detections and words in order of time."""
    statement: str
    """The rule in words."""


def _decision_s(detection: Detection) -> float:
    """When a detection was decided or, where that is not known, its end, which is not long before."""
    return detection.end_s if math.isnan(detection.decided_s) else detection.decided_s


def judge_default(found: Sequence[Detection], words: Sequence[Word], keywords: Sequence[str]) -> list[Verdict]:
    """By the time of the decision, each word found once; see `RULES`."""
    taken: set[int] = set()
    verdicts = []
    for detection in found:
        at_s = _decision_s(detection)
        near = [i for i, word in enumerate(words) if word.start_s - EARLY_S <= at_s <= word.end_s + LATE_S]
        right = [i for i in near if words[i].label == detection.label and i not in taken]
        wrong = [i for i in near if words[i].label != detection.label and words[i].label in keywords]
        if right:
            taken.add(right[0])
            verdicts.append(Verdict("hit", words[right[0]]))
        elif wrong:
            verdicts.append(Verdict("wrong", words[wrong[0]]))
        else:
            verdicts.append(Verdict("false alarm", words[near[0]] if near else None))
    return verdicts


def judge_tensorflow(found: Sequence[Detection], words: Sequence[Word], keywords: Sequence[str]) -> list[Verdict]:
    """By the starts alone, each detection against the first word in tolerance; see `RULES`."""
    taken: set[int] = set()
    verdicts = []
    for detection in found:
        near = [i for i, word in enumerate(words) if abs(word.start_s - detection.start_s) <= TOLERANCE_S]
        if not near:
            verdicts.append(Verdict("false alarm"))
            continue
        is_right = words[near[0]].label == detection.label and near[0] not in taken
        taken.add(near[0])
        verdicts.append(Verdict("hit" if is_right else "wrong", words[near[0]]))
    return verdicts


def judge_mlperf(found: Sequence[Detection], words: Sequence[Word], keywords: Sequence[str]) -> list[Verdict]:
    """A word's own detections are one hit, false positives close together are one; see `RULES`."""
    taken: set[int] = set()
    counted_s = -math.inf
    verdicts = []
    for detection in found:
        at_s = _decision_s(detection)
        near = [i for i, word in enumerate(words) if word.start_s <= at_s <= word.end_s + LATE_S]
        own = [i for i in near if words[i].label == detection.label]
        new = [i for i in own if i not in taken]
        if own:
            taken |= set(new[:1])
            verdicts.append(Verdict("hit" if new else "not counted", words[(new or own)[0]]))
        elif at_s - counted_s < BURST_S:
            verdicts.append(Verdict("not counted", words[near[0]] if near else None))
        else:
            counted_s = at_s
            verdicts.append(Verdict("false alarm", words[near[0]] if near else None))
    return verdicts


RULES = {
    "default": Rule(
        judge_default,
        "a hit is decided from 100 ms before the start of its word to 1 s after its end, each word once; a wrong word "
        "is decided where another keyword was spoken; every other detection is a false alarm",
    ),
    "tensorflow": Rule(
        judge_tensorflow,
        "TensorFlow's streaming accuracy: a detection is matched with the first word that starts within 750 ms of its "
        "start; it is a hit if it is that word, detected for the first time, else wrong, as where the word is no "
        "keyword; without such a word it is a false positive; rates are per spoken keyword, for unknown words are not "
        "reported",
    ),
    "mlperf": Rule(
        judge_mlperf,
        "MLPerf Tiny's streaming rule: a hit is decided from the start of its word to 1 s after its end, and further "
        "detections of that word there do not count; every other detection is a false positive, those less than 1 s "
        "after one that counted count with it",
    ),
}
TRANSCRIPT = (
    "in recordings with a transcript, which has no times, a keyword is found as often as it is detected, at most as "
    "often as it was spoken there; further detections are false alarms"
)


def judge_transcript(found: Sequence[Detection], spoken: Counter[str]) -> list[Verdict]:
    """A transcript has no times: a keyword's first detections, as many as it was spoken, are hits, others are not."""
    n_detected: Counter[str] = Counter()
    verdicts = []
    for detection in found:
        n_detected[detection.label] += 1
        verdicts.append(Verdict("hit" if n_detected[detection.label] <= spoken[detection.label] else "false alarm"))
    return verdicts


class ScoredRecording(NamedTuple):
    """A recording with its detections and its ground truth."""

    audio: str
    """Its name."""
    duration_s: float
    """Its length in s."""
    found: Sequence[Detection]
    """The detections."""
    truth: GroundTruth
    """What was spoken."""


class KeywordScore(msgspec.Struct, frozen=True):
    """Counts of one keyword."""

    n_spoken: int
    """How often it was spoken."""
    n_hits: int
    """Detections that are hits."""
    n_wrong: int
    """Detections where another keyword was spoken."""
    n_false_alarms: int
    """Detections where no keyword was spoken."""


class Alarm(msgspec.Struct, frozen=True):
    """A detection that is no hit."""

    audio: str
    """The recording."""
    label: str
    """The keyword that was detected."""
    decided_s: float
    """Time of the decision in s; NaN, in JSON null, if not known."""
    score: float
    """Score of the detection in (0, 1]."""
    kind: VerdictKind
    """A wrong word or a false alarm."""
    spoken: str
    """The word that was spoken there; empty if none is known."""


class Score(msgspec.Struct, frozen=True):
    """Detections matched with the ground truth. Rates and delays of nothing are NaN, in JSON null."""

    rule: str
    """Name of the rule."""
    statement: str
    """The rule in words."""
    n_recordings: int
    """Recordings."""
    hours: float
    """Their length in hours."""
    n_spoken: int
    """Keywords that were spoken."""
    n_hits: int
    """Keywords that were detected."""
    n_misses: int
    """Keywords that were not."""
    n_wrong: int
    """Detections where another keyword was spoken."""
    n_false_alarms: int
    """Detections where no keyword was spoken."""
    hit_rate: float
    """Hits per spoken keyword."""
    miss_rate: float
    """Misses per spoken keyword."""
    match_rate: float
    """Fraction of the spoken keywords at which any keyword, right or wrong, was detected."""
    wrong_rate: float
    """Wrong words per spoken keyword."""
    false_alarm_rate: float
    """False alarms per spoken keyword."""
    false_alarms_per_hour: float
    """False alarms per hour of audio."""
    delay_p50_ms: float
    """Median time in ms from the end of a word to its decision, of the hits where both are known."""
    delay_p95_ms: float
    """Its 95 % percentile."""
    end_error_p50_ms: float
    """Median time in ms from the end of a word to the end that its detection reports, of hits on words with times."""
    per_keyword: dict[str, KeywordScore]
    """Counts by keyword."""
    alarms: list[Alarm]
    """All wrong words and false alarms."""


def judge(recording: ScoredRecording, keywords: Sequence[str], rule: str) -> list[Verdict]:
    """A verdict for each detection of a recording."""
    if isinstance(recording.truth, Counter):
        return judge_transcript(recording.found, recording.truth)
    return RULES[rule].judge(recording.found, recording.truth, keywords)


def score(recordings: Iterable[ScoredRecording], keywords: Sequence[str], rule: str = "default") -> Score:
    """Count over recordings; of those with transcripts, the rule is another (`TRANSCRIPT`)."""
    recordings = [r._replace(truth=with_model_spelling(r.truth, keywords)) for r in recordings]
    judged = [(r, f, v) for r in recordings for f, v in zip(r.found, judge(r, keywords, rule), strict=True)]
    counts: Counter[tuple[str, VerdictKind]] = Counter((found.label, verdict.kind) for _, found, verdict in judged)
    spoken = sum((count_words(r.truth) for r in recordings), Counter[str]())
    per_keyword = {
        word: KeywordScore(spoken[word], counts[word, "hit"], counts[word, "wrong"], counts[word, "false alarm"])
        for word in keywords
    }
    n_spoken = sum(one.n_spoken for one in per_keyword.values())
    n_hits = sum(one.n_hits for one in per_keyword.values())
    n_wrong = sum(one.n_wrong for one in per_keyword.values())
    n_false_alarms = sum(one.n_false_alarms for one in per_keyword.values())
    hits = [(found, v.word) for _, found, v in judged if v.kind == "hit"]
    at_words = {(r.audio, v.word) for r, _, v in judged if v.word and v.kind in ("hit", "wrong")}
    n_matched = sum(word.label in keywords for _, word in at_words) + sum(word is None for _, word in hits)
    delays_s = np.array([found.decided_s - word.end_s for found, word in hits if word is not None])
    delays_s = delays_s[~np.isnan(delays_s)]
    end_errors_s = np.array([found.end_s - word.end_s for found, word in hits if word is not None])
    hours = sum(r.duration_s for r in recordings) / 3600
    timed = any(not isinstance(r.truth, Counter) for r in recordings)
    untimed = any(isinstance(r.truth, Counter) for r in recordings)
    return Score(
        rule=rule,
        statement="; ".join([RULES[rule].statement] * timed + [TRANSCRIPT] * untimed),
        n_recordings=len(recordings),
        hours=hours,
        n_spoken=n_spoken,
        n_hits=n_hits,
        n_misses=n_spoken - n_hits,
        n_wrong=n_wrong,
        n_false_alarms=n_false_alarms,
        hit_rate=float(ratio(n_hits, n_spoken)),
        miss_rate=float(ratio(n_spoken - n_hits, n_spoken)),
        match_rate=float(ratio(n_matched, n_spoken)),
        wrong_rate=float(ratio(n_wrong, n_spoken)),
        false_alarm_rate=float(ratio(n_false_alarms, n_spoken)),
        false_alarms_per_hour=float(ratio(n_false_alarms, hours)),
        delay_p50_ms=percentile_ms(delays_s, 50),
        delay_p95_ms=percentile_ms(delays_s, 95),
        end_error_p50_ms=percentile_ms(end_errors_s, 50),
        per_keyword=per_keyword,
        alarms=[
            Alarm(r.audio, f.label, f.decided_s, f.score, v.kind, v.word.label if v.word else "")
            for r, f, v in judged
            if v.kind in ("wrong", "false alarm")
        ],
    )


def percentile_ms(times_s: NDArray[np.float64], percentile: float) -> float:
    """A percentile of times, in ms; NaN if there is none."""
    return float(1000 * np.percentile(times_s, percentile)) if len(times_s) else math.nan


class CurvePoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Error rates at one threshold, or at one operating point."""

    threshold: float
    """Threshold of all keywords that have none of their own."""
    miss_rate: float
    """Misses per spoken keyword."""
    wrong_rate: float
    """Wrong words per spoken keyword."""
    false_alarms_per_hour: float
    """False alarms per hour of audio."""
    thresholds: dict[str, float] = {}
    """Those of the keywords that have their own."""


class StreamCurve(msgspec.Struct, frozen=True):
    """Misses against false alarms: of the plain detector at common thresholds, and of the spotter at named points.

    The detector decides on posteriors of the audio as it is; the spotter silences a detected keyword in later contexts,
    so it may lie off the curve. What it gives is exact.
    """

    rule: str
    """Name of the rule."""
    detector: list[CurvePoint]
    """Points of the plain detector, at rising common thresholds."""
    spotter: dict[str, CurvePoint]
    """Points of the spotter, by name."""


class StreamResult(NamedTuple):
    """A recording with its ground truth, and what several options detect in it."""

    audio: str
    """Its name."""
    duration_s: float
    """Its length in s."""
    truth: GroundTruth
    """What was spoken."""
    found: Mapping[str, Sequence[Detection]]
    """Detections by the name of the options."""
    posteriors: NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)
    """Posteriors [n, C] of the audio as it is, a row for each step."""

    def scored(self, name: str) -> ScoredRecording:
        """What one of the options found."""
        return ScoredRecording(self.audio, self.duration_s, self.found[name], self.truth)


class SpotResult(NamedTuple):
    """What several options detect in one recording."""

    found: dict[str, list[Detection]]
    """Detections by the name of the options."""
    duration_s: float
    """Length of the recording in s."""
    posteriors: NDArray[np.float32]
    """Posteriors [n, C] of the audio as it is, a row for each step, to the end of the silence that follows it."""


def spot_all(blocks: Iterable[Samples], recognizer: Recognizer, choices: Mapping[str, Options]) -> SpotResult:
    """What the spotter finds in blocks [T] with each of several options of the same step, in one pass."""
    remembered = cached(recognizer)
    spotters = {name: KeywordSpotter(remembered, options) for name, options in choices.items()}
    found: dict[str, list[Detection]] = {name: [] for name in choices}
    n_samples = 0

    def spotted() -> Iterator[Samples]:
        nonlocal n_samples
        for block in blocks:
            n_samples += len(block)
            for name, spotter in spotters.items():
                found[name] += spotter.push(block)
            yield block
        yield np.zeros(recognizer.info.spec.context_samples, dtype=np.float32)

    rows = list(posteriors(remembered, spotted(), step_ms=next(iter(choices.values())).step_ms))
    for name, spotter in spotters.items():
        found[name] += spotter.finish()
    shape = (-1, len(recognizer.labels))
    return SpotResult(
        found, n_samples / recognizer.info.spec.sample_rate_hz, np.array(rows, dtype=np.float32).reshape(shape)
    )


def spot_with_truth(
    recognizer: Recognizer,
    blocks: Iterable[Samples],
    truth: GroundTruth,
    choices: Mapping[str, Options],
    audio: str = "",
) -> StreamResult:
    """What each of these options finds in a recording, given in blocks [T], beside what is spoken in it."""
    found, duration_s, posteriors = spot_all(blocks, recognizer, choices)
    return StreamResult(audio, duration_s, truth, found, posteriors)


def build_curve(
    recordings: Sequence[StreamResult], labels: Labels, choices: Mapping[str, Options], rule: str
) -> StreamCurve:
    """The curve of the plain detector, otherwise with the first of these options, and the points of the spotter."""
    swept = sweep_thresholds(recordings, labels, next(iter(choices.values())), rule)
    scores = {name: score([one.scored(name) for one in recordings], labels.keywords, rule) for name in choices}
    return StreamCurve(
        rule,
        [curve_point(Options(threshold=level), one, one) for level, one in zip(THRESHOLDS, swept, strict=True)],
        {name: curve_point(choices[name], one, one) for name, one in scores.items()},
    )


def sweep_thresholds(
    recordings: Sequence[StreamResult],
    labels: Labels,
    options: Options,
    rule: str,
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[Score]:
    """The score of the plain detector with each of these thresholds for all keywords, over stored posteriors."""
    return [
        score_detector(recordings, labels, msgspec.structs.replace(options, threshold=threshold, thresholds={}), rule)
        for threshold in thresholds
    ]


def score_detector(
    recordings: Sequence[StreamResult], labels: Labels, options: Options, rule: str = "default"
) -> Score:
    """The score of the plain detector with these options, over stored posteriors."""
    detector = Detector(labels, options)
    scored = []
    for recording in recordings:
        detector.reset()
        found = detector.push(recording.posteriors)
        scored.append(ScoredRecording(recording.audio, recording.duration_s, found, recording.truth))
    return score(scored, labels.keywords, rule)


def curve_point(options: Options, in_words: Score, in_speech: Score) -> CurvePoint:
    """What options cost in misses and wrong words, and in false alarms, which may be counted where no word is said."""
    return CurvePoint(
        options.threshold,
        in_words.miss_rate,
        in_words.wrong_rate,
        in_speech.false_alarms_per_hour,
        options.thresholds,
    )


def to_table(result: Score) -> str:
    """A score as text: the counts, each keyword, and how it was counted."""
    lines = [
        f"{result.n_recordings} recordings, {60 * result.hours:.1f} minutes, {result.n_spoken} keywords spoken",
        f"found {result.n_hits} ({percent(result.hit_rate)}), missed {result.n_misses} "
        f"({percent(result.miss_rate)}), wrong words {result.n_wrong} ({percent(result.wrong_rate)})",
        f"false alarms {result.n_false_alarms}, {number(result.false_alarms_per_hour, '.1f')} per hour "
        f"({percent(result.false_alarm_rate)} of the keywords)",
        f"matched, right or wrong: {percent(result.match_rate)}",
        f"delay from the end of the word: p50 {number(result.delay_p50_ms, '.0f')} ms, "
        f"p95 {number(result.delay_p95_ms, '.0f')} ms",
        "",
        *_by_keyword(result).to_lines(),
    ]
    sources = Counter((alarm.spoken or "no known word", alarm.label) for alarm in result.alarms).most_common(10)
    if sources:
        taken = ", ".join(f"{spoken} for {label} ({n})" for (spoken, label), n in sources)
        lines += ["", f"taken for keywords: {taken}"]
    return "\n".join([*lines, "", f"Rule {result.rule}: {result.statement}.", ""])


def _by_keyword(result: Score) -> Table:
    rows = [
        (word, *map(str, (one.n_spoken, one.n_hits, one.n_spoken - one.n_hits, one.n_wrong, one.n_false_alarms)))
        for word, one in result.per_keyword.items()
    ]
    return Table(("keyword", "spoken", "found", "missed", "wrong", "false"), "<>>>>>", rows)
