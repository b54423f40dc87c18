"""Checkpoints as the catalog knows them, and the sidecar that a trainer keeps beside its own files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from .documents import FORMAT, Document
from .errors import Corrupt, InvalidInput
from .ids import Positions, PublisherId, State, Term, Timeline
from .manifest import DenseInfo, RunInfo
from .times import FIRST_US, LAST_US, NEVER, EventTime, WallTime, format_time, parse_time


class Touched(Document, frozen=True, kw_only=True):
    """What one publisher touched since its checkpoint before. `keys` holds a run of keys per table; of a table in `whole`
    the list overflowed, so that all of it counts as touched. `unsent` counts touched rows that the log does not hold.
    `owes_dense`: it went on from a state whose dense slice is not that of the newest version at the time."""

    keys: dict[str, RunInfo]
    whole: tuple[str, ...] = ()
    unsent: int = 0
    owes_dense: bool = False


class Checkpoint(Document, frozen=True, kw_only=True):
    """`checkpoints/<marker>.json`: the intent of a checkpoint, created before its first marker, so that its number is
    nobody else's. "open": its markers go out; "marked": all are in the log and count; "expired": a resume gave it up."""

    format: int = FORMAT
    id: str
    state: State
    status: Literal["open", "marked", "expired"]
    created_at: WallTime
    publishers: dict[PublisherId, Term]
    positions: Positions | None = None
    trained_through: EventTime = NEVER
    touched: dict[PublisherId, Touched]
    dense: DenseInfo | None = None
    """The newest dense slice that was announced on the log since the checkpoint before; None where none was."""


def newest_dense(checkpoints: Iterable[Checkpoint], timeline: Timeline) -> DenseInfo | None:
    """The newest dense slice that checkpoints, oldest first, have brought to a timeline: not what a dead term has announced past
    the one that its trainer was resumed from."""
    marked = (found for found in checkpoints if found.status == "marked" and found.state.timeline == timeline)
    return next((found.dense for found in reversed([*marked]) if found.dense is not None), None)


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint has learned from, and where it stands. `trained_through`: RFC 3339, or seconds since 1970 UTC.
    Foreign writers may leave out whatever they do not know; unknown fields are passed over."""

    model: str = ""
    state: str = ""
    """TIMELINE-MARKER; the catalog knows the rest under it."""
    step: int = 0
    trained_through: str | float | None = None
    positions: dict[str, int] = {}
    timeline: int = 0
    frequencies: dict[str, str] = {}

    def through(self) -> EventTime | None:
        if self.trained_through is None:
            return None
        if isinstance(self.trained_through, str):
            return NEVER if self.trained_through == "never" else EventTime(parse_time(self.trained_through))
        us = self.trained_through * 1e6
        if not FIRST_US <= us <= LAST_US:
            raise InvalidInput(f"trained_through {self.trained_through} is not a time in seconds since 1970")
        return EventTime(round(us))

    def encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def sidecar_of(checkpoint: Checkpoint, *, model: str, step: int) -> Sidecar:
    if checkpoint.positions is None:
        raise InvalidInput(f"checkpoint {checkpoint.state} is {checkpoint.status}, not marked")
    return Sidecar(
        model=model, state=str(checkpoint.state), step=step, timeline=checkpoint.state.timeline,
        trained_through=format_time(checkpoint.trained_through),
        positions={str(p): position.offset for p, position in enumerate(checkpoint.positions.partitions)},
    )  # fmt: skip


def decode_sidecar(data: bytes, name: str) -> Sidecar:
    """`Corrupt` names the field; `NaiveTime` when its time has no offset."""
    try:
        sidecar = msgspec.json.decode(data, type=Sidecar)
    except (msgspec.DecodeError, ValueError) as error:
        raise Corrupt(f"{name}: not a sidecar: {error}") from None
    if sidecar.state:
        State.parse(sidecar.state)
    sidecar.through()
    return sidecar
