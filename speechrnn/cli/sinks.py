"""What `listen` does at each block: print, run a program, record. Each sink takes every block with its detections."""

from __future__ import annotations

import io
import shlex
import string
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import soundfile
from numpy.typing import NDArray

from speechrnn.audio import Samples, to_int16
from speechrnn.containers import WavWriter
from speechrnn.detector import Detection
from speechrnn.errors import ConfigError, OutputError
from speechrnn.files import writing
from speechrnn.formats import to_object
from speechrnn.listening import end, spot
from speechrnn.sources import AudioSource
from speechrnn.spotter import KeywordSpotter, Step

_MAX_RUNNING = 8
_FIELDS = ("label", "score", "start_s", "end_s")


class Sink(Protocol):
    """Something that takes what became of every block."""

    def write(self, step: Step) -> None:
        """Take the next block, its posteriors and detections."""
        ...

    def close(self) -> None:
        """Finish; called once, also after an error."""
        ...


def run(source: AudioSource, spotter: KeywordSpotter, sinks: Sequence[Sink], duration_s: float | None = None) -> None:
    """Spot keywords in a source until it ends, `duration_s` have passed, or Ctrl-C; then finish all sinks."""
    with ExitStack() as stack:
        for sink in sinks:
            stack.callback(sink.close)
        stack.callback(source.close)
        try:
            for step in spot(_limited(source, spotter.sample_rate_hz, duration_s), spotter):
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


class Printer:
    """Prints a line for each detection at once: for people, or as a JSON object."""

    def __init__(self, as_json: bool, echo: Callable[[str], None]) -> None:
        self._as_json = as_json
        self._echo = echo

    def write(self, step: Step) -> None:
        """Print the detections."""
        for detection in step.detections:
            if self._as_json:
                self._echo(msgspec.json.encode(to_object(detection)).decode())
            else:
                self._echo(
                    f"{detection.start_s:8.2f}  {detection.end_s:8.2f}  {detection.label:<10} {detection.score:.2f}"
                )

    def close(self) -> None:
        """Nothing to finish."""


def _check_fields(text: str) -> None:
    """Raise ValueError for a field that is none of a detection's, or more than the name of one."""
    for _, name, form, conversion in string.Formatter().parse(text):
        if name is not None and (name not in _FIELDS or form or conversion):
            raise ValueError(f"expected a field by its name alone, got {{{name}}}")


class CommandRunner:
    """Runs a program at each detection without waiting for it and without a shell.

    `{label}`, `{score}`, `{start_s}` and `{end_s}` in the command's words are replaced. A program that cannot be
    started, fails, or hangs is reported; while eight are still running, further ones are skipped.
    Raises ConfigError if the command is empty, unbalanced, or names another field.
    """

    def __init__(self, command: str, report: Callable[[str], None]) -> None:
        try:
            self._words = shlex.split(command)
            for word in self._words:
                _check_fields(word)
        except ValueError as error:
            fields = " ".join(f"{{{name}}}" for name in _FIELDS)
            raise ConfigError(f"--run {command}: {error}; the fields are {fields}, a brace is {{{{ or }}}}") from None
        if not self._words:
            raise ConfigError("--run: expected a command, got nothing")
        self._report = report
        self._running: list[subprocess.Popen[bytes]] = []

    def _fill(self, found: Detection) -> list[str]:
        fields = {name: getattr(found, name) for name in _FIELDS}
        return [word.format(**fields) for word in self._words]

    def write(self, step: Step) -> None:
        """Start the program for each detection, and report those that have failed since."""
        self._check()
        for detection in step.detections:
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
    """Keeps what was heard in an audio file, and the detections beside it as an Audacity label track.

    What was written stays whole if the disk is full, or the program is killed; a WAV may be longer than 4 GiB. Raises
    OutputError for a place that cannot be written to, and for names of other kinds than wav, flac, ogg and mp3.
    """

    def __init__(self, path: Path, sample_rate_hz: int) -> None:
        self._path, self._rate_hz, self._n_samples = path, sample_rate_hz, 0
        if path.suffix.lower() not in (".wav", *_ENCODED):
            raise OutputError(f"{path}: cannot write such audio; give a name that ends in .wav, .flac, .ogg or .mp3")
        if "\0" in str(path):
            raise OutputError(f"{path}: cannot write there (a zero byte in its name); give another path")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _open(path, sample_rate_hz)
            self._labels = path.with_suffix(".labels.txt").open("w", encoding="utf-8")

    def write(self, step: Step) -> None:
        """Append a block [T] and the detections it gave."""
        try:
            self._file.write(to_int16(step.block))
            self._n_samples += len(step.block)
            for found in step.detections:
                self._labels.write(f"{found.start_s:.6f}\t{found.end_s:.6f}\t{found.label}\n")
            self._labels.flush()
        except OSError as error:
            kept_s = self._n_samples / self._rate_hz
            raise OutputError(
                f"{self._path}: cannot be written on ({error.strerror}); the first {kept_s:.1f} s are kept"
            ) from None

    def close(self) -> None:
        """Finish both files."""
        with suppress(OSError):  # of a disk that is full, which was said
            self._file.close()
        with suppress(OSError):
            self._labels.close()


_ENCODED = {".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}


def _open(path: Path, sample_rate_hz: int) -> WavWriter | _EncodedWriter:
    if path.suffix.lower() == ".wav":
        return WavWriter(path, sample_rate_hz)
    return _EncodedWriter(path, sample_rate_hz)


class _EncodedWriter:
    """A compressed file through libsndfile, which does not say itself when the disk is full."""

    def __init__(self, path: Path, sample_rate_hz: int) -> None:
        self._raw = _Remembering(path)
        self._file = soundfile.SoundFile(
            self._raw, "w", sample_rate_hz, 1, format=_ENCODED[path.suffix.lower()], closefd=False
        )

    def write(self, samples: NDArray[np.int16]) -> None:
        """Append samples [T]. Raises OSError if the file cannot take them."""
        self._file.write(samples)
        if self._raw.error:
            raise self._raw.error

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
        self._raw.close()


class _Remembering(io.FileIO):
    """A file that keeps its first error, for a caller that cannot take exceptions."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data)
        try:
            while left:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = self.error or error
        return len(data)
