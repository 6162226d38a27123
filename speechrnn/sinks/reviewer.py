"""Keeps what fired and what nearly fired, for people to sort: what is right, and what must not be taken for a word."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import soundfile
from numpy.typing import NDArray

from speechrnn.audio import Samples, to_int16
from speechrnn.files import writing
from speechrnn.spotter import KeywordSpotter, Step

FOLDER = "_review_"
"""Where the clips lie until they are sorted."""
_NEAR = 0.5  # of a threshold
_BEFORE_S, _AFTER_S, _MAX_S = 1.2, 0.3, 2.5


class Reviewed(msgspec.Struct, frozen=True):
    """A line of the list beside the clips."""

    file: str
    """Name of the clip."""
    label: str
    """The keyword that was likeliest."""
    fired: bool
    """Whether it was detected."""
    score: float
    """The highest mean posterior of it."""
    at_s: float
    """End of the clip, in s of what was listened to."""
    posteriors: dict[str, float]
    """Mean posteriors of all classes at that moment."""


class _Event(NamedTuple):
    """A stretch in which some keyword is likely."""

    started_s: float
    label: str
    fired: bool
    score: float
    posteriors: NDArray[np.float64]


class Reviewer:
    """Keeps the clips of a stream in which a keyword fired, or came to half of its threshold, in FOLDER/_review_.

    Moved into FOLDER/WORD, or FOLDER/_not_ where it was none, they are learned from by `teach`. Blocks must be no
    longer than a step. Raises OutputError for a place that cannot be written to.
    """

    def __init__(self, folder: Path, spotter: KeywordSpotter) -> None:
        self._folder, self._rate_hz = folder / FOLDER, spotter.sample_rate_hz
        self._labels, options = spotter.recognizer.info.spec.labels, spotter.options
        words = options.keywords or self._labels.keywords
        self._thresholds = np.array(
            [options.threshold_of(word) if word in words else np.inf for word in self._labels.keywords]
        )
        self._last = deque[NDArray[np.float32]](maxlen=max(1, round(options.smoothing_ms / options.step_ms)))
        self._heard = np.zeros(0, dtype=np.float32)
        self._event: _Event | None = None
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._n = sum(1 for _ in self._folder.glob("*.wav"))

    def write(self, step: Step) -> None:
        """Take a block [T] with what became of it; an event that is over becomes a file."""
        n_kept = round((_BEFORE_S + _MAX_S) * self._rate_hz)
        self._heard = np.concatenate([self._heard, step.block])[-n_kept:]
        if step.posteriors is not None:
            self._last.append(step.posteriors)
            self._decide(step)

    def close(self) -> None:
        """Keep the event that the end interrupts, if there is one."""
        if self._event is not None:
            self._keep(self._event, self._event.started_s)

    def _decide(self, step: Step) -> None:
        sums = np.sum(np.stack(self._last), axis=0, dtype=np.float64)
        mean: NDArray[np.float64] = np.asarray(sums / (self._last.maxlen or 1))
        nearness = mean[: len(self._thresholds)] / self._thresholds
        best = int(nearness.argmax())
        is_near = bool(nearness[best] >= _NEAR)
        if step.detections:
            found = step.detections[-1]
            self._begin(_Event(step.position_s, found.label, True, found.score, mean))
        elif is_near:
            self._begin(_Event(step.position_s, self._labels.keywords[best], False, float(mean[best]), mean))
        if self._event is not None:
            lasted_s = step.position_s - self._event.started_s
            if lasted_s > _MAX_S - _AFTER_S or (lasted_s >= _AFTER_S and not is_near):
                self._keep(self._event, step.position_s)

    def _begin(self, event: _Event) -> None:
        """Begin an event, or tell the one that goes on of something likelier."""
        if self._event is None:
            self._event = event
        elif event.fired or (not self._event.fired and event.score > self._event.score):
            self._event = event._replace(started_s=self._event.started_s)

    def _keep(self, event: _Event, position_s: float) -> None:
        self._event = None
        self._n += 1
        kind = "fired" if event.fired else "nearly"
        name = f"{self._n:05d} {event.label.replace('/', '_')} {kind} {event.score:.2f}.wav"
        n = round((_BEFORE_S + position_s - event.started_s) * self._rate_hz)
        line = Reviewed(
            name,
            event.label,
            event.fired,
            round(event.score, 4),
            round(position_s, 2),
            {label: round(float(value), 4) for label, value in zip(self._labels.names, event.posteriors, strict=True)},
        )
        with writing(self._folder):
            _write(self._folder / name, self._heard[-n:], self._rate_hz)
            with (self._folder / "review.jsonl").open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")


def _write(path: Path, samples: Samples, rate_hz: int) -> None:
    soundfile.write(path, to_int16(samples), rate_hz)
