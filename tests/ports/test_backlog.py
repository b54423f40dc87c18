from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.pipeline.core.errors import OutcomeUnknown, StorageFull, Unreachable
from penstock.pipeline.core.ids import Offset
from penstock.pipeline.ports.backlog import Backlog

WAIT_S = 60.0


def test_an_outcome_is_reported_once() -> None:
    backlog = Backlog()
    good, bad, open_still = (backlog.enter(10) for _ in range(3))
    backlog.settle([(good, Offset(7)), (bad, StorageFull("no room"))])
    backlog.settle([(good, OutcomeUnknown("late")), (bad, Offset(8))])
    assert [good.done(), bad.done(), open_still.done()] == [True, True, False]
    assert good.result(0.0) == 7
    with pytest.raises(StorageFull, match="no room"):
        bad.result(0.0)
    with pytest.raises(OutcomeUnknown, match="not acknowledged"):
        open_still.result(0.0)
    assert backlog.queued_bytes == 10


def test_offset_zero_is_an_outcome() -> None:
    backlog = Backlog()
    first = backlog.enter(1)
    backlog.settle([(first, Offset(0))])
    assert first.done()
    assert first.result(0.0) == 0


def test_it_is_bounded_but_lets_one_record_of_any_size_in() -> None:
    backlog = Backlog(100)
    large = backlog.enter(1000)
    with pytest.raises(Unreachable, match="1000 bytes are under way, the bound is 100"):
        backlog.enter(0, timeout_s=0.01)
    with ThreadPoolExecutor(1) as pool:
        entering = pool.submit(backlog.enter, 60)
        backlog.settle([(large, Offset(0))])
        entering.result(WAIT_S)
    backlog.enter(40)
    with pytest.raises(Unreachable):
        backlog.enter(1, timeout_s=0.01)


def test_drain_waits_for_what_was_there_and_not_for_what_comes_after() -> None:
    backlog = Backlog()
    backlog.drain(0.0)
    first, second = backlog.enter(1), backlog.enter(1)
    with pytest.raises(OutcomeUnknown, match="2 records"):
        backlog.drain(0.01)
    with ThreadPoolExecutor(1) as pool:
        draining = pool.submit(backlog.drain, WAIT_S)
        with pytest.raises(TimeoutError):
            draining.result(0.05)
        backlog.enter(1)
        backlog.settle([(second, Offset(1))])
        with pytest.raises(TimeoutError):
            draining.result(0.05)
        backlog.settle([(first, Offset(0))])
        draining.result(WAIT_S)


def test_giving_up_settles_the_rest() -> None:
    backlog = Backlog()
    waiting = backlog.enter(5)
    backlog.give_up(OutcomeUnknown("closed"))
    with pytest.raises(OutcomeUnknown, match="closed"):
        waiting.result(0.0)
    assert backlog.queued_bytes == 0
