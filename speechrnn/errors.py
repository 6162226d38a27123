"""The errors a user can cause. Each carries one line: what was expected, what came, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar


class SpeechRnnError(Exception):
    """Base of every error that this package raises on purpose; the command line prints it and exits with 2."""


class AudioError(SpeechRnnError):
    """Audio that cannot be used: missing, empty, damaged, or not audio at all."""


class ModelFileError(SpeechRnnError):
    """A model file that cannot be loaded, or a model name that is not known."""


class ConfigError(SpeechRnnError):
    """A configuration or an option with an unknown key, a wrong type, or numbers that contradict each other."""


class DataError(SpeechRnnError):
    """Training or evaluation data that is missing or does not fit the configuration."""


class DeviceError(SpeechRnnError):
    """An audio device or an output location that cannot be used."""


def first_line(error: Exception) -> str:
    """What an error of a library says, in one line; its name if it says nothing, as ONNX Runtime's on Python 3.11.2."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


Item = TypeVar("Item")
Result = TypeVar("Result")
Report = Callable[[SpeechRnnError], object]
"""Takes the error of one input of many."""


def results_of(items: Iterable[Item], work: Callable[[Item], Result], report: Report) -> Iterator[Result]:
    """Yield what `work` gives for each item; an error of one goes to `report`, and the others are done."""
    for item in items:
        try:
            result = work(item)
        except SpeechRnnError as error:
            report(error)
        else:
            yield result
