"""Keywords as they happen: from a source to detections, and what to do at each of them."""

from __future__ import annotations

import shlex
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import msgspec
import numpy as np
import soundfile
from numpy.typing import NDArray

from speechrnn.audio import Samples
from speechrnn.detector import Detection
from speechrnn.errors import ConfigError, DeviceError
from speechrnn.formats import to_object
from speechrnn.recognizer import Recognizer, cached, load
from speechrnn.sources import AudioSource, Microphone
from speechrnn.spec import Options
from speechrnn.spotter import KeywordSpotter

_MAX_RUNNING = 8
_PATIENCE_S = 5.0


def spot(blocks: Iterable[Samples], spotter: KeywordSpotter) -> Iterator[tuple[Samples, list[Detection]]]:
    """Each block [T] with the keywords that it completes; last, an empty one with those that the end completes."""
    for block in blocks:
        yield block, spotter.push(block)
    yield np.zeros(0, dtype=np.float32), spotter.finish()


class SpotResult(NamedTuple):
    """What several options find in one recording: detections by their name, its length, and its posteriors [n, C].

    The posteriors are of the audio as it is, one row for each step, to the end of the silence that follows it.
    """

    found: dict[str, list[Detection]]
    duration_s: float
    posteriors: NDArray[np.float32]


def hear(blocks: Iterable[Samples], recognizer: Recognizer, choices: Mapping[str, Options]) -> SpotResult:
    """Hear blocks [T] once with each of several options of the same step, as `spot` would with each of them."""
    remembered = cached(recognizer)
    spotters = {name: KeywordSpotter(remembered, options) for name, options in choices.items()}
    plain = KeywordSpotter(remembered, next(iter(choices.values())))
    found: dict[str, list[Detection]] = {name: [] for name in choices}
    rows = []
    for block in blocks:
        rows.append(plain.posteriors(block))
        for name, spotter in spotters.items():
            found[name] += spotter.push(block)
    duration_s = plain.position_s
    rows.append(plain.posteriors(np.zeros(recognizer.info.spec.context_samples, dtype=np.float32)))
    for name, spotter in spotters.items():
        found[name] += spotter.finish()
    return SpotResult(found, duration_s, np.concatenate(rows))


def listen(
    source: AudioSource | None = None, *, model: str | Path | Recognizer = "commands8", options: Options | None = None
) -> Iterator[Detection]:
    """Yield each keyword as soon as it is decided; the default microphone if no source is given.

    Ends with the source, whose last word is found too; closes it in any case. Raises DeviceError if the microphone
    cannot be used, ModelFileError if the model cannot.
    """
    recognizer = model if isinstance(model, Recognizer) else load(model)
    spotter = KeywordSpotter(recognizer, options)
    with closing(source or Microphone(spotter.sample_rate_hz)) as opened:
        for _, found in spot(opened.blocks(), spotter):
            yield from found


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
        self._source = source or Microphone(self._spotter.sample_rate_hz)
        self._on_detection = on_detection
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="speechrnn", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with closing(self._source):
                for _, found in spot(self._blocks(), self._spotter):
                    for detection in found:
                        if self._stopping.is_set():
                            return
                        self._on_detection(detection)
        except BaseException as error:
            self._error = error

    def _blocks(self) -> Iterator[Samples]:
        for block in self._source.blocks():
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


class Sink(Protocol):
    """Something that takes every block [T] with the detections it gave."""

    def write(self, block: Samples, found: list[Detection]) -> None:
        """Take the next block."""
        ...

    def close(self) -> None:
        """Finish; called once, also after an error."""
        ...


def run(source: AudioSource, spotter: KeywordSpotter, sinks: Sequence[Sink], duration_s: float | None = None) -> None:
    """Spot keywords in a source until it ends, `duration_s` have been heard, or Ctrl-C; then finish all sinks."""
    with ExitStack() as stack:
        for sink in sinks:
            stack.callback(sink.close)
        stack.callback(source.close)
        try:
            for block, found in spot(_limited(source, duration_s), spotter):
                _give(sinks, block, found)
        except KeyboardInterrupt:
            _give(sinks, np.zeros(0, dtype=np.float32), spotter.finish())


