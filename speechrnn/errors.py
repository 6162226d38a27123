"""The errors that a user can cause. Each carries one line: what was expected, what came, what to do.

The kinds, and what else a caller may catch them as::

    SpeechRnnError
    ├── AudioError             and ValueError
    │   ├── MissingAudioError  and FileNotFoundError
    │   └── DamagedAudioError
    ├── ModelFileError         and ValueError
    │   └── MissingModelError  and FileNotFoundError
    ├── ConfigError            and ValueError
    │   └── MissingConfigError and FileNotFoundError
    ├── DataError              and ValueError
    │   └── MissingDataError   and FileNotFoundError
    ├── DeviceError            and OSError
    └── OutputError            and OSError
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar


class SpeechRnnError(Exception):
    """Base of every error that this package raises on purpose; the command line prints it and exits with 2."""


class AudioError(SpeechRnnError, ValueError):
    """Audio that cannot be used: empty, damaged, truncated, of another shape or type, or not audio at all."""


class MissingAudioError(AudioError, FileNotFoundError):
    """An audio file that is not there."""


class DamagedAudioError(AudioError):
    """Audio of which a part is missing or wrong. It is raised after all samples that are there have been given."""


class ModelFileError(SpeechRnnError, ValueError):
    """A model file that cannot be loaded."""


class MissingModelError(ModelFileError, FileNotFoundError):
    """A model file that is not there, or the name of a model that is not shipped."""


class ConfigError(SpeechRnnError, ValueError):
    """A configuration or an option with an unknown key, a wrong type, or numbers that contradict each other."""


class MissingConfigError(ConfigError, FileNotFoundError):
    """A configuration file that is not there."""


class DataError(SpeechRnnError, ValueError):
    """Training or evaluation data that does not fit the configuration, or cannot be read."""


class MissingDataError(DataError, FileNotFoundError):
    """A folder or a file of training or evaluation data that is not there."""


class DeviceError(SpeechRnnError, OSError):
    """A microphone or a network address that cannot be used."""


class OutputError(SpeechRnnError, OSError):
    """A path that cannot be written to."""


_EXTRAS = {
    "hub": ("huggingface_hub",),
    "mic": ("sounddevice",),
    "teach": ("onnx",),
    "mqtt": ("paho",),
    "train": (
        "filelock",
        "lightning_fabric",
        "matplotlib",
        "onnx",
        "onnxscript",
        "safetensors",
        "tomli_w",
        "torch",
        "torchaudio",
    ),
    "bulk": ("fsspec", "onnx", "pyarrow"),
    "ray": ("ray",),
    "web": ("h11", "prometheus_client", "websockets"),
    "wyoming": ("prometheus_client", "wyoming", "zeroconf"),
}


_MAX_CHARACTERS = 300


def missing_extra(module: str | None, wanted: str = "") -> str:
    """That a module is not installed, and how to install it: by the extra of this package that has it.

    Of several that have it, the one that is wanted.
    """
    package = (module or "a module").partition(".")[0]
    having = [name for name, modules in _EXTRAS.items() if package in modules]
    extra = wanted if wanted in having else next(iter(having), None)
    return f"{package} is not installed: pip install " + (f"'speechrnn[{extra}]'" if extra else package)


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line of at most 300 characters.

    Its name if it says nothing, as ONNX Runtime's on Python 3.11.2.
    """
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= _MAX_CHARACTERS else line[:_MAX_CHARACTERS] + "..."


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
