"""How a server ends the conversation with a client."""

from __future__ import annotations

from enum import Enum

from speechrnn.errors import SpeechRnnError


class End(Enum):
    """How the server ends a conversation: the WebSocket's close code, and the name under which it is counted."""

    MALFORMED = 1007, "malformed"
    IDLE = 1008, "idle"
    TOO_LARGE = 1009, "too_large"
    BROKEN = 1011, "broken"
    STOPPED = 1012, "stopped"
    FULL = 1013, "full"
    SHED = 1013, "shed"

    def __init__(self, code: int, counted_as: str) -> None:
        self.code = code
        self.counted_as = counted_as


class ProtocolError(SpeechRnnError):
    """Something that ends a conversation; the client is told."""

    def __init__(self, end: End, message: str) -> None:
        super().__init__(message)
        self.end = end
