"""What the verbs share: running a program and reporting its errors, progress, notes, options that several take."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click
import msgspec

from speechrnn.errors import ConfigError, SpeechRnnError

if TYPE_CHECKING:
    from speechrnn.config import Experiment
    from speechrnn.data.clips import Pack
    from speechrnn.recognizer import Recognizer
    from speechrnn.spec import Options
    from speechrnn.training.trainer import Progress

Item = TypeVar("Item")
PATH = click.Path(path_type=Path)
model_option = click.option(
    "--model", default="commands8", show_default=True, help="A shipped model's name, or a model file."
)
operating_point_option = click.option(
    "--operating-point", metavar="NAME", help="Decide as the model's strict, balanced or sensitive; see: describe."
)
threshold_option = click.option(
    "--threshold", multiple=True, metavar="[WORD=]NUMBER", help="Score at which keywords fire; repeatable."
)
overrides_option = click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a setting; repeatable."
)
data_option = click.option("--data", type=click.Path(), help="Folder that the paths in [data] start from.")
device_option = click.option("--device", help="Name or number of the microphone; see: speechrnn devices.")


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
        fail(f"{error.name} is not installed; this needs: pip install 'speechrnn[train]'")
    except OSError as error:
        fail(f"{error.filename or 'output'}: {error.strerror}")


def fail(message: str) -> NoReturn:
    """End the program with an error of one line and exit code 2."""
    note(f"speechrnn: {message}")
    raise SystemExit(2)


def note(message: str) -> None:
    """Print a line for people on standard error."""
    click.echo(shown(message), err=True)


def shown(text: str | Path) -> str:
    """A path, or a text that holds one, with ? for bytes that are not valid in it."""
    return str(text).encode(errors="replace").decode()


def track(items: Iterable[Item], total: int, what: str) -> Iterable[Item]:
    """A progress bar on a terminal; the bare items elsewhere."""
    if not sys.stderr.isatty():
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, total=total, description=what, console=Console(stderr=True), transient=True)


def find_files(audio: Sequence[Path]) -> tuple[list[Path], int]:
    """The audio files that arguments mean; an argument that means none is reported and counted as failed."""
    from speechrnn.audio import find_audio

    files, failed = [], 0
    for path in audio:
        try:
            files += find_audio(path)
        except SpeechRnnError as error:
            note(f"speechrnn: {error}")
            failed += 1
    return files, failed


def end_of_batch(failed: int, n_files: int) -> None:
    """Say how many inputs failed, if any did, and end with exit code 2 then."""
    if failed:
        if n_files > 1:
            note(f"speechrnn: {failed} of {max(n_files, failed)} inputs failed, the others are done")
        raise SystemExit(2)


def choose_options(
    recognizer: Recognizer, thresholds: Sequence[str], keywords: str | None = None, step_ms: int | None = None
) -> Options:
    """The model's options with what was asked for; each threshold is a number for all keywords, or keyword=number.

    Raises ConfigError for what is neither, and for words that are no keywords.
    """
    from speechrnn.detector import check_words

    options = recognizer.info.options
    common, own, given = options.threshold, dict(options.thresholds), {}
    for text in thresholds:
        word, value = _threshold(text)
        if word:
            given[word] = value
        else:
            common, own = value, {}
    options = msgspec.structs.replace(options, threshold=common, thresholds=own | given)
    if keywords is not None:
        only = tuple(filter(None, map(str.strip, keywords.split(","))))
        if not only:
            raise ConfigError(f"--keywords {keywords}: expected words such as {','.join(recognizer.labels[:2])}")
        options = msgspec.structs.replace(options, keywords=only)
    if step_ms is not None:
        smoothing_ms = max(step_ms, options.smoothing_ms)
        options = msgspec.structs.replace(options, step_ms=step_ms, smoothing_ms=smoothing_ms)
    check_words(options, recognizer.info.spec.labels)
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
    if pack.refused:
        report = Path(experiment.data.dir) / experiment.data.packed / dataset.PROBLEMS
        note(f"{len(pack.refused)} clips cannot be used; they are listed in {report}")
    return pack


class ProgressLine:
    """Training progress: one line that is rewritten on a terminal, a new line every half minute elsewhere."""

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._shown_at = 0.0

    def __call__(self, progress: Progress) -> None:
        """Show how far training is."""
        left = timedelta(seconds=round(progress.left_s))
        line = (
            f"epoch {progress.epoch}/{progress.n_epochs}  step {progress.step}/{progress.n_steps}  "
            f"loss {progress.loss:.3f}  validation {100 * progress.accuracy:.2f} %  "
            f"{progress.utterances_per_s:.0f} utterances/s  {left} left"
        )
        if self._on_terminal:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        elif time.monotonic() - self._shown_at > 30 or progress.step == progress.n_steps:
            self._shown_at = time.monotonic()
            note(line)

    def end(self) -> None:
        """Leave the line."""
        if self._on_terminal:
            sys.stderr.write("\n")
