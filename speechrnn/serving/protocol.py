"""What a client and the server say to each other, version 1; docs/protocol.md tells it to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec
import numpy as np

from speechrnn.audio import Samples, from_int16
from speechrnn.clients.ends import End, ProtocolError
from speechrnn.detector import Detection
from speechrnn.spec import ModelInfo, Options

VERSION = 1
LISTEN_PATH, TRANSCRIBE_PATH, TAKE_PATH, MODEL_PATH = "/v1/listen", "/v1/transcribe", "/v1/take", "/v1/model"
MAX_MESSAGE_BYTES = 1 << 16
_Message = TypeVar("_Message")
_Threshold = Annotated[float, msgspec.Meta(gt=0, le=1)]
_RateHz = Annotated[int, msgspec.Meta(ge=8000, le=192000)]


class ClientChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client may choose: the keywords that may fire, all if empty, and one threshold for all of them."""

    keywords: tuple[str, ...] = ()
    """Those that may fire; all if empty."""
    threshold: _Threshold | None = None
    """One threshold in (0, 1] for all of them; the server's if None."""

    def options(self, default: Options) -> Options:
        """The options that this choice makes of the server's."""
        return default.with_choice(threshold=self.threshold, keywords=self.keywords or None)


class Start(ClientChoice, frozen=True, kw_only=True, tag_field="type", tag="start"):
    """The first message: the rate of the audio that follows, and what the client chooses."""

    rate_hz: _RateHz


class UploadQuery(ClientChoice, frozen=True, kw_only=True):
    """The query of an upload: what its sender calls it, a name to show and not a path to open."""

    name: Annotated[str, msgspec.Meta(max_length=255)] = "recording"


class TakeQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query of a take of an own word."""

    rate_hz: _RateHz
    """The rate of its audio in Hz."""


class Finish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="finish"):
    """The last message: the audio has ended."""


class Ready(msgspec.Struct, frozen=True, tag_field="type", tag="ready"):
    """The answer to `Start`, and to a request for the model: what listens, and the order of its posteriors."""

    version: int
    """Version of the protocol."""
    model: str
    """Name of the model."""
    sample_rate_hz: int
    """Rate of the model in Hz."""
    context_ms: int
    """Length of audio in ms that one decision looks at."""
    step_ms: int
    """Time between two decisions in ms."""
    threshold: float
    """Threshold in (0, 1] of the server."""
    max_upload_bytes: int
    """Size of the largest file that is taken."""
    keywords: tuple[str, ...]
    """Keywords of the model."""
    labels: tuple[str, ...]
    """Its classes, in the order of the posteriors."""


class Decision(msgspec.Struct, frozen=True, tag_field="type", tag="decision"):
    """The answer to each step of audio. `lag_ms` is the server's part of the delay."""

    time_s: float
    """End of the step in s of the audio."""
    posteriors: list[float]
    """Class probabilities [C]."""
    detections: list[Detection]
    """What was detected at this step."""
    lag_ms: float
    """The server's part of the delay in ms."""


class Finished(msgspec.Struct, frozen=True, tag_field="type", tag="finished"):
    """The answer to `Finish`: the words that only the end of the audio completed."""

    duration_s: float
    """Length of the audio in s."""
    detections: list[Detection]
    """What was detected in the end of the audio."""


class Error(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """Why the server is about to close the connection."""

    message: str
    """Why, in one line."""


def ready(model: str, info: ModelInfo, options: Options, max_upload_bytes: int) -> Ready:
    """What a server says of its model and of itself."""
    spec = info.spec
    return Ready(
        version=VERSION,
        model=model,
        sample_rate_hz=spec.sample_rate_hz,
        context_ms=spec.context_ms,
        step_ms=options.step_ms,
        threshold=options.threshold,
        max_upload_bytes=max_upload_bytes,
        keywords=spec.labels.keywords,
        labels=spec.labels.names,
    )


def decode_start(message: str | bytes) -> Start:
    """The first message. Raises ProtocolError if it is anything else."""
    return _decode(message, Start, '{"type": "start", "rate_hz": 48000}')


def decode_finish(message: str) -> Finish:
    """The last message. Raises ProtocolError if it is anything else."""
    return _decode(message, Finish, '16-bit PCM, or {"type": "finish"}')


def decode_audio(message: bytes) -> Samples:
    """Samples [T] of 16-bit little-endian mono PCM. Raises ProtocolError for half a sample, or none."""
    if not message:
        raise ProtocolError(End.MALFORMED, "expected audio, got an empty message; leave it out")
    if len(message) % 2:
        raise ProtocolError(
            End.MALFORMED, f"expected whole 16-bit samples, got {len(message)} bytes; send an even number"
        )
    return from_int16(np.frombuffer(message, dtype="<i2"))


def decode_upload_query(query: Mapping[str, str]) -> UploadQuery:
    """The query of an upload, its keywords separated by commas. Raises ProtocolError for anything else."""
    fields: dict[str, object] = {**query}
    if "keywords" in query:
        fields["keywords"] = tuple(query["keywords"].split(","))
    try:
        recording = msgspec.convert(fields, type=UploadQuery, strict=False)
    except msgspec.ValidationError as error:
        raise ProtocolError(
            End.MALFORMED, f"expected name, keywords and threshold, got something else ({error})"
        ) from None
    shown = "".join(letter for letter in recording.name.replace("\\", "/").split("/")[-1] if letter.isprintable())
    return msgspec.structs.replace(recording, name=shown or "recording")


def decode_take_query(query: Mapping[str, str]) -> TakeQuery:
    """The query of a take. Raises ProtocolError for anything else."""
    try:
        return msgspec.convert({**query}, type=TakeQuery, strict=False)
    except msgspec.ValidationError as error:
        raise ProtocolError(End.MALFORMED, f"expected rate_hz, got something else ({error})") from None


def encode(message: Ready | Decision | Finished | Error) -> str:
    """A message of the server as JSON."""
    return msgspec.json.encode(message).decode()


def _decode(message: str | bytes, kind: type[_Message], expected: str) -> _Message:
    if isinstance(message, bytes):
        raise ProtocolError(End.MALFORMED, f"expected {expected}, got {len(message)} bytes of audio")
    try:
        return msgspec.json.decode(message, type=kind)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ProtocolError(End.MALFORMED, f"expected {expected}, got something else ({error})") from None
