"""One client of the Wyoming protocol: audio in, wake words or a transcript out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

from msgspec.structs import replace
from wyoming.asr import Transcript
from wyoming.error import Error
from wyoming.event import Event
from wyoming.ping import Pong
from wyoming.wake import Detection as WakeDetection
from wyoming.wake import NotDetected

from speechrnn.audio import Samples
from speechrnn.clients.admission import Admission, Metrics
from speechrnn.clients.connections import Connection, GoneError, Pace
from speechrnn.clients.ends import End, ProtocolError
from speechrnn.clients.spotting import ClientSpotter
from speechrnn.detector import Detection
from speechrnn.formats import to_object
from speechrnn.wyoming import events
from speechrnn.wyoming.catalogue import Catalogue, Wanted
from speechrnn.wyoming.events import AudioFormat, Detect, Transcribe, converted, samples_of

_CLOSING_S = 2.0
_MAX_PAUSE_S = 600.0
_MAX_EVENTS_PER_S = 500
_MAX_EVENTS_AT_ONCE = 1000
_log = logging.getLogger(__name__)


class Service(NamedTuple):
    """What all clients of a server share."""

    catalogue: Catalogue
    """The models."""
    admission: Admission
    """Who is let in."""
    metrics: Metrics
    """Counters of the server."""
    idle_s: float
    """Time in s without a step of audio after which a client's place is free."""


class _Request(NamedTuple):
    """What a client asked for last."""

    wanted: Sequence[Wanted]
    context: dict[str, Any] | None = None
    is_transcript: bool = False
    """Whether one transcript is the answer, not a detection for each word."""


class Found(NamedTuple):
    """A detection under the name by which it was asked for."""

    name: str
    """The wake word."""
    detection: Detection
    """The detection."""


class _Stream:
    """Audio from its first sample to `audio-stop`, and how many words were found in it. Holds a place of the server.

    Raises ProtocolError if all places are taken.
    """

    def __init__(self, session: Session, service: Service, request: _Request, audio: AudioFormat) -> None:
        self.audio = audio
        self.format = (audio.rate, audio.width, audio.channels)
        self.found: list[Detection] = []
        self._spotters = [
            (ClientSpotter(session, model.shared, replace(model.options, keywords=tuple(names)), audio.rate), names)
            for model, names in request.wanted
        ]
        self._place = ExitStack()
        self._place.enter_context(service.admission.place(session))

    def close(self) -> None:
        """Free the place."""
        self._place.close()

    async def push(self, samples: Samples, arrived_s: float) -> AsyncIterator[Sequence[Found]]:
        """Take samples [T], and yield what is found at each step that they complete."""
        for spotter, names in self._spotters:
            async for decision in spotter.push(samples, arrived_s):
                yield self._named(decision.detections, names)

    async def finish(self, arrived_s: float) -> AsyncIterator[Sequence[Found]]:
        """Yield what the end of the audio completes."""
        for spotter, names in self._spotters:
            async for decision in spotter.rest(arrived_s):
                yield self._named(decision.detections, names)
            _, detections = await spotter.finish()
            yield self._named(detections, names)

    def _named(self, detections: list[Detection], names: Mapping[str, str]) -> list[Found]:
        self.found += detections
        return [Found(names[detection.label], detection) for detection in detections]


