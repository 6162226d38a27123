"""What is told after own words were learned: what will be missed, what will be taken for them, and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from speechrnn.evaluation.metrics import poisson_upper_bound
from speechrnn.evaluation.tables import Table
from speechrnn.spec import ModelInfo

CHOSEN = "balanced"
"""The operating point by which the model decides where none is named."""
_SHORT_S, _LONG_S = 0.35, 1.0
_SOME, _GOOD, _MANY = 5, 10, 30
_N_NAMED = 3
_TAKES, _MISSED, _FALSE = "taught {}", "taught {}: missed", "taught {}: false alarms/h"
_ADVICE = "choose a longer word, or one that sounds less like it"


class Point(msgspec.Struct, frozen=True):
    """What a word was measured to give at an operating point."""

    threshold: float
    """Mean posterior at which it is detected."""
    n_missed: int
    """Recordings of it, left out of what was learned from, that were missed."""
    false_alarms_per_hour: float
    """In speech that was not learned from."""
    bound: float
    """The 95 % upper bound of that (Garwood, 1936)."""


class WordReport(msgspec.Struct):
    """What was measured of one own word."""

    word: str
    """The word."""
    n_takes: int
    """Recordings of it."""
    n_speakers: int
    """Speakers that their names tell apart; 0 where they name none."""
    length_s: float
    """Median length of the word in s."""
    points: dict[str, Point]
    """At each operating point."""
    confused: dict[str, float]
    """Other words, and the fraction of their recordings that was taken for this one."""
    taken_for: dict[str, float]
    """Keywords, and the fraction of the recordings of this word that was taken for them."""
    odd: list[str]
    """Files whose word was missed at every threshold: they are not like the others."""

    @property
    def miss_rate(self) -> float:
        """Fraction of the recordings that was missed at the chosen operating point."""
        return self.points[CHOSEN].n_missed / self.n_takes


class TeachReport(msgspec.Struct):
    """What was measured of all own words."""

    words: list[WordReport]
    """Word by word."""
    hours: float
    """Length of the speech in which false alarms were counted."""
    left_out: str
    """What was left out in turn to count misses: recordings, or speakers."""

    def to_lines(self) -> Iterator[str]:
        """The report as text for people."""
        yield from self._table().to_lines()
        yield ""
        yield (
            f"Misses: {self.left_out} left out in turn of what was learned from. "
            f"False alarms: in {self.hours:.1f} hours of speech of others, half of which was learned from in turn."
        )
        for word in self.words:
            yield from _told(word)

    def _table(self) -> Table:
        rows = [
            (
                word.word if name == CHOSEN else "",
                name,
                f"{point.threshold:g}",
                f"{point.n_missed} of {word.n_takes}",
                f"{point.false_alarms_per_hour:.2g}",
                f"{point.bound:.2g}",
            )
            for word in self.words
            for name, point in sorted(word.points.items(), key=lambda item: item[0] != CHOSEN)
        ]
        return Table(
            ("word", "operating point", "threshold", "missed", "false alarms/h", "at most (95 %)"), "<<>>>>", rows
        )


def bound_per_hour(n: float, hours: float) -> float:
    """The 95 % upper bound of a rate, of a number of false alarms that may be a mean."""
    return poisson_upper_bound(math.ceil(n)) / hours if hours else math.inf


def changes(before: ModelInfo, report: TeachReport) -> Iterator[str]:
    """What is other than when these words were taught before, a line for each; a model file tells of that time."""
    for one in report.words:
        n_takes = before.provenance.data.get(_TAKES.format(one.word))
        missed = before.provenance.scores.get(_MISSED.format(one.word))
        false_alarms = before.provenance.scores.get(_FALSE.format(one.word))
        if n_takes is not None and missed is not None and false_alarms is not None:
            yield (
                f"'{one.word}': before {n_takes} recordings, now {one.n_takes}; missed {missed:.0%}, "
                f"now {one.miss_rate:.0%}; false alarms an hour {false_alarms:.2g}, now "
                f"{one.points[CHOSEN].false_alarms_per_hour:.2g}"
            )


def figures(report: TeachReport) -> tuple[dict[str, int], dict[str, float]]:
    """The numbers of recordings, and what was measured at the chosen operating point, as a model file keeps them."""
    missed = {_MISSED.format(one.word): round(one.miss_rate, 4) for one in report.words}
    false_alarms = {_FALSE.format(one.word): one.points[CHOSEN].false_alarms_per_hour for one in report.words}
    return {_TAKES.format(one.word): one.n_takes for one in report.words}, missed | false_alarms


def _told(report: WordReport) -> Iterator[str]:
    """What stands out about a word, and what to do, a line each."""
    word = report.word
    for other, rate in report.confused.items():
        yield f"'{word}': {100 * rate:.0f} % of recordings of '{other}' are taken for it; {_ADVICE}"
    for other, rate in report.taken_for.items():
        yield f"'{word}': {100 * rate:.0f} % of its recordings are taken for '{other}'; {_ADVICE}"
    n_unlike = max(len(report.odd), report.points[CHOSEN].n_missed if report.n_takes >= _SOME else 0)
    if n_unlike and 2 * n_unlike >= report.n_takes:
        yield (
            f"'{word}': its recordings do not sound alike, {n_unlike} of {report.n_takes} are not found "
            "from the others; is it one word, said the same way?"
        )
    elif report.odd:
        named = ", ".join(report.odd[:_N_NAMED])
        yield f"'{word}': {named}: not like the other recordings; listen, and record again what is wrong"
    yield from _on_amount(report)
    if report.length_s < _SHORT_S:
        yield f"'{word}': {report.length_s:.2f} s is short for a word; two syllables or more give fewer false alarms"
    if report.length_s > _LONG_S:
        yield f"'{word}': {report.length_s:.1f} s is long; only what fits into a second is looked at, its end most"


def _on_amount(report: WordReport) -> Iterator[str]:
    n, word = report.n_takes, report.word
    if n < _GOOD:
        yield f"'{word}': {n} recordings are few; {_GOOD} are asked for, and {_MANY} miss about half as many"
    elif n < _MANY and 0.1 < report.miss_rate < 0.9:
        yield f"'{word}': {100 * report.miss_rate:.0f} % missed; {_MANY} recordings in place of {n} miss fewer"
    if report.n_speakers < 2:
        yield f"'{word}': by one speaker as far as names tell; others are missed far more often until they record it"
