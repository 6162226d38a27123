"""Where in a file the audio lies: recordings that follow each other, samples whose header gives a wrong size.

And how a WAV is written that is whole at any time.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = bytes | mmap.mmap
_UNKNOWN_SIZE = 0x7FFFF000  # recorders that write to a pipe put a size from here up into a header of 32 bits
_AU_HEADER = 24  # bytes of the shortest header of Sun's format
_MAX_TAG_PADDING = 2048
_METADATA = re.compile(rb"LIST|id3 |ID3 |bext|cue |smpl|fact|JUNK|junk|PAD |FLLR|iXML|_PMX|afsp|plst|inst|TAG")
_FIRST_PAGE, _LAST_PAGE = 2, 4  # flags of Ogg
_NEXT_WAV = re.compile(rb"RIFF.{4}WAVE(?:fmt |JUNK|bext|LIST|fact)", re.S)


class Part(NamedTuple):
    """One recording of a file."""

    start: int
    """Its first byte."""
    end: int
    """The byte after its last."""
    problem: str = ""
    """What is missing of it, as its container shows."""
    note: str = ""
    """What is unusual about it, without a loss that can be told."""
    samples: tuple[int, int] | None = None
    """First byte and end of uncompressed samples whose header gives another size than they have."""


class _Layout(NamedTuple):
    """How a container is made of chunks: an identifier, a size, what they hold, and padding."""

    n_header: int
    n_id: int
    size: struct.Struct
    alignment: int
    of_samples: bytes
    n_before_samples: int
    counts_itself: bool = False


_LITTLE = _Layout(12, 4, struct.Struct("<I"), 2, b"data", 0)
_BIG = _LITTLE._replace(size=struct.Struct(">I"))
_LAYOUTS = {
    b"RIFF": _LITTLE,
    b"RIFX": _BIG,
    b"RF64": _LITTLE,
    b"BW64": _LITTLE,
    b"FORM": _BIG._replace(of_samples=b"SSND", n_before_samples=8),
    b"riff": _Layout(40, 16, struct.Struct("<Q"), 8, b"data", 0, counts_itself=True),  # Sony Wave64
    b"caff": _Layout(8, 4, struct.Struct(">Q"), 1, b"data", 4),
}


class _Chunk(NamedTuple):
    name: bytes
    body: int
    size: int
    end: int
    """Where the next one starts if the size is true."""


def parts_of(data: Bytes) -> list[Part]:
    """The recordings in the bytes of a file, in order; the whole file where its kind is not known."""
    magic = bytes(data[:4])
    if magic in _LAYOUTS:
        return list(_chunked_parts(data))
    if magic in (b".snd", b"dns."):
        return list(_au_parts(data, magic))
    if magic == b"OggS":
        return _ogg_parts(data)
    if bytes(data[4:8]) == b"ftyp":
        return _mp4_parts(data)
    starts = _starts(data)
    return [Part(start, end) for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def _starts(data: Bytes) -> list[int]:
    """Where recordings start that follow each other in kinds of files that have no outer size."""
    if bytes(data[:4]) == b"fLaC":
        return _matches(_FLAC, data)
    if bytes(data[:4]) == b"\x1aE\xdf\xa3":
        return _matches(_MATROSKA, data)
    if bytes(data[:3]) == b"ID3" or bytes(data[:2]) in _MP3_SYNC:
        return _mp3_starts(data)
    return [0]


_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_MATROSKA = re.compile(rb"\x1aE\xdf\xa3.{0,40}(?:webm|matroska)", re.S)
_MP3_SYNC = (b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2", b"\xff\xe3", b"\xff\xe2")
_ID3 = re.compile(rb"ID3[\x02-\x04]\x00[\x00\x10\x20\x30\x40\x50\x60\x70\x80\xc0][\x00-\x7f]{4}")
_MP3_INFO = re.compile(rb"\xff[\xfb\xfa\xf3\xf2\xe3\xe2]..(?:.{2})?(?:\x00{32}|\x00{17}|\x00{9})(?:Xing|Info)", re.S)


def _matches(signature: re.Pattern[bytes], data: Bytes) -> list[int]:
    return sorted({0, *(match.start() for match in signature.finditer(data))})


def _mp3_starts(data: Bytes) -> list[int]:
    """Where tags stand, or without one the frame that tells delay and length, which FFmpeg looks for in the first."""
    starts = [0]
    for at in sorted({*_matches(_ID3, data), *_matches(_MP3_INFO, data)}):
        if at >= _after_tag(data, starts[-1]) + _MAX_TAG_PADDING:
            starts.append(at)
    return starts


def _after_tag(data: Bytes, at: int) -> int:
    if bytes(data[at : at + 3]) != b"ID3":
        return at
    shifts = (21, 14, 7, 0)
    return at + 10 + sum((byte & 0x7F) << shift for byte, shift in zip(data[at + 6 : at + 10], shifts, strict=False))


def _mp4_parts(data: Bytes) -> list[Part]:
    """MP4 begins with its type; its index comes first or last."""
    boxes = list(_mp4_boxes(data))
    starts = [at for at, name in boxes if name == b"ftyp"]
    parts = []
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        has_index = any(name == b"moov" for at, name in boxes if start <= at < end)
        parts.append(Part(start, end, "" if has_index else "truncated: its index, which was to come last, is missing"))
    return parts


def _mp4_boxes(data: Bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        yield at, name
        if size == 1 and at + 16 <= len(data):
            (size,) = struct.unpack(">Q", data[at + 8 : at + 16])
        if size < 8:
            return
        at += size


def _chunks(data: Bytes, layout: _Layout, at: int) -> Iterator[_Chunk]:
    """The chunks from a place on, as long as what stands there can be one."""
    n_head = layout.n_id + layout.size.size
    while at + n_head <= len(data):
        name = bytes(data[at : at + layout.n_id])
        (size,) = layout.size.unpack(data[at + layout.n_id : at + n_head])
        if layout.counts_itself:
            size -= n_head
        if not name[:4].isascii() or not name[:4].decode().isprintable() or size < 0:
            return
        body = at + n_head
        at = body + size + -size % layout.alignment
        yield _Chunk(name[:4], body, size, at)


def _chunked_parts(data: Bytes) -> Iterator[Part]:
    at: int | None = 0
    while at is not None:
        part, at = _chunked_part(data, at)
        yield part


def _chunked_part(data: Bytes, start: int) -> tuple[Part, int | None]:
    """The recording of chunks that starts here, and where another one follows it."""
    layout, size_64 = _LAYOUTS[bytes(data[start : start + 4])], None
    for chunk in _chunks(data, layout, start + layout.n_header):
        if chunk.name == b"ds64" and chunk.body + 16 <= len(data):
            (size_64,) = struct.unpack("<Q", data[chunk.body + 8 : chunk.body + 16])
        if chunk.name == layout.of_samples:
            return _part_of_samples(data, layout, start, chunk, size_64)
    return Part(start, len(data)), None


def _part_of_samples(
    data: Bytes, layout: _Layout, start: int, chunk: _Chunk, size_64: int | None
) -> tuple[Part, int | None]:
    if chunk.size == 0xFFFFFFFF and size_64:
        chunk = chunk._replace(size=size_64, end=chunk.body + size_64 + -size_64 % layout.alignment)
    n_missing = chunk.body + chunk.size - len(data)
    is_unknown = chunk.size >= (2**62 if layout.size.size == 8 or size_64 else _UNKNOWN_SIZE) and n_missing > 0
    if n_missing > 1 and not is_unknown:  # one byte may be the padding of an odd chunk
        return Part(start, len(data), f"truncated: {n_missing} of {chunk.size} bytes are missing"), None
    end = None if is_unknown or _is_never_closed(data, chunk) else _end_of(data, layout, chunk)
    if end is None:
        following = _NEXT_WAV.search(data, chunk.body)
        end = following.start() if following else len(data)
        note = "" if is_unknown else "its header gives a wrong size; all that follows was read"
        samples = (chunk.body + layout.n_before_samples, end)
        return Part(start, end, note=note, samples=samples), end if following else None
    return Part(start, end), end if end < len(data) else None


def _is_never_closed(data: Bytes, chunk: _Chunk) -> bool:
    """Whether no size was written, as by a recorder that crashed, and samples follow."""
    return chunk.size == 0 and len(data) > chunk.body and not _METADATA.match(data, chunk.body)


def _end_of(data: Bytes, layout: _Layout, samples: _Chunk) -> int | None:
    """Where the recording ends: at the next one, or at the end; None if more samples follow than their size says."""
    return _end_of_chunks(data, layout, samples.end) or _end_of_chunks(data, layout, samples.body + samples.size)


def _end_of_chunks(data: Bytes, layout: _Layout, at: int) -> int | None:
    while len(data) - at >= 8:
        if bytes(data[at : at + 4]) in _LAYOUTS:
            return at
        chunk = next(_chunks(data, layout, at), None)
        if chunk is None or chunk.end > len(data) + layout.alignment:
            return len(data) if _METADATA.match(data, at) else None
        at = chunk.end
    return len(data)


def _au_parts(data: Bytes, magic: bytes) -> Iterator[Part]:
    """Files of Sun's format, whose size is not known where it is all ones."""
    start: int | None = 0
    while start is not None:
        part, start = _au_part(data, magic, start)
        yield part


