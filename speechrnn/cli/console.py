"""What programs on a terminal share: running with errors in one line, notes, progress, and options of several verbs."""

from __future__ import annotations

import codecs
import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

from speechrnn.errors import (
    AudioError,
    ConfigError,
    DamagedAudioError,
    SpeechRnnError,
    first_line,
    missing_extra,
    results_of,
)
from speechrnn.files import printable
from speechrnn.spec import DEFAULT_MODEL

if TYPE_CHECKING:
    from speechrnn.config import Experiment
    from speechrnn.data.clips import Pack
    from speechrnn.recognizer import Recognizer
    from speechrnn.spec import Options
    from speechrnn.training.loop import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")
PATH = click.Path(path_type=Path)
_NOTE_EVERY_S = 30.0

model_option = click.option(
    "--model",
    metavar="NAME|FILE",
    default=DEFAULT_MODEL,
    show_default=True,
    help="Name of a shipped model, a model file or folder, or OWNER/NAME on the Hub.",
)
operating_point_option = click.option(
    "--operating-point",
    metavar="NAME",
    show_default="the model's own thresholds",
    help="Decide as at the model's operating point strict, balanced or sensitive; speechrnn describe shows them.",
)
threshold_option = click.option(
    "--threshold",
    multiple=True,
    metavar="[WORD=]NUMBER",
    show_default="the model's",
    help="Score, above 0 and at most 1, at which all keywords or this one are detected; repeatable.",
)
in_speech_option = click.option(
    "--in-speech", is_flag=True, help="Detect keywords within speech, too, where the model wants them said alone."
)
overrides_option = click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a setting of CONFIG; repeatable."
)
data_option = click.option(
    "--data", metavar="FOLDER", show_default="data.dir of CONFIG", help="Folder that the paths in [data] start from."
)
device_option = click.option(
    "--device",
    metavar="NAME|NUMBER",
    show_default="the system's",
    help="Microphone, by its number or a part of its name; speechrnn devices lists them.",
)


def chosen_device(device: str | None) -> str | int | None:
    """The microphone that --device names: a number, or a part of a name."""
    return int(device) if device is not None and device.isdigit() else device


def name_of(model: str) -> str:
    """What a model is called that was asked for so: without the folders before it, and the suffix of a file."""
    return Path(model).name.removesuffix(".onnx").removesuffix(".pt")


def prepare_streams() -> None:
    """Make standard streams such that nothing is lost in them, whatever this program was started with.

    A closed one would give its number to the next file that is opened, and what libraries print would go there. One
    that does not block would lose what does not fit at once. A name that the encoding of standard output lacks is
    written with escapes, which in JSON mean what was there.
    """
    closed = [number for number in range(3) if not _is_open(number)]
    for number in closed:
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    for number in range(3):
        with suppress(OSError):
            os.set_blocking(number, True)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
    if sys.stdout is None:
        fail("standard output is closed; send it somewhere, such as > results.txt")
    codecs.register_error("json", _escaped)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="json")


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """The characters that cannot be encoded, as JSON writes them: four hexadecimal digits for each unit of UTF-16."""
    assert isinstance(error, UnicodeEncodeError)
    units = memoryview(error.object[error.start : error.end].encode("utf-16-be", "surrogatepass"))
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)), error.end


def run_program(program: Callable[[], object]) -> None:
    """Run a program. An error that its user can cause is one line on standard error and exit code 2, Ctrl-C 130."""
    try:
        program()
    except SpeechRnnError as error:
        fail(str(error))
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "speechrnn"
        fail(f"{error.format_message()} See: {command} --help")
    except click.exceptions.Exit as error:
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, click.Abort):
        note("interrupted")
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush is quiet, too
        raise SystemExit(1) from None
    except ModuleNotFoundError as error:
        fail(missing_extra(error.name))
    except ImportError as error:
        fail(f"{error.name or 'a module'}: cannot be imported ({first_line(error)}); install it again")
    except OSError as error:
        fail(f"{error.filename or 'output'}: {error.strerror or first_line(error)}")


def fail(message: str) -> NoReturn:
    """End the program with an error of one line and exit code 2."""
    note(f"speechrnn: {message}")
    raise SystemExit(2)


def note(message: str) -> None:
    """Print a line for people on standard error."""
    click.echo(printable(message), err=True)


