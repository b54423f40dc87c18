"""What threads share out among them: every job once, nothing left behind, and the same answers as by one."""

import threading

import numpy as np
import pytest
from exchanges import connect, serve
from served import step, world_with

from penstock.serving import Replica, lookups
from penstock.serving.bags import Bags
from penstock.serving.helpers import Helpers
from penstock.serving.lookups import Alone, Want

__all__ = ["connect", "serve"]
KEYS = np.arange(200)
ASKED = np.random.default_rng(0).permutation(np.concatenate([KEYS, KEYS[:50], np.arange(1000, 1020)]))


@pytest.fixture
def world():
    return world_with(*KEYS, max_request_keys=100_000)


@pytest.fixture
def replica(world):
    replica = Replica(world.environment(), name="r")
    step(replica, 2)
    return replica


class Counting:
    """So many threads, of which it needs none; how many jobs there were."""

    def __init__(self, threads):
        self.threads, self.jobs = threads, 0

    def run(self, jobs):
        for job in jobs:
            job()
            self.jobs += 1


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_each_job_is_done_once(threads, count):
    done, own = [], threading.get_ident()
    by = set()
    Helpers(7).up_to(threads).run(
        [lambda number=number: (done.append(number), by.add(threading.get_ident())) for number in range(count)]
    )
    assert sorted(done) == list(range(count))
    assert by <= {own} if threads == 1 else len(by) <= threads


def test_all_take_part():
    meeting = threading.Barrier(3, timeout=30)
    Helpers(2).up_to(3).run([meeting.wait] * 3)


def test_a_failure_is_told_when_all_have_ended():
    begun, ended = threading.Event(), []

    def slow():
        begun.set()
        threading.Event().wait(0.2)
        ended.append("slow")

    def fails():
        assert begun.wait(30)
        raise KeyError("this one")

    with pytest.raises(KeyError, match="this one"):
        Helpers(1).up_to(2).run([slow, fails])
    assert ended == ["slow"]


@pytest.mark.parametrize("version", [None, 1])
@pytest.mark.parametrize("threads", [2, 3, 16])
def test_shared_out_lookups_are_the_same(monkeypatch, replica, version, threads):
    wanted = [
        Want("item", ASKED),
        Want("user", ASKED[:30], Bags(np.array([0, 7, 7, 20]), "mean")),
        Want("user", ASKED[:0]),
        Want("user", ASKED[::-1].copy()),
    ]
    expected = replica.lookups.answer_pooled(wanted, version, helping=Alone())
    monkeypatch.setattr(lookups, "LEAST_KEYS", 10)
    counting = Counting(threads)
    for helping in (Helpers(threads - 1).up_to(threads), counting):
        found = replica.lookups.answer_pooled(wanted, version, helping=helping)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours.rows, theirs.rows)
            np.testing.assert_array_equal(ours.found, theirs.found)
    assert threads <= counting.jobs <= threads + 4


def test_few_keys_are_not_shared_out(replica):
    class Nobody:
        threads = 4

        def run(self, jobs):
            raise AssertionError("help that is not worth it")

    assert replica.lookups.answer_pooled([Want("item", ASKED)], None, helping=Nobody())[0].found.sum() == 250


def test_who_has_nobody_waiting_gets_the_places_that_are_free(monkeypatch, serve, connect):
    server, asked = serve(max_running=4), []
    step(server.replica, 2)

    class Noting(Helpers):
        def up_to(self, threads):
            asked.append(threads)
            return super().up_to(threads)

    server._helpers = Noting(3)
    raw = connect(server)
    raw.ask(["item"], [KEYS])
    server.admission._running += 2
    raw.ask(["item"], [KEYS])
    server.admission._running += 1
    raw.ask(["item"], [KEYS])
    server.admission._running -= 3
    assert asked == [4, 2, 1]
