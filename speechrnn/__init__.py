"""Recurrent recognition of spoken commands: train, transcribe, listen."""

from typing import TYPE_CHECKING

__version__ = "0.2.0.dev0"

_ROOMS = {
    "ArraySource": "sources",
    "AudioError": "errors",
    "AudioSource": "sources",
    "BackgroundListener": "listening",
    "ConfigError": "errors",
    "DataError": "errors",
    "Detection": "detector",
    "DeviceError": "errors",
    "FileSource": "sources",
    "KeywordSpotter": "spotter",
    "Microphone": "sources",
    "ModelFileError": "errors",
    "Options": "spec",
    "OutputError": "errors",
    "PipeSource": "sources",
    "Recognizer": "recognizer",
    "SpeechRnnError": "errors",
    "from_pretrained": "recognizer",
    "listen": "listening",
    "load": "recognizer",
    "posteriors": "spotter",
    "teach": "teaching.lesson",
    "transcribe": "listening",
}
__all__ = ["__version__", *_ROOMS]  # noqa: PLE0604 (the names are those of the table)

if TYPE_CHECKING:
    from speechrnn.detector import Detection as Detection
    from speechrnn.errors import AudioError as AudioError
    from speechrnn.errors import ConfigError as ConfigError
    from speechrnn.errors import DataError as DataError
    from speechrnn.errors import DeviceError as DeviceError
    from speechrnn.errors import ModelFileError as ModelFileError
    from speechrnn.errors import OutputError as OutputError
    from speechrnn.errors import SpeechRnnError as SpeechRnnError
    from speechrnn.listening import BackgroundListener as BackgroundListener
    from speechrnn.listening import listen as listen
    from speechrnn.listening import transcribe as transcribe
    from speechrnn.recognizer import Recognizer as Recognizer
    from speechrnn.recognizer import from_pretrained as from_pretrained
    from speechrnn.recognizer import load as load
    from speechrnn.sources import ArraySource as ArraySource
    from speechrnn.sources import AudioSource as AudioSource
    from speechrnn.sources import FileSource as FileSource
    from speechrnn.sources import Microphone as Microphone
    from speechrnn.sources import PipeSource as PipeSource
    from speechrnn.spec import Options as Options
    from speechrnn.spotter import KeywordSpotter as KeywordSpotter
    from speechrnn.spotter import posteriors as posteriors
    from speechrnn.teaching.lesson import teach as teach
else:

    def __getattr__(name):  # noqa: ANN001, ANN202
        """A name of the library, whose room is imported when it is first used."""
        from importlib import import_module

        if name not in _ROOMS:
            raise AttributeError(f"module 'speechrnn' has no attribute '{name}'")
        return getattr(import_module(f"speechrnn.{_ROOMS[name]}"), name)

    def __dir__():  # noqa: ANN202
        return sorted({*globals(), *_ROOMS})
