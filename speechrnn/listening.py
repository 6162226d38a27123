"""Keywords as they happen: from a source of audio to detections."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

import numpy as np

from speechrnn.audio import Samples
from speechrnn.detector import Detection
from speechrnn.errors import ConfigError, DamagedAudioError
from speechrnn.recognizer import Recognizer, load
from speechrnn.sources import AudioSource, open_source
from speechrnn.spec import DEFAULT_MODEL, Options
from speechrnn.spotter import KeywordSpotter, Step

_PATIENCE_S = 5.0


def spot(blocks: Iterable[Samples], spotter: KeywordSpotter) -> Iterator[Step]:
    """Yield what becomes of each block [T] at the model's rate; last, an empty one with the detections of the end.

    Where the audio ends with DamagedAudioError, it is raised after the last of them.
    """
    damage = None
    try:
        for block in blocks:
            yield spotter.step(block)
    except DamagedAudioError as error:
        damage = error
    yield end(spotter)
    if damage:
        raise damage


def end(spotter: KeywordSpotter) -> Step:
    """End a stream: an empty block with the detections that the end completes."""
    position_s = spotter.position_s
    return Step(np.zeros(0, dtype=np.float32), None, spotter.finish(), position_s)


def make_spotter(
    model: str | Path | Recognizer,
    operating_point: str | None = None,
    threshold: float | Mapping[str, float] | None = None,
    keywords: Iterable[str] | None = None,
    options: Options | None = None,
) -> KeywordSpotter:
    """A spotter from what `transcribe` and `listen` take. Raises what they raise for it."""
    recognizer = model if isinstance(model, Recognizer) else load(model)
    if options is not None and operating_point is not None:
        raise ConfigError(f"operating_point={operating_point}: expected it or options, got both")
    own = threshold if isinstance(threshold, Mapping) else None
    chosen = (options or recognizer.info.options_at(operating_point)).with_choice(
        threshold=None if isinstance(threshold, Mapping) else threshold, thresholds=own, keywords=keywords
    )
    return KeywordSpotter(recognizer, chosen)


def transcribe(
    source: AudioSource | str | Path,
    *,
    model: str | Path | Recognizer = DEFAULT_MODEL,
    operating_point: str | None = None,
    threshold: float | Mapping[str, float] | None = None,
    keywords: Iterable[str] | None = None,
    options: Options | None = None,
) -> list[Detection]:
    """All keywords of a recording, in order of time: an audio file by its path, or any source, which is closed.

    `model` is the name of a shipped model, a file, or a loaded `Recognizer`; `operating_point` names one that it has.
    `threshold` in (0, 1] is for all keywords or, as a dictionary, for some by their names. Only `keywords` are
    detected, all if not given. `options` replace the model's.

    Raises AudioError for audio that cannot be read, and DamagedAudioError, which is one, if a part of it is missing
    (`listen` yields what there is before that); ModelFileError for a model that cannot be loaded, ConfigError for a
    word that is no keyword of the model, an operating point that it does not have, or a threshold out of range.
    """
    return list(
        listen(
            source,
            model=model,
            operating_point=operating_point,
            threshold=threshold,
            keywords=keywords,
            options=options,
        )
    )


def listen(
    source: AudioSource | str | Path | None = None,
    *,
    model: str | Path | Recognizer = DEFAULT_MODEL,
    operating_point: str | None = None,
    threshold: float | Mapping[str, float] | None = None,
    keywords: Iterable[str] | None = None,
    options: Options | None = None,
) -> Iterator[Detection]:
    """Yield each keyword as soon as it is decided: of the default microphone, of an audio file, or of any source.

    Takes what `transcribe` takes, and "-" for raw 16-bit PCM at 16 kHz on standard input. Ends with the source, whose
    last word is found too; closes it in any case.

    Raises what `transcribe` raises, and DeviceError if the microphone cannot be used, when the first is asked for.
    """
    spotter = make_spotter(model, operating_point, threshold, keywords, options)
    with open_source(source) as opened:
        for step in spot(opened.blocks(spotter.sample_rate_hz), spotter):
            yield from step.detections


class BackgroundListener:
    """Listens in a thread of its own and calls a function with each keyword; `stop` ends it, as does `with`.

    Takes what `listen` takes. The thread alone reads the source and closes it. An exception of the function or of the
    source ends the listening and is raised again by `stop` or `wait`. What `listen` raises for a model, a choice or a
    source that cannot be used is raised at once.
    """

    def __init__(
        self,
        on_detection: Callable[[Detection], None],
        source: AudioSource | str | Path | None = None,
        *,
        model: str | Path | Recognizer = DEFAULT_MODEL,
        operating_point: str | None = None,
        threshold: float | Mapping[str, float] | None = None,
        keywords: Iterable[str] | None = None,
        options: Options | None = None,
    ) -> None:
        self._spotter = make_spotter(model, operating_point, threshold, keywords, options)
        self._source = open_source(source)
        self._on_detection = on_detection
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="speechrnn", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._source:
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