def _give(sinks: Sequence[Sink], block: Samples, found: list[Detection]) -> None:
    for sink in sinks:
        sink.write(block, found)


def _limited(source: AudioSource, duration_s: float | None) -> Iterator[Samples]:
    left = None if duration_s is None else round(duration_s * source.sample_rate_hz)
    for block in source.blocks():
        yield block[:left]
        if left is not None:
            left -= len(block)
            if left <= 0:
                return


class Printer:
    """Prints a line for each detection at once: for people, or as a JSON object."""

    def __init__(self, as_json: bool, echo: Callable[[str], None]) -> None:
        self._as_json = as_json
        self._echo = echo

    def write(self, block: Samples, found: list[Detection]) -> None:
        """Print the detections."""
        for detection in found:
            if self._as_json:
                self._echo(msgspec.json.encode(to_object(detection)).decode())
            else:
                self._echo(
                    f"{detection.start_s:8.2f}  {detection.end_s:8.2f}  {detection.label:<10} {detection.score:.2f}"
                )

    def close(self) -> None:
        """Nothing to finish."""


class CommandRunner:
    """Runs a program at each detection without waiting for it and without a shell.

    `{label}`, `{score}`, `{start_s}` and `{end_s}` in the command's words are replaced. A program that cannot be
    started, fails, or hangs is reported; while eight are still running, further ones are skipped.
    Raises ConfigError if the command is empty, unbalanced, or names another field.
    """

    def __init__(self, command: str, report: Callable[[str], None]) -> None:
        try:
            self._words = shlex.split(command)
            self._fill(Detection("word", 0.0, 0.5, 1.0, 0.5))
        except (ValueError, KeyError, IndexError) as error:
            raise ConfigError(
                f"--run {command}: {error}; the fields are {{label}} {{score}} {{start_s}} {{end_s}}"
            ) from None
        if not self._words:
            raise ConfigError("--run: expected a command, got nothing")
        self._report = report
        self._running: list[subprocess.Popen[bytes]] = []

    def _fill(self, found: Detection) -> list[str]:
        fields = {"label": found.label, "score": found.score, "start_s": found.start_s, "end_s": found.end_s}
        return [word.format(**fields) for word in self._words]

    def write(self, block: Samples, found: list[Detection]) -> None:
        """Start the program for each detection, and report those that have failed since."""
        self._check()
        for detection in found:
            self._start(detection)

    def _start(self, found: Detection) -> None:
        if len(self._running) >= _MAX_RUNNING:
            self._report(f"--run: {_MAX_RUNNING} programs are still running; skipped one for {found.label}")
            return
        try:
            process = subprocess.Popen(
                self._fill(found), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            self._report(f"--run: cannot start {self._words[0]} ({error.strerror})")
            return
        self._running.append(process)

    def _check(self) -> None:
        for process in self._running:
            if process.poll():
                self._report(f"--run: {self._words[0]} failed with exit code {process.returncode}")
        self._running = [process for process in self._running if process.returncode is None]

    def close(self, patience_s: float = 1.0) -> None:
        """Give running programs a moment, then end them."""
        for process in self._running:
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                patience_s = 0.0
                process.kill()
                process.wait()
                self._report(f"--run: {self._words[0]} did not end and was stopped")
        self._check()


class Recorder:
    """Keeps what was heard in an audio file, and the detections beside it as an Audacity label track."""

    def __init__(self, path: Path, sample_rate_hz: int) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = soundfile.SoundFile(path, "w", sample_rate_hz, 1)
            self._labels = path.with_suffix(".labels.txt").open("w", encoding="utf-8")
        except OSError as error:
            raise DeviceError(f"{path}: cannot write there ({error.strerror}); give another place") from None
        except (soundfile.LibsndfileError, TypeError, ValueError) as error:
            raise DeviceError(f"{path}: cannot write audio there ({error}); give a name such as heard.wav") from None

    def write(self, block: Samples, found: list[Detection]) -> None:
        """Append a block [T] and the detections it gave."""
        self._file.write(np.clip(block, -1, 1))
        for detection in found:
            self._labels.write(f"{detection.start_s:.6f}\t{detection.end_s:.6f}\t{detection.label}\n")
        self._labels.flush()

    def close(self) -> None:
        """Finish both files."""
        self._file.close()
        self._labels.close()
