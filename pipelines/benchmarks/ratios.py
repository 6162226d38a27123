"""What benchmarks share: figures as ratios within one run, and the command line in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from speechrnn.evaluation.tables import Table

CLI = "from speechrnn.cli.main import main; main()"
"""Python code that is the command line."""


class Row(NamedTuple):
    """One measured figure."""

    what: str
    measured: str
    against: str
    ratio: str
    aim: str


def to_table(rows: Sequence[Row]) -> Table:
    """The figures with what they were compared with."""
    return Table(Row._fields, "<" * len(Row._fields), rows)
