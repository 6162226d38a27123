"""Keywords as they happen: from a source of audio to detections."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Self

import numpy as np

from speechrnn.audio import Samples
from speechrnn.detector import Detection
from speechrnn.recognizer import Recognizer, load
from speechrnn.sources import AudioSource, open_source
from speechrnn.spec import Options
from speechrnn.spotter import KeywordSpotter, Step

_PATIENCE_S = 5.0


def spot(blocks: Iterable[Samples], spotter: KeywordSpotter) -> Iterator[Step]:
    """Yield what becomes of each block [T] at the model's rate; last, an empty one with the detections of the end."""
    for block in blocks:
        yield spotter.step(block)
    yield end(spotter)


def end(spotter: KeywordSpotter) -> Step:
    """End a stream: an empty block with the detections that the end completes."""
    position_s = spotter.position_s
    return Step(np.zeros(0, dtype=np.float32), None, spotter.finish(), position_s)


def listen(
    source: AudioSource | None = None, *, model: str | Path | Recognizer = "commands8", options: Options | None = None
) -> Iterator[Detection]:
    """Yield each keyword as soon as it is decided; the default microphone if no source is given.

    Ends with the source, whose last word is found too; closes it in any case. Raises DeviceError if the microphone
    cannot be used, ModelFileError if the model cannot.
    """
    recognizer = model if isinstance(model, Recognizer) else load(model)
    spotter = KeywordSpotter(recognizer, options)
    with closing(open_source(source)) as opened:
        for step in spot(opened.blocks(spotter.sample_rate_hz), spotter):
            yield from step.detections


class BackgroundListener:
    """Listens in a thread of its own and calls a function with each keyword; `stop` ends it, as does `with`.

    The thread alone reads the source and closes it. An exception of the function or of the source ends the listening
    and is raised again by `stop` or `wait`. Raises DeviceError if there is no microphone, ModelFileError if the model
    cannot be loaded, ConfigError for options that do not fit it.
    """

    def __init__(
        self,
        on_detection: Callable[[Detection], None],
        source: AudioSource | None = None,
        *,
        model: str | Path | Recognizer = "commands8",
        options: Options | None = None,
    ) -> None:
        recognizer = model if isinstance(model, Recognizer) else load(model)
        self._spotter = KeywordSpotter(recognizer, options)
        self._source = open_source(source)
        self._on_detection = on_detection
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="speechrnn", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with closing(self._source):
                for step in spot(self._blocks(), self._spotter):
                    for detection in step.detections:
                        if self._stopping.is_set():
                            return
                        self._on_detection(detection)
        except BaseException as error:
            self._error = error

    def _blocks(self) -> Iterator[Samples]:
        for block in self._source.blocks(self._spotter.sample_rate_hz):
            if self._stopping.is_set():
                return
            yield block

    def wait(self) -> None:
        """Wait for the end of the source, and raise what ended it, if anything did."""
        self._thread.join()
        self._raise()

    def stop(self) -> None:
        """Stop listening: no keyword is reported from now on. May be called from the function, and more than once.

        Waits until the source is closed, except in the function itself, and raises what ended the listening, if
        anything did. A source that gives no block, such as a pipe into which nothing is written, cannot be interrupted:
        after five seconds it is left to its thread, which closes it with the next block and keeps no program alive.
        """
        self._stopping.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_PATIENCE_S)
            self._raise()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()
