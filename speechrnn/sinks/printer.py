"""Prints detections as they come."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from speechrnn.formats import to_object
from speechrnn.spotter import Step


class Printer:
    """Prints a line for each detection at once: for people, or as a JSON object."""

    def __init__(self, as_json: bool, echo: Callable[[str], None]) -> None:
        self._as_json = as_json
        self._echo = echo

    def write(self, step: Step) -> None:
        """Print the detections."""
        for detection in step.detections:
            if self._as_json:
                self._echo(msgspec.json.encode(to_object(detection)).decode())
            else:
                self._echo(
                    f"{detection.start_s:8.2f}  {detection.end_s:8.2f}  {detection.label:<10} {detection.score:.2f}"
                )

    def close(self) -> None:
        """Nothing to finish."""
