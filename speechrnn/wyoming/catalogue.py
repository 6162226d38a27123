"""The models of a server under the names by which clients ask for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from wyoming.event import Event
from wyoming.info import AsrModel, AsrProgram, Attribution, Info, WakeModel, WakeProgram

import speechrnn
from speechrnn.clients.ends import End, ProtocolError
from speechrnn.clients.spotting import Shared
from speechrnn.errors import ConfigError
from speechrnn.spec import Options

_PROGRAM = "speechrnn"
_OURS = Attribution(name=_PROGRAM, url="https://pypi.org/project/speechrnn/")


class Model(NamedTuple):
    """One model of a server."""

    name: str
    """Under which clients may ask for it."""
    shared: Shared
    """The network, and what its clients share."""
    options: Options
    """How it decides."""

    @property
    def keywords(self) -> tuple[str, ...]:
        """Keywords that it may detect."""
        return self.options.keywords or self.shared.recognizer.info.spec.labels.keywords


class Wanted(NamedTuple):
    """What is to be detected by one model."""

    model: Model
    """The model."""
    names: Mapping[str, str]
    """Wake words by keyword."""


class Catalogue:
    """Wake words and models by name. A word of several models has its bare name in the first one only.

    Raises ConfigError if two models have one name.
    """

    def __init__(self, models: Sequence[Model], languages: Iterable[str]) -> None:
        self.models = {model.name: model for model in models}
        if len(self.models) < len(models):
            raise ConfigError("two models of one name; rename a file, for clients ask for models by name")
        self._wake_words: dict[str, tuple[Model, str]] = {}
        for model in models:
            for keyword in model.keywords:
                name = f"{keyword} ({model.name})" if keyword in self._wake_words else keyword
                self._wake_words[name] = (model, keyword)
        self.info = self._describe([*languages])

    def wake_words(self, names: Iterable[str] | None) -> list[Wanted]:
        """What to detect for these wake words, all if there are none. Raises ProtocolError for an unknown one."""
        wanted: dict[str, dict[str, str]] = {}
        for name in [*(names or ())] or self._wake_words:
            if name not in self._wake_words:
                known = ", ".join(self._wake_words)
                raise ProtocolError(End.MALFORMED, f"detect {name[:100]}: no keyword of this server, which has {known}")
            model, keyword = self._wake_words[name]
            wanted.setdefault(model.name, {})[keyword] = name
        return [Wanted(self.models[model], words) for model, words in wanted.items()]

    def words_of(self, name: str | None) -> Wanted:
        """All keywords of a model, the first if None. Raises ProtocolError for an unknown one."""
        model = next(iter(self.models.values())) if name is None else self.models.get(name)
        if model is None:
            raise ProtocolError(
                End.MALFORMED,
                f"transcribe {str(name)[:100]}: no model of this server, which has {', '.join(self.models)}",
            )
        return Wanted(model, {keyword: keyword for keyword in model.keywords})

    def _describe(self, languages: list[str]) -> Event:
        program: dict[str, Any] = {"name": _PROGRAM, "attribution": _OURS, "installed": True}
        program |= {"version": speechrnn.__version__, "description": "Spoken commands"}
        wake_models = [
            WakeModel(name, _OURS, True, name, _version(model), languages, phrase=keyword)
            for name, (model, keyword) in self._wake_words.items()
        ]
        asr_models = [
            AsrModel(model.name, _OURS, True, f"{model.name}: {', '.join(model.keywords)}", _version(model), languages)
            for model in self.models.values()
        ]
        wake = WakeProgram(**program, models=wake_models)
        asr = AsrProgram(**program, models=asr_models)
        return Info(wake=[wake], asr=[asr]).event()


def _version(model: Model) -> str:
    """When it was trained; the version of this package where a model does not say."""
    return model.shared.recognizer.info.provenance.created or speechrnn.__version__
