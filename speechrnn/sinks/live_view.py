"""What `listen` shows on a terminal: level, a bar for each keyword, and the last detections."""

from __future__ import annotations

from collections import deque

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from speechrnn.audio import rms_db
from speechrnn.detector import Detection
from speechrnn.sources import AudioSource
from speechrnn.spotter import KeywordSpotter, Step

_QUIETEST_DB = -60.0
_CLIPPED = 0.999
_N_SHOWN = 8
_HOLD_S = 1.5


def bar(fraction: float, width: int) -> str:
    """A bar of eighths of a character, `fraction` of `width` long."""
    n_eighths = round(min(max(fraction, 0.0), 1.0) * width * 8)
    whole, rest = divmod(n_eighths, 8)
    return ("█" * whole + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(width)


class LiveView:
    """The terminal view of a source; `start` it, then `write` to it what becomes of each block."""

    def __init__(self, spotter: KeywordSpotter, *, console: Console | None = None) -> None:
        self._source: AudioSource
        self._spotter = spotter
        self._found: deque[Detection] = deque(maxlen=_N_SHOWN)
        self._n_found = 0
        self._position_s = 0.0
        self._posteriors = np.zeros(len(spotter.recognizer.labels), dtype=np.float32)
        self._level_db = _QUIETEST_DB
        self._clipped_at_s = -_HOLD_S
        self._message = ""
        self._console = console or Console()
        self._live: Live

    def start(self, source: AudioSource) -> None:
        """Show the name of the source and what it drops, and begin to draw."""
        self._source = source
        self._live = Live(console=self._console, refresh_per_second=12, get_renderable=self._render)
        self._live.start()

    def write(self, step: Step) -> None:
        """Show a block, its posteriors and detections."""
        self._position_s = step.position_s
        if step.posteriors is not None:
            self._posteriors = step.posteriors
        if len(step.block):
            self._level_db = rms_db(step.block)
            if np.abs(step.block).max() >= _CLIPPED:
                self._clipped_at_s = step.position_s
        self._found.extend(step.detections)
        self._n_found += len(step.detections)

    def close(self) -> None:
        """Leave the last picture on the terminal."""
        self._live.stop()

    def note(self, message: str) -> None:
        """Show a message in the last line."""
        self._message = message

    def _render(self) -> Panel:
        position_s = self._position_s
        rows: list[RenderableType] = [
            self._level_line(position_s),
            Text(""),
            self._bars(),
            Text(""),
            self._detections(),
        ]
        if self._message:
            rows.append(Text(self._message, style="yellow"))
        minutes, seconds = divmod(int(position_s), 60)
        dropped_s = getattr(self._source, "n_dropped_samples", 0) / self._source.sample_rate_hz
        subtitle = f"{self._n_found} detected   {dropped_s:.1f} s dropped   Ctrl-C ends"
        return Panel(
            Group(*rows),
            title=f"[bold]listening[/]  {self._source.name}  {minutes // 60}:{minutes % 60:02}:{seconds:02}",
            title_align="left",
            subtitle=subtitle,
            subtitle_align="left",
            width=min(72, self._console.width),
            padding=(1, 2),
        )

    def _level_line(self, position_s: float) -> Text:
        fraction = 1 - self._level_db / _QUIETEST_DB
        line = Text(f"{'level':<9}")
        line.append(bar(fraction, 40), style="red" if fraction > 0.95 else "green")
        line.append(f" {max(self._level_db, -99):>4.0f} dB")
        if position_s - self._clipped_at_s < _HOLD_S:
            line.append("  CLIPPING", style="bold red")
        return line

    def _bars(self) -> Table:
        table = Table.grid(padding=(0, 1))
        recent = {found.label for found in self._found if self._position_s - found.decided_s < _HOLD_S}
        for label, posterior in zip(self._spotter.recognizer.labels, self._posteriors, strict=True):
            is_keyword = label in self._spotter.recognizer.info.spec.labels.keywords
            style = "bold cyan" if label in recent else "cyan" if is_keyword else "bright_black"
            table.add_row(
                Text(f"{label:<8}", style=style), Text(bar(float(posterior), 40), style=style), f"{posterior:.2f}"
            )
        return table

    def _detections(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bright_black")
        for title in ("word", "start", "end", "score", "delay"):
            table.add_column(title, justify="left" if title == "word" else "right", min_width=6)
        for found in reversed(self._found):
            delay_ms = 1000 * (found.decided_s - found.end_s)
            table.add_row(
                f"[bold]{found.label}[/]",
                f"{found.start_s:.2f}",
                f"{found.end_s:.2f}",
                f"{found.score:.2f}",
                f"{delay_ms:.0f} ms",
            )
        for _ in range(_N_SHOWN - len(self._found)):
            table.add_row("")
        return table
