"""Who may look up, who waits, and who is turned away."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from waiting import reached

from penstock.pipeline.core.errors import Overloaded, Refused
from penstock.serving.admission import BASE_KEYS, Admission, Limits


def admission_of(clock=time.monotonic, **limits):
    return Admission(Limits(**{"calls": 8, "running": 1, "waiting": 2, "wait_s": 60.0, "nbytes": 100, **limits}), clock)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as found:
        yield found


def test_no_more_run_than_may_and_first_come_is_first_served(pool):
    admission, order, release = admission_of(waiting=5), [], threading.Event()

    def look_up(name):
        with admission.turn(1, 1):
            assert admission.running == 1
            order.append(name)

    with admission.turn(1, 1):
        asking = []
        for n in range(5):
            asking.append(pool.submit(look_up, n))
            reached(lambda n=n: admission.waiting == n + 1)
        assert (order, admission.running) == ([], 1)
    release.set()
    for each in asking:
        each.result(60)
    assert order == [0, 1, 2, 3, 4]
    assert (admission.running, admission.waiting) == (0, 0)


def test_the_queue_is_bounded(pool):
    admission, later = admission_of(waiting=1), ExitStack()
    with admission.turn(1, 1):
        waits = pool.submit(later.enter_context, admission.turn(1, 1))
        reached(lambda: admission.waiting == 1)
        with pytest.raises(Overloaded, match="1 lookups wait, which is the limit") as caught, admission.turn(1, 1):
            pytest.fail("it was admitted")
        assert caught.value.retry_after_ms >= 1
        assert caught.value.hint
        assert admission.waiting == 1
    waits.result(60)
    assert (admission.running, admission.waiting) == (1, 0)
    later.close()
    assert admission.running == 0


@pytest.mark.parametrize(("timeout_s", "wait_s"), [(0.01, 60.0), (None, 0.01), (60.0, 0.01)])
def test_nobody_waits_beyond_the_deadline(timeout_s, wait_s):
    admission = admission_of(wait_s=wait_s)
    with admission.turn(1, 1):
        with pytest.raises(Overloaded, match=r"no turn within 0\.010 s"), admission.turn(1, 1, timeout_s=timeout_s):
            pytest.fail("it was admitted")
        assert admission.waiting == 0
    with admission.turn(1, 1, timeout_s=timeout_s):
        assert admission.running == 1


def test_whose_time_is_over_when_it_comes_is_refused_though_there_is_room():
    with pytest.raises(Overloaded, match="over when it came"), admission_of().turn(1, 1, timeout_s=0.0):
        pytest.fail("it was admitted")


def test_who_would_be_too_late_is_refused_at_once_and_told_when_to_come_again():
    now = [0.0]
    admission = admission_of(lambda: now[0])
    with admission.turn(BASE_KEYS, 1):
        now[0] += 2.0
    with admission.turn(BASE_KEYS, 1):  # half of it is ahead: 1 s; then 2 s for the lookup itself
        with pytest.raises(Overloaded, match=r"would take 3\.000 s, and 2\.900 s are left") as caught:
            admission.turn(BASE_KEYS, 1, timeout_s=2.9).__enter__()
        assert caught.value.retry_after_ms == 3000
        assert admission.waiting == 0


def test_an_estimate_that_is_wrong_refuses_nobody_while_there_is_room():
    now = [0.0]
    admission = admission_of(lambda: now[0])
    with admission.turn(1, 1):
        now[0] += 1000.0
    with admission.turn(1, 1, timeout_s=0.001):
        assert admission.running == 1


def test_who_is_not_waited_for_any_more_leaves_the_queue():
    admission = admission_of()
    with admission.turn(1, 1):
        with pytest.raises(Overloaded, match="has gone"), admission.turn(1, 1, is_gone=lambda: True):
            pytest.fail("it was admitted")
        assert admission.waiting == 0


def test_answers_that_are_not_sent_yet_are_bounded_though_their_lookups_are_done(pool):
    admission = admission_of(running=4, nbytes=100)
    with pytest.raises(Refused, match="an answer of 101 bytes, at most 100"), admission.turn(1, 101):
        pytest.fail("it was admitted")
    with ExitStack() as stack:
        first = stack.enter_context(admission.turn(1, 60))
        first.looked_up()
        first.looked_up()
        assert admission.running == 0
        entered = threading.Event()

        def look_up(nbytes):
            with admission.turn(1, nbytes):
                entered.set()

        waits = pool.submit(look_up, 50)
        reached(lambda: admission.waiting == 1)
        behind = pool.submit(look_up, 1)  # there is room for this one, and it does not overtake
        reached(lambda: admission.waiting == 2)
        assert not entered.is_set()
    waits.result(60)
    behind.result(60)
    assert (admission.running, admission.waiting) == (0, 0)


def test_one_that_gives_up_lets_those_behind_it_go_on(pool):
    admission = admission_of(running=4)
    gone = threading.Event()
    with ExitStack() as held, admission.turn(1, 60):
        gives_up = pool.submit(lambda: admission.turn(1, 50, is_gone=gone.is_set).__enter__())
        reached(lambda: admission.waiting == 1)
        goes_on = pool.submit(held.enter_context, admission.turn(1, 1))
        reached(lambda: admission.waiting == 2)
        gone.set()
        assert isinstance(gives_up.exception(60), Overloaded)
        goes_on.result(60)
        assert (admission.running, admission.waiting) == (2, 0)


def test_calls_are_bounded():
    admission = admission_of(calls=2)
    with admission.call(), admission.call():
        with pytest.raises(Overloaded, match="2 calls are open"), admission.call():
            pytest.fail("it was admitted")
        assert admission.calls == 2
    assert admission.calls == 0


def test_what_fails_in_its_turn_gives_it_back():
    admission = admission_of()
    with pytest.raises(ZeroDivisionError), admission.call(), admission.turn(1, 100):
        raise ZeroDivisionError
    assert (admission.calls, admission.running) == (0, 0)
    with admission.turn(1, 100):
        assert admission.running == 1


def test_nothing_is_lost_when_many_come_and_go(pool):
    admission = admission_of(running=3, waiting=3, wait_s=0.002, nbytes=10)
    most, served, shed = [0], [0], [0]
    counting = threading.Lock()

    def come_and_go(n):
        try:
            with admission.turn(n % 5, n % 10) as turn:
                with counting:
                    most[0], served[0] = max(most[0], admission.running), served[0] + 1
                turn.looked_up()
        except Overloaded:
            with counting:
                shed[0] += 1

    list(pool.map(come_and_go, range(2000)))
    assert served[0] + shed[0] == 2000
    assert 1 <= most[0] <= 3
    assert (admission.running, admission.waiting, admission._nbytes, admission._running_cost) == (0, 0, 0, 0)
