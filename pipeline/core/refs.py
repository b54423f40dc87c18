"""Refs: which version each audience serves, and how it follows. One document, swapped as a whole.

All refs of a model stand in one object, so that a commit moves the trunk and every ref that follows it in one step, and a
rollback takes the poisoned version out of every ref at once. Each move says who, when and why; it replaces the last one
only after that was copied into the history.
"""

from __future__ import annotations

from typing import Literal

from .documents import FORMAT, Document
from .errors import NotFound
from .ids import Offset, Timeline, Version
from .times import WallTime

Follow = Literal["log", "versions"]
LIVE = "live"


class Ref(Document, frozen=True, kw_only=True):
    """`follow`: "log" also takes the realtime tier, "versions" moves by versions alone. `frozen` stops both at these offsets."""

    version: Version
    follow: Follow = "log"
    frozen: tuple[Offset, ...] | None = None


class Move(Document, frozen=True, kw_only=True):
    """The record of one move: who did it, when, why, and what it was."""

    id: str
    who: str
    at: WallTime
    why: str
    what: str


class Refs(Document, frozen=True, kw_only=True):
    """`refs.json`. `generation` grows with every move. `trunk` is the newest version in commit order, `timeline` its timeline.
    `abandoned` are claimed timelines that were given up: their fences are void. `oldest` is the oldest version retained."""

    format: int = FORMAT
    generation: int
    trunk: Version
    timeline: Timeline
    refs: dict[str, Ref]
    abandoned: tuple[Timeline, ...] = ()
    oldest: Version = Version(0)
    bases: tuple[Version, ...] = ()
    """Alternate bases: versions that hold a whole state beside the chain. Registering one moves no ref."""
    move: Move

    def ref(self, name: str) -> Ref:
        try:
            return self.refs[name]
        except KeyError:
            raise NotFound(f"no ref {name!r} (refs: {', '.join(sorted(self.refs))})") from None

    @property
    def next_timeline(self) -> Timeline:
        """The number that the next claim will have: one more than any that was ever claimed and decided."""
        return Timeline(max([self.timeline, *self.abandoned]) + 1)
