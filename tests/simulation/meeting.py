"""What whoever works on the model may meet."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from penstock.pipeline.catalog.replay import Unreadable
from penstock.pipeline.core.errors import (
    ChainBroken,
    CommitConflict,
    Expired,
    Fenced,
    NotFound,
    NotResumable,
    PenstockError,
    PositionGone,
    Refused,
    Superseded,
    Unreachable,
)
from penstock.pipeline.core.ids import Version

from .states import ensure
from .world import World

EXPECTED = (CommitConflict, Expired, Fenced, NotFound, NotResumable, PositionGone, Superseded, Unreachable)


def may_be(world: World, error: BaseException) -> bool:
    """Whether this is one of the things that happen, by what has gone wrong."""
    unreadable = isinstance(error, Unreadable) and (error.partition, error.offset) in world.log.harmed
    return isinstance(error, EXPECTED) or type(error) is Refused or unreadable or _has_come_back(world, error)


def _has_come_back(world: World, error: BaseException) -> bool:
    """A checkpoint from before a table was retired, published when it is not any more, beside a version that has emptied it."""
    found = re.match(r"table (\w+)\S*: not the state that version (\d+) has", str(error))
    if found is None or not isinstance(error, ChainBroken):
        return False
    return found[1] in world.invariants.catalog.manifest(Version(int(found[2]))).retired


def survived(world: World, what: str, work: Callable[[], Any]) -> Any:
    """What `work` returns, None when it met what may happen."""
    try:
        found = work()
    except PenstockError as error:
        ensure(may_be(world, error), f"{what}: {type(error).__name__}: {error}")
        world.count(f"{what}: {type(error).__name__}")
        world.tell(f"{what}: {type(error).__name__}: {error}")
        return None
    world.count(what)
    world.tell(what)
    return found
