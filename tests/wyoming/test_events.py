"""Events of the Wyoming protocol: bytes however they are cut, PCM of any width, and bounds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wyoming.event import Event, async_read_event

from speechrnn.clients.ends import End, ProtocolError
from speechrnn.wyoming import events
from speechrnn.wyoming.events import AudioFormat, Detect, Reader, Transcribe, converted, encode, samples_of
from tests.helpers import noise
from tests.wyoming.server import pcm

EVENTS = [
    Event("detect", {"names": ["stop"]}),
    Event("audio-chunk", {"rate": 16000, "width": 2, "channels": 1}, b"\n{\x00\xff" * 100),
    Event("describe", {}),
]


def as_bytes(event: Event, *, inline: bool = False) -> bytes:
    """An event as clients write it; its data in the line itself, as older ones do, or after it."""
    data, payload = json.dumps(event.data).encode(), event.payload or b""
    head: dict[str, Any] = {"type": event.type, "payload_length": len(payload)}
    if inline:
        return json.dumps({**head, "data": event.data}).encode() + b"\n" + payload
    return json.dumps({**head, "data_length": len(data)}).encode() + b"\n" + data + payload


def read(*pieces: bytes) -> list[Event]:
    reader, found = Reader(), []
    for piece in pieces:
        reader.feed(piece)
        while (event := reader.next()) is not None:
            found.append(event)
    return found


STREAM = b"".join(as_bytes(event, inline=inline) for inline in (False, True) for event in EVENTS)


@given(st.lists(st.integers(0, len(STREAM)), max_size=20).map(sorted))
def test_events_are_the_same_however_their_bytes_are_cut(places: list[int]) -> None:
    pieces = [STREAM[start:end] for start, end in zip([0, *places], [*places, len(STREAM)], strict=True)]
    assert read(*pieces) == EVENTS * 2


def test_what_is_written_is_what_the_library_reads() -> None:
    async def read_back(data: bytes) -> Event | None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        return await async_read_event(reader)

    sent = Event("detection", {"name": "größer", "timestamp": 10, "context": {"a": [1.5]}})
    assert asyncio.run(read_back(encode(sent))) == sent


@pytest.mark.parametrize(("width", "step"), [(1, 2**-7), (2, 2**-15), (3, 2**-23), (4, 2**-23)])
@pytest.mark.parametrize("n_channels", [1, 2, 5])
def test_pcm_of_any_width_and_channels_is_the_mean_of_its_channels(width: int, step: float, n_channels: int) -> None:
    samples = noise(64, n_channels)
    decoded = samples_of(pcm(samples, width), AudioFormat(rate=16000, width=width, channels=n_channels))
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, samples.mean(axis=1), atol=step)


def test_pcm_of_every_width_reaches_full_scale() -> None:
    for width in (1, 2, 3, 4):
        extremes = bytes(width - 1) + b"\x80" + b"\xff" * (width - 1) + b"\x7f"
        decoded = samples_of(extremes, AudioFormat(rate=16000, width=width, channels=1))
        np.testing.assert_allclose(decoded, [-1, 1], atol=2**-7 if width == 1 else 2**-15)


@pytest.mark.parametrize(
    ("sent", "end"),
    [
        (b"GET / HTTP/1.1\r\n", End.MALFORMED),
        (b"[]\n", End.MALFORMED),
        (b"\xff\xfe\n", End.MALFORMED),
        (b'{"data": {}}\n', End.MALFORMED),
        (b'{"type": "ping", "data_length": -1}\n', End.MALFORMED),
        (b'{"type": "ping", "data_length": 2}\n[]', End.MALFORMED),
        (b'{"type": "ping", "data_length": 9}\nno JSON..', End.MALFORMED),
        (b"[" * 10000 + b"\n", End.MALFORMED),
        (b"x" * events.MAX_HEAD_BYTES, End.TOO_LARGE),
        (b'{"type": "audio-chunk", "payload_length": 300000}\n', End.TOO_LARGE),
        (b'{"type": "ping", "data_length": 70000}\n', End.TOO_LARGE),
    ],
)
def test_what_is_no_event_or_too_large_is_refused_before_it_is_kept(sent: bytes, end: End) -> None:
    with pytest.raises(ProtocolError) as refused:
        read(sent)
    assert refused.value.end is end


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"width": 2, "channels": 1}, AudioFormat),
        ({"rate": 16000, "width": 0, "channels": 1}, AudioFormat),
        ({"rate": 16000, "width": 5, "channels": 1}, AudioFormat),
        ({"rate": "16000", "width": 2, "channels": 1}, AudioFormat),
        ({"rate": 10**9, "width": 2, "channels": 1}, AudioFormat),
        ({"rate": 16000, "width": 2, "channels": 100}, AudioFormat),
        ({"names": "stop"}, Detect),
        ({"names": [1]}, Detect),
        ({"name": 1}, Transcribe),
    ],
)
def test_data_of_another_type_or_out_of_range_is_refused_with_its_place(data: dict[str, Any], kind: type) -> None:
    with pytest.raises(ProtocolError, match=r"^any: ") as refused:
        converted(Event("any", data), kind)
    assert refused.value.end is End.MALFORMED


def test_a_part_of_a_frame_is_refused() -> None:
    with pytest.raises(ProtocolError, match="whole frames of 2 samples of 2 bytes, got 6 bytes"):
        samples_of(bytes(6), AudioFormat(rate=16000, width=2, channels=2))
