"""Every error that Penstock raises on purpose, as one tree:

    PenstockError                     1  anything else
    ├── InvalidInput                  2  usage or config: the caller asked for something that cannot be
    │   └── NaiveTime                    a time without an offset
    ├── Refused                       3  the input is bad, or the rules forbid it; nothing was changed
    │   ├── Corrupt                      stored or sent bytes break their format (names the rule and the object)
    │   ├── Unsupported                  a format, dtype or write_format that this build cannot read
    │   ├── ChainBroken                  a gap, overlap or disorder among versions (names them)
    │   ├── PositionGone                 the log no longer holds (or does not yet hold) an offset, or is another log
    │   ├── NotResumable                 a checkpoint off the live path or past a cut; names the state to load instead
    │   ├── Expired                      the publish was given up by a resume or by retention
    │   ├── VersionGone                  a replica no longer (or not yet) holds the version that was asked for
    │   ├── Fenced                       a rollback precedes what was sent; lists the rows that do not count
    │   └── Superseded                   a newer term of the same publisher exists
    ├── CommitConflict                4  somebody else committed; compute anew and try again
    ├── NotFound                      5  no such model, version, table, key, object
    └── Unreachable                   6  a dependency did not answer; a retry can help
        ├── OutcomeUnknown               the request may or may not have taken effect: look before you try again
        ├── Overloaded                   a replica has more to do than it can in time, and refuses at once
        └── StorageFull                  the disk or quota is full

Each class says its exit code, whether a retry of the same call can help, and a hint for people.
"""

from __future__ import annotations

from typing import ClassVar

LONGEST = 4000


class PenstockError(Exception):
    """`str()` is one line that says what happened and why, fit for a terminal whatever the names in it hold (cut to `LONGEST`
    characters, then escaped); `hint` says what to do."""

    exit_code: ClassVar[int] = 1
    retriable: ClassVar[bool] = False
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(_shown(message))
        self.hint = hint or self.default_hint


def _shown(message: str) -> str:
    whole = message if len(message) <= LONGEST else f"{message[: LONGEST // 2]} … {message[3 - LONGEST // 2 :]}"
    whole = " ".join(whole.splitlines())
    if whole.isprintable():
        return whole
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in whole)


class InvalidInput(PenstockError):
    exit_code = 2


class NaiveTime(InvalidInput):
    default_hint = "give the offset, as in 2026-11-21T10:07:00Z or 2026-11-21T12:07:00+02:00"


class Refused(PenstockError):
    exit_code = 3


class Corrupt(Refused):
    default_hint = "the bytes are not what was written; `penstock verify` tells how far the damage goes"


class Unsupported(Refused):
    default_hint = "a newer version of Penstock, or an extra of it, may read this"


class ChainBroken(Refused):
    default_hint = "`penstock verify` lists what is missing; publish a snapshot to start a new chain"


class PositionGone(Refused):
    default_hint = "bootstrap again from the live chain"


class NotResumable(Refused):
    default_hint = "load the state that the message names, or `penstock export` the live version"


class Expired(Refused):
    default_hint = "a newer run of the trainer took over; publish a checkpoint of that one"


class VersionGone(Refused):
    default_hint = "ask for the newest version, or raise the replica's before-image budget"


class Fenced(Refused):
    """`rows` maps a table to the keys (int64[n]) that were sent behind the fence and do not count."""

    default_hint = "the model was rolled back: restart the trainer from `penstock export` or from the checkpoint of the plan"

    def __init__(self, message: str, *, rows: dict[str, object] | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.rows = rows or {}


class Superseded(Refused):
    default_hint = "another process publishes under this publisher's id; give each its own, or stop this one"


class CommitConflict(PenstockError):
    exit_code = 4
    retriable = True
    default_hint = "somebody else committed first; run it again"


class NotFound(PenstockError):
    exit_code = 5


class Unreachable(PenstockError):
    exit_code = 6
    retriable = True
    default_hint = "is the server up, and is its address in the config right?"


class OutcomeUnknown(Unreachable):
    default_hint = "the reply was lost; run it again, every step is safe to repeat"


class Overloaded(Unreachable):
    """`retry_after_ms`: when there may be room again; before that, only another replica is worth asking."""

    default_hint = "ask another replica, or the same a little later; more replicas serve more lookups"

    def __init__(self, message: str, *, retry_after_ms: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_ms = retry_after_ms


class StorageFull(Unreachable):
    default_hint = "free space on the device or raise the quota, then run it again"
