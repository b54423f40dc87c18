"""Conditional puts whose outcome is known: a lost reply is settled by looking.

A document that is put here differs from every other one (it carries an id), so equal bytes mean that our own put landed.
"""

from __future__ import annotations

from ..core.errors import CommitConflict, NotFound, OutcomeUnknown
from .store import Create, ObjectStore, Swap, Token

ATTEMPTS = 5


def put_settled(store: ObjectStore, key: str, data: bytes, condition: Create | Swap) -> Token:
    """As `store.put`, but `OutcomeUnknown` only when looking `ATTEMPTS` times did not settle it."""
    for attempt in range(ATTEMPTS):
        try:
            return store.put(key, data, condition)
        except OutcomeUnknown:
            if attempt == ATTEMPTS - 1:
                raise
        except CommitConflict:
            # Ours, if a put before this one landed after all; a first put that conflicts has lost, whatever is there.
            if attempt and (landed := _landed(store, key, data)):
                return landed
            raise
        if landed := _landed(store, key, data):
            return landed
    raise AssertionError("unreachable")


def _landed(store: ObjectStore, key: str, data: bytes) -> Token | None:
    try:
        found = store.get(key)
    except NotFound:
        return None
    return found.token if found.data == data else None
