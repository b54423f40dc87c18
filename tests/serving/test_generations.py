"""Which generation is read follows from where partitions stand, and from nothing else."""

from __future__ import annotations

import pytest

from penstock.pipeline.core.history import History
from penstock.pipeline.core.ids import Partition, Positions, State
from penstock.pipeline.core.manifest import Manifest, Rollback, Target
from penstock.serving.generations import NONE, Generations

BACK = Rollback(target=Target(kind="version"), cut=(), fence=(), undo={}, lost_rows=0)
NEW, NEWER = {"item": "item@2"}, {"item": "item@3"}


def version(number, base, *, shapes=None, retired=(), rollback=None, previous=None):
    return Manifest(
        model="m", version=number, kind="delta" if rollback is None else "rollback", state=State(1, number),
        previous=number - 1 if number else None, base=base, positions=Positions("log", ()), trained_through=0, created_at=0,
        publisher="", term=0, upload="", changes={}, shapes=shapes or {}, retired=retired, rollback=rollback,
    )  # fmt: skip


BIRTH, FIRST = version(0, None), version(1, 0)
BROUGHT, CLEARED = version(2, 1, shapes=NEW), version(3, 2, shapes=NEW)
AGAIN = version(4, 3, shapes=NEWER)
GONE_BACK = version(5, 1, rollback=BACK)
RETIRED, RETURNED = version(6, 5, retired=("item",)), version(7, 6, shapes=NEW)
HISTORY = History((BIRTH, FIRST, BROUGHT, CLEARED, AGAIN, GONE_BACK, RETIRED, RETURNED))
ZERO, ONE = Partition(0), Partition(1)


def standing(*versions):
    found = Generations()
    for p, manifest in enumerate(versions):
        found.stand(Partition(p), manifest, HISTORY)
    return found


@pytest.mark.parametrize(
    ("versions", "read"),
    [
        ((FIRST, FIRST), None),
        ((FIRST, BROUGHT), "item"),
        ((BROUGHT, FIRST), "item"),
        ((BROUGHT, BROUGHT), "item@2"),
        ((BROUGHT, CLEARED), "item@2"),
        ((CLEARED, CLEARED), "item@2"),
        ((FIRST, CLEARED), NONE),
        ((CLEARED, AGAIN), "item@2"),
        ((AGAIN, AGAIN), "item@3"),
        ((FIRST, AGAIN), NONE),
        ((GONE_BACK, BROUGHT), "item"),
        ((GONE_BACK, CLEARED), NONE),
        ((GONE_BACK, GONE_BACK), None),
        ((GONE_BACK, RETIRED), "item"),
        ((RETIRED, RETIRED), "item"),
        ((RETIRED, RETURNED), "item@2"),
        ((RETURNED, RETURNED), "item@2"),
    ],
)
def test_what_is_read_is_whole_everywhere(versions, read):
    assert standing(*versions).current.get("item") == read
    assert standing(*reversed(versions)).current.get("item") == read


@pytest.mark.parametrize(
    ("versions", "goes_to", "waits"),
    [
        ((FIRST, FIRST), BROUGHT, False),
        ((BROUGHT, FIRST), CLEARED, True),
        ((BROUGHT, BROUGHT), CLEARED, False),
        ((BROUGHT, CLEARED), CLEARED, False),
        ((CLEARED, BROUGHT), AGAIN, False),
        ((AGAIN, BROUGHT), CLEARED, False),
        ((FIRST, CLEARED), CLEARED, False),  # loaded past the others: the one behind waits for nobody
    ],
)
def test_only_who_is_ahead_waits(versions, goes_to, waits):
    assert standing(*versions).must_wait(ZERO, goes_to, HISTORY) is waits


def test_what_is_read_changes_before_anything_is_written():
    found = standing(CLEARED, CLEARED)
    before = found.current
    found.leave(ZERO, CLEARED, HISTORY)
    assert found.current is before
    found.leave(ZERO, GONE_BACK, HISTORY)
    assert found.current == {"item": NONE}
    found.stand(ZERO, GONE_BACK, HISTORY)
    assert found.current == {"item": NONE}
    found.leave(ONE, GONE_BACK, HISTORY)
    found.stand(ONE, GONE_BACK, HISTORY)
    assert found.current == {}


def test_what_fails_half_way_counts_as_neither():
    found = standing(BROUGHT, BROUGHT)
    found.leave(ZERO, CLEARED, HISTORY)
    assert found.current == {"item": "item@2"}
    found.leave(ZERO, GONE_BACK, HISTORY)
    assert found.current == {"item": NONE}


def test_a_base_that_is_not_retained_is_not_relied_on():
    found = Generations()
    found.stand(ZERO, BROUGHT, History((BROUGHT,)))
    found.stand(ONE, FIRST, HISTORY)
    assert found.current == {"item": NONE}
