"""Events of the Wyoming protocol as bytes, and what a client may put in them, within bounds.

An event is a line of JSON, then `data_length` bytes of more JSON, then `payload_length` bytes.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from wyoming.event import Event
from wyoming.version import __version__ as PROTOCOL_VERSION

from speechrnn.audio import Samples, from_int16, to_mono
from speechrnn.clients.ends import End, ProtocolError

MAX_HEAD_BYTES = 1 << 14
MAX_DATA_BYTES = 1 << 16
MAX_PAYLOAD_BYTES = 1 << 18
_Data = TypeVar("_Data")


class _Head(msgspec.Struct):
    type: str
    data: dict[str, Any] | None = None
    data_length: Annotated[int, msgspec.Meta(ge=0)] | None = None
    payload_length: Annotated[int, msgspec.Meta(ge=0)] | None = None


class AudioFormat(msgspec.Struct, frozen=True):
    """What the data of `audio-start` and `audio-chunk` says: signed little-endian PCM of any rate and width."""

    rate: Annotated[int, msgspec.Meta(ge=1000, le=384000)]
    """Sample rate in Hz."""
    width: Annotated[int, msgspec.Meta(ge=1, le=4)]
    """Bytes of a sample."""
    channels: Annotated[int, msgspec.Meta(ge=1, le=32)]
    """Samples of a frame."""
    timestamp: float | None = None
    """The client's time in ms of the first sample."""


class Detect(msgspec.Struct, frozen=True):
    """What the data of `detect` says."""

    names: list[str] | None = None
    """Wake words to listen for; all if None or empty."""
    context: dict[str, Any] | None = None
    """Given back with each answer."""


class Transcribe(msgspec.Struct, frozen=True):
    """What the data of `transcribe` says, as far as it matters here."""

    name: str | None = None
    """The model; the first if None."""
    context: dict[str, Any] | None = None
    """Given back with the answer."""


class Reader:
    """Bytes, however they are cut, to events. What it holds survives a reader that gives up waiting."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._head: _Head | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._unread += data

    def next(self) -> Event | None:
        """The next event; None if it is not whole yet. Raises ProtocolError for what is none, or too large."""
        if self._head is None and not self._read_head():
            return None
        assert self._head is not None
        n_data, n_payload = self._head.data_length or 0, self._head.payload_length or 0
        if len(self._unread) < n_data + n_payload:
            return None
        head, self._head = self._head, None
        data = {**(head.data or {}), **_decode(self._take(n_data) or b"{}", dict[str, Any])}
        return Event(head.type, data, self._take(n_payload) or None)

    def _read_head(self) -> bool:
        end = self._unread.find(b"\n", 0, MAX_HEAD_BYTES)
        if end < 0:
            if len(self._unread) >= MAX_HEAD_BYTES:
                raise ProtocolError(End.TOO_LARGE, f"expected a line of at most {MAX_HEAD_BYTES} bytes")
            return False
        head = _decode(self._take(end + 1), _Head)
        if (head.data_length or 0) > MAX_DATA_BYTES or (head.payload_length or 0) > MAX_PAYLOAD_BYTES:
            raise ProtocolError(
                End.TOO_LARGE,
                f"expected at most {MAX_DATA_BYTES} bytes of data and {MAX_PAYLOAD_BYTES} of audio in one event, "
                f"got {head.data_length or 0} and {head.payload_length or 0}; send more events",
            )
        self._head = head
        return True

    def _take(self, n_bytes: int) -> bytes:
        taken = bytes(self._unread[:n_bytes])
        del self._unread[:n_bytes]
        return taken


def encode(event: Event) -> bytes:
    """An event without a payload as bytes."""
    data = msgspec.json.encode(event.data)
    head = {"type": event.type, "version": PROTOCOL_VERSION, "data_length": len(data)}
    return msgspec.json.encode(head) + b"\n" + data


def converted(event: Event, kind: type[_Data]) -> _Data:
    """The data of an event. Raises ProtocolError for another."""
    try:
        return msgspec.convert(event.data, type=kind)
    except msgspec.ValidationError as error:
        raise ProtocolError(End.MALFORMED, f"{event.type}: {error}") from None


def samples_of(payload: bytes, audio: AudioFormat) -> Samples:
    """Mono samples [T] of PCM. Raises ProtocolError for a part of a frame."""
    if len(payload) % (audio.width * audio.channels):
        raise ProtocolError(
            End.MALFORMED,
            f"expected whole frames of {audio.channels} samples of {audio.width} bytes, got {len(payload)} bytes",
        )
    return to_mono(_decode_pcm(payload, audio.width).reshape(-1, audio.channels))


def _decode_pcm(payload: bytes, width: int) -> Samples:
    if width == 2:
        return from_int16(np.frombuffer(payload, dtype="<i2"))
    bytes_of = np.frombuffer(payload, dtype=np.uint8).reshape(-1, width)
    whole = np.zeros((len(bytes_of), 4), dtype=np.uint8)
    whole[:, 4 - width :] = bytes_of
    return (whole.view("<i4")[:, 0] / 2.0**31).astype(np.float32)


def _decode(data: bytes, kind: type[_Data]) -> _Data:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(
            End.MALFORMED, f"expected an event of the Wyoming protocol, got something else ({error})"
        ) from None
