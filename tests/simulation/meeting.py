"""What whoever works on the model may meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.pipeline.catalog.replay import Unreadable
from penstock.pipeline.core.errors import (
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

from .states import ensure
from .world import World

EXPECTED = (CommitConflict, Expired, Fenced, NotFound, NotResumable, PositionGone, Superseded, Unreachable)


def may_be(world: World, error: BaseException) -> bool:
    """Whether this is one of the things that happen, by what has gone wrong."""
    unreadable = isinstance(error, Unreadable) and (error.partition, error.offset) in world.log.harmed
    return isinstance(error, EXPECTED) or type(error) is Refused or unreadable


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