def _au_part(data: Bytes, magic: bytes, start: int) -> tuple[Part, int | None]:
    """The file that starts here, and where another one follows it."""
    if len(data) - start < _AU_HEADER:
        return Part(start, len(data)), None
    n_header, size = struct.unpack("<II" if magic == b"dns." else ">II", data[start + 4 : start + 12])
    first = start + max(n_header, _AU_HEADER)
    n_missing = first + size - len(data)
    if size != 0xFFFFFFFF and n_missing > 0:
        return Part(start, len(data), f"truncated: {n_missing} of {size} bytes are missing"), None
    if size != 0xFFFFFFFF and bytes(data[first + size : first + size + 4]) == magic:
        return Part(start, first + size), first + size
    return Part(start, len(data), samples=(first, len(data)) if n_missing else None), None


def _ogg_parts(data: Bytes) -> list[Part]:
    """The links of a chain: each begins with the first pages of its streams. A page may be cut off at the end."""
    pages = list(_ogg_pages(data))
    begins = [bool(page.flags & _FIRST_PAGE) for page in pages]
    starts = [
        0,
        *(page.start for page, *two in zip(pages[1:], begins, begins[1:], strict=False) if two == [False, True]),
    ]
    parts = [Part(start, end) for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]
    if pages and pages[-1].n_missing > 0:
        problem = f"truncated: at least {pages[-1].n_missing} bytes are missing, the rest of its last page"
        return [*parts[:-1], parts[-1]._replace(problem=problem)]
    note = (
        ""
        if pages and pages[-1].flags & _LAST_PAGE
        else "its end is not marked as such; if it was cut off there, that cannot be told"
    )
    return [*parts[:-1], parts[-1]._replace(note=note)]


