"""One lookup from its keys to its answer: rounds of asking until all is answered, from one timeline, or the time is over."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

from penstock.pipeline.core.errors import Overloaded, PenstockError, Unreachable, VersionGone
from penstock.pipeline.core.ids import Offset, Partition, Timeline, Version

from .answers import Answer
from .asking import Asking, Means
from .merging import AnotherShape, Merging, Pending, Piece, together

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 0.2


class GivingUp:
    """Lets another thread end a lookup."""

    def __init__(self) -> None:
        self.given_up = threading.Event()
        self._asking: Asking | None = None

    def give_up(self) -> None:
        self.given_up.set()
        if (asking := self._asking) is not None:
            asking.give_up(Unreachable("the lookup was given up"))

    def runs(self, asking: Asking) -> None:
        self._asking = asking
        if self.given_up.is_set():
            self.give_up()


class Rounds:
    """`until`: of `time.monotonic`."""

    def __init__(self, means: Means, merging: Merging, *, until: float, giving_up: GivingUp) -> None:
        self._means, self._merging, self._until, self._giving_up = means, merging, until, giving_up
        self._errors: list[PenstockError] = []
        """What went wrong in the last round in which something did."""
        self._number = 0

    def answers(self, version: Version | None) -> dict[str, Answer]:
        """Asks until every key is answered, and all from one timeline; after the first round only for those that are not."""
        fleet, good, pending = self._means.fleet, list[Piece](), None
        while True:
            pieces, is_shaped = self._round(pending, version)
            good = [*good, *pieces] if is_shaped else []
            newest = _newest(good) if version is not None else fleet.seen(_newest(good))
            late = [p for p in good if p.part.reply is None or p.part.reply.timeline < newest]
            if good and not late:
                return self._merged(good)
            self._errors = _errors(late) or self._errors
            gone = next((error for error in self._errors if isinstance(error, VersionGone)), None)
            if version is not None and gone is not None and fleet.is_settled:
                raise gone
            good = [p for p in good if p not in late]
            pending = together([p.pending for p in late]) if good else None
            if not good:
                self._merging.forget()
            self._pause()

    def answers_at_one_version(self) -> dict[str, Answer]:
        """Asks all shards for the newest version that all have, and again when one has it no more."""
        fleet = self._means.fleet
        while True:
            self._merging.forget()
            version = fleet.common_version(fleet.routing(self._until))
            pieces, is_shaped = self._round(None, version)
            newest = fleet.seen(_newest(pieces))
            if is_shaped and all(p.part.reply is not None and p.part.reply.timeline == newest for p in pieces):
                return self._merged(pieces)
            left = Unreachable(f"version {version} is of a timeline that a rollback has left for {newest}")
            self._errors = _errors(pieces) or [left]
            fleet.hurry()
            self._pause()

    def _round(self, pending: Pending, version: Version | None) -> tuple[list[Piece], bool]:
        """Asks for what is pending once. Whether the rows of each table had one shape."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise unreachable(self._errors)
        routing = self._means.fleet.routing(self._until)
        pieces = self._merging.pieces(routing, pending, version=version, timeout_ms=max(1, int(left * 1000)))
        asking = Asking(self._means, [piece.part for piece in pieces], until=self._until)
        self._giving_up.runs(asking)
        asking.run()
        fatal = [piece.part.fatal for piece in pieces if piece.part.fatal is not None]
        if fatal and not isinstance(fatal[0], AnotherShape):
            raise fatal[0]
        return pieces, not fatal

    def _pause(self) -> None:
        """Before the next round; others wait as well, so not all for the same time."""
        self._means.count(rounds=1)
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * float(2 ** min(self._number, 10))) * random.uniform(0.5, 1.0)
        self._number += 1
        busy = [error.retry_after_ms / 1e3 for error in self._errors if isinstance(error, Overloaded)]
        if len(busy) == len(self._errors):
            pause = max(pause, min(busy, default=0.0))
        if self._giving_up.given_up.wait(max(0.0, min(pause, self._until - time.monotonic()))):
            raise Unreachable("the lookup was given up")

    def _merged(self, pieces: Sequence[Piece]) -> dict[str, Answer]:
        merging, replies = self._merging, [piece.part.reply for piece in pieces if piece.part.reply is not None]
        merging.pool(pieces)
        version, timeline = min(reply.version for reply in replies), replies[0].timeline
        positions = dict[Partition, Offset]()
        for reply in replies:
            for partition, offset in reply.positions.items():
                positions[partition] = min(offset, positions.get(partition, offset))
        found = zip(merging.wanted, merging.rows, merging.found, strict=True)
        return {
            table: Answer(rows, there, version, timeline, positions)
            for table, rows, there in found
            if rows is not None and there is not None
        }


def _newest(pieces: Sequence[Piece]) -> Timeline:
    return max((piece.part.reply.timeline for piece in pieces if piece.part.reply is not None), default=Timeline(0))


def _errors(pieces: Sequence[Piece]) -> list[PenstockError]:
    return [error for piece in pieces if piece.part.reply is None for error in piece.part.errors.values()]


def unreachable(errors: Sequence[PenstockError]) -> PenstockError:
    """All that went wrong, as one."""
    if errors and all(type(error) is type(errors[0]) for error in errors) and isinstance(errors[0], VersionGone | Overloaded):
        return errors[-1]
    said = list(dict.fromkeys(str(error) for error in errors))
    return Unreachable("; ".join(said) or "the time was over before anybody was asked")
