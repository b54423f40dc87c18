"""What the demo shows while it plays: on a terminal a picture that lives, elsewhere a line for each thing that happens.

It knows how to show, and measures nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from penstock.pipeline.core.times import NEVER, EventTime, format_time

from .recording import TierBytes

FRAME_S, LINE_S = 0.25, 5.0
"""From one picture to the next, and from one line about the moment to the next."""
BARS = "▁▂▃▄▅▆▇█"
KEPT = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLine:
    """A replica at one moment. `behind_s`: event time from the newest event that it has learned of to the trainer's newest."""

    name: str
    version: int
    timeline: int
    rows: int
    lag_ms: float
    behind_s: float
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The whole at one moment; `auc` nan until the first window is full."""

    batch: int
    batches: int
    through: EventTime
    poisoned: bool
    auc: float
    replicas: Sequence[ReplicaLine]
    tiers: Sequence[TierBytes]


class Screen(Protocol):
    def act(self, title: str) -> None:
        """A part of the story begins."""

    def say(self, line: str) -> None:
        """Something has happened; `line` may hold rich markup."""

    def due(self) -> bool:
        """Whether a moment should be shown now."""

    def show(self, moment: Moment) -> None: ...


@dataclass(slots=True)
class Lines:
    """Screen for pipes and files: no pictures, each line with the seconds since the start."""

    console: Console
    began: float = field(default_factory=time.monotonic)
    _shown: float = field(default_factory=time.monotonic)

    def act(self, title: str) -> None:
        self.console.print(f"[dim]{time.monotonic() - self.began:5.1f} s[/]  [bold]{title}[/]", soft_wrap=True)

    def say(self, line: str) -> None:
        self.console.print(f"[dim]{time.monotonic() - self.began:5.1f} s[/]    {line}", soft_wrap=True)

    def due(self) -> bool:
        return time.monotonic() - self._shown > LINE_S

    def show(self, moment: Moment) -> None:
        self._shown = time.monotonic()
        replicas = "; ".join(f"{r.name} version {r.version}, lag {r.lag_ms:.1f} ms" for r in moment.replicas)
        self.say(f"batch {moment.batch} of {moment.batches}, AUC {moment.auc:.3f}; {replicas}")


@dataclass(slots=True)
class Picture:
    """Screen for a terminal: what happens scrolls by above a picture of the moment."""

    lines: Lines
    live: Live
    _title: str = ""
    _shown: float = 0.0
    _aucs: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def act(self, title: str) -> None:
        self._title = title
        self.lines.act(title)

    def say(self, line: str) -> None:
        self.lines.say(line)

    def due(self) -> bool:
        return time.monotonic() - self._shown > FRAME_S

    def show(self, moment: Moment) -> None:
        self._shown = time.monotonic()
        self._aucs.append(moment.auc)
        self.live.update(drawn(self._title, moment, self._aucs), refresh=True)


@contextmanager
def open_screen(console: Console) -> Iterator[Screen]:
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield Picture(Lines(live.console), live)


def drawn(title: str, moment: Moment, aucs: Sequence[float]) -> RenderableType:
    """The picture of a moment; `aucs` are those of the last moments, this one's included."""
    colour = "red" if moment.poisoned else "cyan"
    through = "nothing yet" if moment.through == NEVER else format_time(moment.through)
    quality = Text.assemble(
        ("AUC served  ", "dim"), (f"{moment.auc:.3f} ", f"bold {colour}"), (bars(aucs), colour),
        ("  poisoned labels" if moment.poisoned else "", "bold red"),
    )  # fmt: skip
    head = Text.assemble(("batch ", "dim"), f"{moment.batch}/{moment.batches}", ("   events up to ", "dim"), through)
    replicas = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("replica", "version", "timeline", "rows", "lag", "event time behind", "digest"):
        replicas.add_column(column, justify="left" if column in ("replica", "digest") else "right")
    for r in moment.replicas:
        cells = (
            r.name,
            str(r.version),
            str(r.timeline),
            f"{r.rows:,}",
            f"{r.lag_ms:.1f} ms",
            duration(r.behind_s),
            r.digest[:16],
        )
        replicas.add_row(*cells)
    tiers = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("tier", "bytes", "writes", "rows"):
        tiers.add_column(column, justify="left" if column == "tier" else "right")
    for tier in moment.tiers:
        tiers.add_row(tier.tier, size(tier.bytes), f"{tier.writes:,}", f"{tier.rows:,}")
    return Panel(Group(head, quality, Text(), replicas, Text(), tiers), title=title, title_align="left", border_style=colour)


def bars(values: Sequence[float]) -> str:
    """AUCs as bars, from 0.3 (none) to 0.9 (full)."""
    known = [value for value in values if value == value]  # noqa: PLR0124  nan is the value that is not itself
    return "".join(BARS[min(7, max(0, int((value - 0.3) / 0.6 * 8)))] for value in known)


def size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