class _Page(NamedTuple):
    start: int
    flags: int
    n_missing: int


def _ogg_pages(data: Bytes) -> Iterator[_Page]:
    at = data.find(b"OggS")
    while at >= 0:
        if at + 27 > len(data):
            yield _Page(at, 0, at + 27 - len(data))
            return
        n_segments = data[at + 26]
        end = at + 27 + n_segments + sum(data[at + 27 : at + 27 + n_segments])
        yield _Page(at, data[at + 5], end - len(data))
        at = data.find(b"OggS", end)


class WavWriter:
    """A 16-bit mono WAV that is whole after every write; beyond 4 GiB it is an RF64 (EBU Tech 3306, 2009)."""

    def __init__(self, path: Path, sample_rate_hz: int) -> None:
        self._file = path.open("wb", buffering=0)
        self._format = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate_hz, 2 * sample_rate_hz, 2, 16)
        self._n_bytes = 0
        self._n_header = self._file.write(self._header())

    def write(self, samples: NDArray[np.int16]) -> None:
        """Append samples [T]. Raises OSError where they cannot be written whole; those before them stay."""
        data = memoryview(samples.astype("<i2").tobytes())
        try:
            while data:
                n_written = self._file.write(data)
                self._n_bytes += n_written
                data = data[n_written:]
        finally:
            self._n_bytes -= self._n_bytes % 2
            self._file.seek(0)
            self._file.write(self._header())
            self._file.seek(self._n_header + self._n_bytes)

    def _header(self) -> bytes:
        """Where sizes of 32 bits do not suffice, what was kept free for it holds those of 64."""
        n_file = 72 + self._n_bytes
        if n_file < 2**32:
            return (
                struct.pack("<4sI4s4sI28x", b"RIFF", n_file, b"WAVE", b"JUNK", 28)
                + self._format
                + struct.pack("<4sI", b"data", self._n_bytes)
            )
        sizes = struct.pack("<4sIQQQI", b"ds64", 28, n_file, self._n_bytes, self._n_bytes // 2, 0)
        head = struct.pack("<4sI4s", b"RF64", 0xFFFFFFFF, b"WAVE")
        return head + sizes + self._format + struct.pack("<4sI", b"data", 0xFFFFFFFF)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
