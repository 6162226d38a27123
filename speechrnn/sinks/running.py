"""What takes the blocks of a stream with their detections, and the loop that gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol

from speechrnn.audio import Samples
from speechrnn.listening import end, spot
from speechrnn.sources import AudioSource
from speechrnn.spotter import KeywordSpotter, Step


class Sink(Protocol):
    """Something that takes what became of every block."""

    def write(self, step: Step) -> None:
        """Take the next block, its posteriors and detections."""
        ...

    def close(self) -> None:
        """Finish; called once, also after an error."""
        ...


def run(
    source: AudioSource,
    spotter: KeywordSpotter,
    sinks: Sequence[Sink],
    duration_s: float | None = None,
    *,
    by_steps: bool = False,
) -> None:
    """Spot keywords in a source until it ends, `duration_s` have passed, or Ctrl-C; then finish all sinks.

    With `by_steps` no block is longer than a step, so that sinks get the posteriors of every step.
    """
    n_samples = spotter.options.step_ms * spotter.sample_rate_hz // 1000 if by_steps else None
    with ExitStack() as stack:
        for sink in sinks:
            stack.callback(sink.close)
        stack.callback(source.close)
        try:
            blocks = _limited(source, spotter.sample_rate_hz, duration_s)
            for step in spot(blocks if n_samples is None else _cut(blocks, n_samples), spotter):
                _give(sinks, step)
        except KeyboardInterrupt:
            _give(sinks, end(spotter))


def _give(sinks: Sequence[Sink], step: Step) -> None:
    for sink in sinks:
        sink.write(step)


def _limited(source: AudioSource, rate_hz: int, duration_s: float | None) -> Iterator[Samples]:
    left = None if duration_s is None else round(duration_s * rate_hz)
    for block in source.blocks(rate_hz):
        yield block[:left]
        if left is not None:
            left -= len(block)
            if left <= 0:
                return


def _cut(blocks: Iterator[Samples], n_samples: int) -> Iterator[Samples]:
    """Blocks of at most so many samples; an empty one stays."""
    for block in blocks:
        for start in range(0, max(1, len(block)), n_samples):
            yield block[start : start + n_samples]
