"""What became of a conditional put whose reply was lost.

Every object carries two words of metadata: `stamp`, drawn for each put, and `after`, the stamp of the object that the put
replaced ("nothing" for a `Create`, "anything" for an `Overwrite`). A predecessor is replaced once, so what is found later
tells who did it:

    stamp is ours                        our put landed
    after is ours                        our put landed, and was replaced since
    after is our predecessor's stamp     another put took its place: ours can never land
    the predecessor still stands         nobody has won; the same put, sent again, takes effect at most once
    anything else                        cannot be told from here
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from enum import Enum, auto

from .store import Condition, Create, Overwrite, Token

STAMP, AFTER = "penstock-stamp", "penstock-after"
_NOTHING, _ANYTHING = "nothing", "anything"


class Verdict(Enum):
    LANDED = auto()
    REPLACED = auto()
    LOST = auto()
    OPEN = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Sighting:
    """An object as it stands: its ETag, its metadata, and whether its bytes are those of the put in question."""

    etag: str
    stamp: str
    after: str
    same_bytes: bool


@dataclass(frozen=True, slots=True)
class Stamped:
    """A put and the metadata it is sent with; sending it again sends the same."""

    condition: Condition
    stamp: str

    @classmethod
    def drawn(cls, condition: Condition) -> Stamped:
        return cls(condition, secrets.token_hex(8))

    @property
    def after(self) -> str:
        if isinstance(self.condition, Create):
            return _NOTHING
        return _ANYTHING if isinstance(self.condition, Overwrite) else parts(self.condition.token)[1]

    @property
    def metadata(self) -> dict[str, str]:
        return {STAMP: self.stamp, AFTER: self.after}

    def verdict(self, seen: Sighting | None) -> Verdict:
        """What `seen` (None: no object) says about this put, one of whose replies was lost."""
        if seen is None:
            return Verdict.OPEN if isinstance(self.condition, Create) else Verdict.UNKNOWN
        if seen.stamp == self.stamp or (not seen.stamp and seen.same_bytes):
            return Verdict.LANDED
        if seen.after == self.stamp:
            return Verdict.REPLACED
        if seen.after == self.after and self.after not in {"", _ANYTHING}:
            return Verdict.LOST
        if not isinstance(self.condition, Create | Overwrite) and seen.etag == parts(self.condition.token)[0]:
            return Verdict.OPEN
        return Verdict.UNKNOWN


def token_of(etag: str, stamp: str) -> Token:
    return Token(f"{etag} {stamp}")


def parts(token: Token) -> tuple[str, str]:
    """ETag and stamp; the stamp is "" for an object that another tool wrote."""
    etag, _, stamp = token.partition(" ")
    return etag, stamp
