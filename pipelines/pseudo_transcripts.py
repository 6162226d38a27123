"""What PocketSphinx guesses in recordings of which nothing is known, and how lists of places in them are written."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechrnn.audio import read, to_int16
from speechrnn.cli import outputs
from speechrnn.config import TRAINING_RATE_HZ
from speechrnn.data.pack import AlignedWord, FalseAlarm
from speechrnn.errors import DataError


def open_decoder(why: str) -> Any:
    """PocketSphinx with its own English. Raises DataError, saying why it is needed, if it is not installed."""
    try:
        from pocketsphinx import Decoder
    except ModuleNotFoundError:
        raise DataError(f"{why}; install it") from None
    return Decoder(samprate=TRAINING_RATE_HZ, loglevel="FATAL")


def decode(decoder: Any, file: Path) -> None:
    """Let PocketSphinx hear a whole recording; it then has the words, and their times. Raises AudioError."""
    samples = to_int16(read(file, TRAINING_RATE_HZ))
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()


def to_csv(rows: Sequence[Sequence[object]]) -> str:
    """Rows as lines of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_list(
    path: Path, kind: type[AlignedWord] | type[FalseAlarm], places: Sequence[AlignedWord | FalseAlarm]
) -> None:
    """Write a list of places with its header anew, aside first. Raises DeviceError."""
    outputs.write_text(path, to_csv([kind._fields, *places]))