def track(items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
    """A progress bar on a terminal; the bare items elsewhere."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, total=total, description=what, console=Console(stderr=True), transient=True)


class Batch:
    """Work on many inputs: an error of one is reported, the others are done, and the exit code is 2 in the end."""

    def __init__(self, n_done: int = 0, n_failed: int = 0) -> None:
        self.n_done, self.n_failed, self.n_damaged = n_done, n_failed, 0

    def report(self, error: SpeechRnnError) -> None:
        """Print the error of one input."""
        note(f"speechrnn: {error}")
        self.n_failed += 1

    def report_damage(self, error: DamagedAudioError) -> None:
        """Print what is missing of an input of which the rest is used."""
        note(f"speechrnn: {error}; the rest was used")
        self.n_damaged += 1

    def results(self, items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[Result]:
        """Yield what `work` gives for each item, leaving out those that fail."""
        for result in results_of(items, work, self.report):
            self.n_done += 1
            yield result

    def files(self, audio: Iterable[Path]) -> list[Path]:
        """Audio files that arguments name, of folders all; an argument that names none has failed."""
        from speechrnn.folders import find_audio

        def find(path: Path) -> list[Path]:
            return find_audio(path, unreadable=lambda message: self.report(AudioError(message)))

        return [file for found in results_of(audio, find, self.report) for file in found]

    def end(self) -> None:
        """Exit with 2 if any input failed or was damaged, saying how many failed if there were several."""
        n_inputs = self.n_done + self.n_failed
        if self.n_failed and n_inputs > 1:
            note(f"speechrnn: {self.n_failed} of {n_inputs} inputs failed, the others are done")
        if self.n_failed or self.n_damaged:
            raise SystemExit(2)


def choose_options(
    recognizer: Recognizer,
    thresholds: Sequence[str],
    keywords: str | None = None,
    step_ms: int | None = None,
    *,
    in_speech: bool = False,
) -> Options:
    """The model's options with what was asked for; each threshold is a number for all keywords, or keyword=number.

    Raises ConfigError for what is neither, and for words that are no keywords.
    """
    common, own = None, {}
    for text in thresholds:
        word, value = _threshold(text)
        if word:
            own[word] = value
        else:
            common = value
    only = None if keywords is None else tuple(filter(None, map(str.strip, keywords.split(","))))
    if only == ():
        raise ConfigError(f"--keywords {keywords}: expected words such as {','.join(recognizer.labels[:2])}")
    options = recognizer.info.options.with_choice(
        threshold=common, thresholds=own, keywords=only, step_ms=step_ms, in_speech=in_speech
    )
    options.check_labels(recognizer.info.spec.labels)
    return options


def _threshold(text: str) -> tuple[str, float]:
    word, equals, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if math.isnan(value) or (equals and not word):
        raise ConfigError(f"--threshold {text}: expected a number such as 0.8, or keyword=number")
    if not 0 < value <= 1:
        raise ConfigError(f"--threshold {text}: expected a number above 0 and at most 1")
    return word, value


def pack_audio(experiment: Experiment) -> Pack:
    """The packed audio of an experiment, with progress; clips that cannot be used are counted, their list named."""
    from speechrnn.data import pack as dataset

    keywords = experiment.model.labels.keywords
    pack = dataset.prepare(experiment.data, lambda clips, n: track(clips, n, "preparing"), keywords=keywords)
    report = Path(experiment.data.dir) / experiment.data.packed / dataset.PROBLEMS
    n_changed = sum(bool(clip.note) for clip in pack.clips)
    if n_changed:
        note(f"{n_changed} clips were not whole 16 kHz mono and were resampled, mixed or mended; see {report}")
    if pack.refused:
        note(f"{len(pack.refused)} clips cannot be used; they are listed in {report}")
    return pack


class StatusLine:
    """One line that is rewritten on a terminal, a new line every half minute after `since_s` elsewhere."""

    def __init__(self, since_s: float = -math.inf) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._shown_s = since_s

    def show(self, line: str, *, is_last: bool = False) -> None:
        """Show how far something is; the last line always."""
        if self._on_terminal:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        elif is_last or time.monotonic() - self._shown_s > _NOTE_EVERY_S:
            self._shown_s = time.monotonic()
            note(line)

    def end(self, text: str) -> None:
        """Leave the line of a terminal, with this."""
        if self._on_terminal:
            sys.stderr.write(text)


class ProgressLine(StatusLine):
    """Training progress."""

    def __enter__(self) -> ProgressLine:
        return self

    def __call__(self, progress: Progress) -> None:
        """Show how far training is."""
        left = timedelta(seconds=round(progress.left_s))
        line = (
            f"epoch {progress.epoch}/{progress.n_epochs}  step {progress.step}/{progress.n_steps}  "
            f"loss {progress.loss:.3f}  validation {100 * progress.accuracy:.2f} %  "
            f"{progress.utterances_per_s:.0f} utterances/s  {left} left"
        )
        self.show(line, is_last=progress.step == progress.n_steps)

    def __exit__(self, *error: object) -> None:
        self.end("\n")