class Session:
    """One client, until it leaves. Audio that stops without a word gives its place back after `service.idle_s`."""

    def __init__(self, connection: Connection, service: Service) -> None:
        self._connection = connection
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._reader = events.Reader()
        self._pace = Pace(_MAX_EVENTS_PER_S, _MAX_EVENTS_AT_ONCE)
        self._request = _Request(service.catalogue.wake_words(None))
        self._stream: _Stream | None = None
        self._interruption: ProtocolError | None = None
        self._deadline = asyncio.timeout(None)

    def interrupt(self, error: ProtocolError) -> None:
        """End the audio that comes, and but for silence the connection, with this error."""
        if self._interruption is None and not self._deadline.expired():
            self._interruption = error
            self._deadline.reschedule(self._loop.time())

    async def run(self) -> None:
        """Answer until the client leaves, or tell it why not; count how it ended."""
        ends = self._service.metrics.ends
        try:
            await self._converse()
            ends.labels("left").inc()
        except GoneError:
            ends.labels("left").inc()
        except ProtocolError as error:
            await self._end(error)
        except Exception:
            _log.exception("a client could not be served")
            await self._end(ProtocolError(End.BROKEN, "something failed in the server; see its log"))
        finally:
            self._close_stream()

    async def _end(self, error: ProtocolError) -> None:
        self._interruption = error  # from here on nothing else can end it
        _log.log(logging.INFO if error.end is End.STOPPED else logging.WARNING, "a client was sent away: %s", error)
        self._service.metrics.ends.labels(error.end.counted_as).inc()
        with suppress(TimeoutError, GoneError):
            async with asyncio.timeout(_CLOSING_S):
                await self._send(Error(str(error), error.end.counted_as).event())

    async def _converse(self) -> None:
        """Answer events until none comes any more. Audio that stops ends, but not the connection."""
        while True:
            try:
                async with asyncio.timeout(self._patience_s) as self._deadline:
                    while (event := await self._next()) is not None:
                        await self._handle(event)
                    return
            except TimeoutError:
                error = self._interruption or ProtocolError(End.IDLE, f"nothing came for {self._patience_s:g} s")
                if self._stream is None or error.end is not End.IDLE:
                    raise error from None
            self._service.metrics.ends.labels(End.IDLE.counted_as).inc()
            self._interruption = None
            self._close_stream()

    @property
    def _patience_s(self) -> float:
        return _MAX_PAUSE_S if self._stream is None else self._service.idle_s

    def _live_on(self) -> None:
        if self._interruption is None:
            self._deadline.reschedule(self._loop.time() + self._patience_s)

    async def _next(self) -> Event | None:
        """The next event, as fast as the client may send; None if there are no more."""
        while (event := self._reader.next()) is None:
            if not (data := await self._connection.read()):
                return None
            self._reader.feed(data)
        await self._pace.spend(1)
        if self._stream is None:
            self._live_on()
        return event

    async def _handle(self, event: Event) -> None:
        match event.type:
            case "audio-chunk":
                await self._hear(converted(event, AudioFormat), event.payload or b"")
            case "audio-start":
                converted(event, AudioFormat)
                self._close_stream()
            case "audio-stop":
                await self._stop()
            case "detect":
                asked = converted(event, Detect)
                self._ask(_Request(self._service.catalogue.wake_words(asked.names), asked.context))
            case "transcribe":
                wanted = converted(event, Transcribe)
                words = self._service.catalogue.words_of(wanted.name)
                self._ask(_Request([words], wanted.context, is_transcript=True))
            case "describe":
                await self._send(self._service.catalogue.info)
            case "ping":
                await self._send(Pong(event.data.get("text")).event())

    def _ask(self, request: _Request) -> None:
        self._close_stream()
        self._request = request

    async def _hear(self, audio: AudioFormat, payload: bytes) -> None:
        samples = samples_of(payload, audio)
        if not len(samples):
            return
        if self._stream is None:
            self._open_stream(audio)
        assert self._stream is not None
        if (audio.rate, audio.width, audio.channels) != self._stream.format:
            raise ProtocolError(End.MALFORMED, "expected audio of one format; send audio-stop before another")
        await self._answer(self._stream.push(samples, self._connection.arrived_s))

    async def _stop(self) -> None:
        """Answer what the end of the audio completes, and whether there was anything."""
        found: list[Detection] = []
        if self._stream is not None:
            await self._answer(self._stream.finish(self._connection.arrived_s))
            found = self._stream.found
            self._service.metrics.ends.labels("finished").inc()
        context = self._request.context
        if self._request.is_transcript:
            await self._send(Transcript(" ".join(word.label for word in found), context).event())
        elif not found:
            await self._send(NotDetected(context).event())
        self._close_stream()

    async def _answer(self, steps: AsyncIterator[Sequence[Found]]) -> None:
        """Send the detections of each step; each step lets the audio go on."""
        async for found in steps:
            self._live_on()
            for name, detection in found if not self._request.is_transcript else ():
                await self._send(self._event(name, detection))

    def _event(self, name: str, found: Detection) -> Event:
        """A detection as Wyoming has it, and as the JSON of this package beside it."""
        assert self._stream is not None
        timestamp = round(1000 * found.end_s + (self._stream.audio.timestamp or 0))
        event = WakeDetection(name, timestamp, context=self._request.context).event()
        return Event(event.type, {**event.data, **to_object(found)})

    async def _send(self, event: Event) -> None:
        await self._connection.write(events.encode(event))

    def _open_stream(self, audio: AudioFormat) -> None:
        self._stream = _Stream(self, self._service, self._request, audio)
        self._connection.is_kept = self._connection.is_busy = True
        self._live_on()

    def _close_stream(self) -> None:
        """Free the place; the next audio begins anew."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None
        self._connection.is_kept = self._connection.is_busy = False
