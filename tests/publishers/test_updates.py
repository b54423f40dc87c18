"""The realtime publisher against a log that loses replies, zombies, fences and full queues."""

import threading

import numpy as np
import pytest
from trainer_world import NOW, World, check_sequences, claim, fence, roll_back, rows_of
from waiting import reached

from penstock.pipeline.catalog.leases import publisher_term, take_term
from penstock.pipeline.core.dense import announcement_of
from penstock.pipeline.core.errors import (
    CommitConflict,
    Fenced,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    PositionGone,
    Refused,
    Superseded,
    Unreachable,
)
from penstock.pipeline.core.ids import BIRTH
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.times import NEVER
from penstock.pipeline.ports.log_checks import another_log
from penstock.publishers.settings import RealtimeSettings

HOUR_US = 3_600_000_000
QUIET = {"beat_us": HOUR_US, "flush_timeout_s": 5.0, "linger_s": 0.0, "record_bytes": 1024}


@pytest.fixture
def world():
    made = World()
    yield made
    made.log.stuck = False
    made.close()


def kinds(world):
    return [record.kind for _, _, record in world.records()]


def test_rows_and_deletions_arrive(world):
    updates = world.open()
    updates.put("item", [1, 2, 3, 2], rows_of([1, 2, 3, 4]), trained_through=NOW)
    updates.delete("item", [3])
    updates.put("user", np.array([7], np.int32), [[1, 2, 3]])
    positions = updates.flush()
    assert world.served() == {"item": {1: (1, 1), 2: (4, 4)}, "user": {7: (1, 2, 3)}}
    assert [p.offset for p in positions.partitions] == [world.memory_log.end(p) for p in range(2)]
    assert all(p.readers["trainer"].term == 1 for p in positions.partitions)
    assert {r.trained_through for _, _, r in world.records() if r.kind == RecordKind.ROWS} == {NOW}
    assert updates.rows_acknowledged <= updates.rows_put == 6
    assert updates.queued_bytes == 0
    check_sequences(world)


def test_what_the_caller_changes_afterwards_is_not_sent(world):
    updates = world.open()
    keys, rows = np.array([1, 2]), rows_of([1, 2])
    updates.put("item", keys, rows)
    keys[:], rows[:] = 9, 9
    updates.flush()
    assert world.served() == {"item": {1: (1, 1), 2: (2, 2)}}


@pytest.mark.parametrize(
    ("keys", "rows", "error", "message"),
    [
        ([1], [[1.0, np.nan]], Refused, "key 1.*NaN"),
        ([1, 5], [[1.0, 1.0], [np.inf, 0]], Refused, "key 5"),
        ([1], [[1.0, 2.0, 3.0]], Refused, "dim 3, it was born with dim 2"),
        ([1.5], [[1.0, 2.0]], InvalidInput, "int64"),
        ([1, 2], [[1.0, 2.0]], InvalidInput, r"float32\[2, dim\]"),
        ([2**63], [[1.0, 2.0]], InvalidInput, "does not fit"),
        (["x"], [[1.0, 2.0]], InvalidInput, "int64"),
    ],
)
def test_invariant_12_what_the_table_cannot_hold_changes_nothing(world, keys, rows, error, message):
    world.born("item")
    updates = world.open()
    with pytest.raises(error, match=message):
        updates.put("item", keys, rows, trained_through=NOW)
    assert updates.trained_through == NEVER
    updates.flush()
    assert world.served() == {}
    assert updates.marked


def test_rows_that_are_refused_give_birth_to_no_table(world):
    updates = world.open()
    for rows in ([[np.nan, 1.0]], [[1.0, 2.0]]):
        with pytest.raises((Refused, InvalidInput)):
            updates.put("item", [1], rows, trained_through="2038-01-19T03:14:07Z")
    assert world.catalog.reload_schema().tables == {}


def test_a_table_that_nobody_knows_is_not_found(world):
    updates = world.open()
    for call in (updates.delete, updates.touch):
        with pytest.raises(NotFound, match="no table 'itme'"):
            call("itme", [1])


def test_event_time_grows_and_must_not_run_ahead(world):
    updates = world.open()
    updates.put("item", [1], rows_of([1]), trained_through=NOW)
    updates.put("item", [2], rows_of([2]), trained_through="2001-01-01T00:00:00Z")
    with pytest.raises(InvalidInput, match="2038-01-19.*max_event_skew.*2023-11-14"):
        updates.put("item", [3], rows_of([3]), trained_through="2038-01-19T03:14:07Z")
    updates.flush()
    assert updates.trained_through == NOW
    assert world.served() == {"item": {1: (1, 1), 2: (2, 2)}}
    assert {r.trained_through for _, _, r in world.records() if r.kind == RecordKind.ROWS} == {NOW}


@pytest.mark.parametrize("fate", ["lost", "unsent", "late"])
@pytest.mark.parametrize("place", range(5))
def test_after_an_unknown_outcome_the_rows_of_now_go_out_in_a_new_term(world, fate, place):
    updates = world.open()
    with updates._stream.line:  # nothing is sent until all is put: the fates meet chosen records
        world.log.fates = ["ok"] * place + [fate]
        for value in range(5):
            updates.put("item", range(8), rows_of(np.arange(8) + 100 * value), trained_through=NOW + value)
        updates.delete("item", [0], trained_through=NOW + 5)
    updates.flush()
    world.log.land()
    assert updates.term == 2
    assert world.served() == {"item": {key: (400 + key, 400 + key) for key in range(1, 8)}}
    assert publisher_term(world.catalog, "trainer").term == 2
    newest = {}
    for p, _, record in world.records():
        if record.term == 2:
            assert record.trained_through >= newest.get(p, NEVER), "it only grows within a term"
            newest[p] = record.trained_through


class AwayStore:
    """Takes the next put of a term, loses the reply, and is away for the call after it."""

    def __init__(self, inner):
        self.inner, self.armed, self.away = inner, False, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def get(self, key):
        if self.away:
            self.away -= 1
            raise Unreachable("the store is away")
        return self.inner.get(key)

    def put(self, key, data, condition):
        token = self.inner.put(key, data, condition)
        if self.armed and "/publishers/" in key:
            self.armed, self.away = False, 1
            raise OutcomeUnknown("the reply was lost")
        return token


def test_a_new_term_that_was_taken_though_the_reply_was_lost_is_its_own(world):
    world.born("item")
    store = AwayStore(world.store)
    updates = world.open(environment=world.environment(store=store))
    store.armed, world.log.fates = True, ["unsent"]
    updates.put("item", [1], rows_of([1]))
    updates.flush()
    assert not store.armed
    assert (updates.term, world.served()) == (2, {"item": {1: (1, 1)}})


def test_a_second_process_supersedes_the_first(world):
    first = world.open()
    first.put("item", [1], rows_of([1]))
    sidecar = first.mark()
    second = world.open(BIRTH._replace(marker=1))
    second.put("item", [1], rows_of([2]))
    second.flush()
    first.put("item", [1], rows_of([3]))
    for call in (first.flush, first.mark, first.hold, lambda: first.put("item", [5], rows_of([5]))):
        with pytest.raises(Superseded, match="term 2, not 1"):
            call()
    assert sidecar.state == "1-1"
    assert world.served() == {"item": {1: (2, 2)}}


def test_a_zombie_that_must_open_a_new_term_learns_that_it_is_one(world):
    first = world.open()
    world.born("item")
    take_term(world.catalog, "trainer", timeline=1, resumed_from=BIRTH, reserve_us=0, now=NOW)
    world.log.fates = ["unsent"]
    first.put("item", [1], rows_of([1]))
    with pytest.raises(Superseded, match="publisher trainer has term 2, this process had 1"):
        first.flush()


def test_every_quiet_partition_beats(world):
    updates = world.open(settings=RealtimeSettings(**{**QUIET, "beat_us": 1_000_000}))
    reached(lambda: len(kinds(world)) == 2)
    world.now += 1_500_000
    reached(lambda: kinds(world).count(RecordKind.BEAT) == 2)
    updates.flush()
    check_sequences(world)


# ---- a full queue ----------------------------------------------------------------------------------------------------------

SMALL = {**QUIET, "queue_bytes": 4000, "flush_timeout_s": 0.3}


def test_invariant_14_a_full_queue_makes_put_wait_and_then_says_so(world):
    updates = world.open(settings=RealtimeSettings(**SMALL))
    world.log.stuck = True

    def put_on():
        for value in range(100):
            updates.put("item", range(8 * value, 8 * value + 8), rows_of(range(8)))

    with pytest.raises(Unreachable, match="wait for the log, queue_bytes is 4000"):
        put_on()
    assert updates.queued_bytes <= 4000
    assert updates.rows_shed == 0


def test_invariant_6_a_full_queue_sheds_and_the_next_delta_owes_the_rows(world):
    updates = world.open(settings=RealtimeSettings(**SMALL, overflow="shed"))
    world.log.stuck = True
    for value in range(100):
        updates.put("item", range(8 * value, 8 * value + 8), rows_of(range(8)))
    assert updates.rows_put == 800
    shed = updates.rows_shed
    assert updates.unsent == shed > 0
    world.log.stuck = False
    with updates._stream.line:
        updates._stream.sender.wait(0.0)
    updates.flush()
    sent = world.served()["item"]
    assert len(sent) == 800 - shed
    missing = next(key for key in range(800) if key not in sent)
    updates.put("item", [missing], rows_of([7]))
    updates.flush()
    assert updates.unsent == shed - 1
    updates.mark()
    checkpoint = _checkpoint(world, 1)
    assert (checkpoint.touched["trainer"].unsent, checkpoint.touched["trainer"].keys["item"].rows) == (shed - 1, 800)
    assert updates.unsent == 0


def test_repeated_touches_of_a_key_fold_while_the_log_is_stuck(world):
    updates = world.open(settings=RealtimeSettings(**SMALL))
    world.log.stuck = True
    for value in range(200):
        updates.put("item", range(8), rows_of(np.arange(8) + 100 * value), trained_through=NOW + value)
    assert updates.queued_bytes <= 4000
    world.log.stuck = False
    with updates._stream.line:
        updates._stream.sender.wait(0.0)
    updates.flush()
    assert world.served() == {"item": {key: (19900 + key, 19900 + key) for key in range(8)}}
    assert updates.rows_acknowledged < updates.rows_put / 2
    check_sequences(world)


def _checkpoint(world, marker):
    from penstock.pipeline.catalog.checkpoints import read_checkpoint

    return read_checkpoint(world.catalog, marker)[0]


def test_invariant_6_too_many_touched_keys_widen_the_table(world):
    updates = world.open(settings=RealtimeSettings(**QUIET, touched_keys=100))
    updates.put("user", [1], rows_of([1]))
    updates.put("item", range(200), rows_of(range(200)))
    updates.mark()
    touched = _checkpoint(world, 1).touched["trainer"]
    assert (touched.whole, list(touched.keys)) == (("item",), ["user"])


# ---- rollbacks -------------------------------------------------------------------------------------------------------------


def test_after_a_rollback_the_rows_behind_the_fence_are_listed_and_nothing_more_is_taken(world):
    updates = world.open()
    updates.put("item", range(4), rows_of(range(4)))
    updates.flush()
    claim(world)
    fences = fence(world)
    updates.put("item", range(10, 14), rows_of(range(4)))
    updates.put("user", [1], rows_of([1]))
    with updates._stream.line:
        updates._driver.drain()
    roll_back(world, fences)
    with pytest.raises(Fenced, match="timeline 2, not 1 any more; 5 rows") as raised:
        updates.flush()
    assert {table: keys.tolist() for table, keys in raised.value.rows.items()} == {"item": [10, 11, 12, 13], "user": [1]}
    for call in (lambda: updates.put("item", [1], rows_of([1])), lambda: updates.delete("item", [1]), updates.mark):
        with pytest.raises(Fenced):
            call()
    assert world.served() == {}


def test_a_rollback_is_noticed_within_a_beat(world):
    updates = world.open(settings=RealtimeSettings(**{**QUIET, "beat_us": 1_000_000}))
    claim(world)
    roll_back(world, fence(world))
    world.now += 2_000_000

    def refuses():
        try:
            updates.advance(None)
        except Fenced:
            return True
        return False

    reached(refuses)


def test_while_a_rollback_is_undecided_nothing_counts_and_an_abandoned_one_is_void(world):
    import msgspec

    from penstock.pipeline.catalog.catalog import Actor

    updates = world.open(settings=RealtimeSettings(**{**QUIET, "flush_timeout_s": 0.2}))
    claim(world)
    fence(world)
    updates.put("item", [1], rows_of([1]))
    with pytest.raises(CommitConflict, match="timeline 2, claimed by operator, is not decided"):
        updates.flush()
    with pytest.raises(CommitConflict):
        updates.mark()
    abandoned = threading.Timer(
        0.05,
        lambda: world.catalog.move(
            lambda refs: msgspec.structs.replace(refs, abandoned=(2,)), what="abandoned", actor=Actor(who="me", now=NOW)
        ),
    )
    abandoned.start()
    updates._driver.settings = RealtimeSettings(**QUIET)
    sidecar = updates.mark()
    abandoned.join()
    assert (sidecar.state, world.served()) == ("1-2", {"item": {1: (1, 1)}})
    assert _checkpoint(world, 2).touched["trainer"].keys["item"].rows == 1


# ---- the dense slice -------------------------------------------------------------------------------------------------------


def test_a_dense_slice_is_announced_in_every_partition_behind_the_rows_before_it(world):
    updates = world.open()
    updates.put("item", range(8), rows_of(range(8)), trained_through=NOW)
    dense = updates.put_dense({"w": np.ones(3, np.float32)}, trained_through=NOW + 1)
    updates.flush()
    for p in range(2):
        found = [record for _, _, record in world.records(p)]
        assert [r.kind for r in found][-1] == RecordKind.DENSE
        announced = announcement_of(found[-1], "")
        assert (announced.path, announced.number, found[-1].trained_through) == (dense.path, 1, NOW + 1)
    assert updates.mark().state == "1-1"
    assert _checkpoint(world, 1).dense == dense


def test_a_dense_slice_whose_announcement_got_lost_is_announced_anew(world):
    updates = world.open()
    world.log.fates = ["ok", "unsent"]
    dense = updates.put_dense({"w": np.ones(3, np.float32)})
    updates.flush()
    for p in range(2):
        newest = [record for _, _, record in world.records(p) if record.kind == RecordKind.DENSE][-1]
        assert (newest.term, announcement_of(newest, "").path, announcement_of(newest, "").number) == (2, dense.path, 1)


class Fading:
    """A log that acknowledges, and answers for what it is with the errors in `answers` first."""

    def __init__(self, inner):
        self.inner, self.answers = inner, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def flush(self, timeout_s):
        if self.answers:
            raise self.answers.pop(0)
        self.inner.flush(timeout_s)


@pytest.mark.parametrize("call", ["flush", "mark"])
def test_what_a_log_acknowledges_that_was_made_anew_does_not_count(world, call):
    log = Fading(world.log)
    updates = world.open(environment=world.environment(log=log))
    updates.put("item", [1], rows_of([1]))
    log.answers = [another_log("kafka://h/penstock-retail", "log-1")]
    with pytest.raises(PositionGone, match="no longer the log log-1"):
        getattr(updates, call)()
    with pytest.raises(PositionGone):
        updates.put("item", [2], rows_of([2]))


@pytest.mark.parametrize("call", ["flush", "mark"])
def test_a_flush_waits_for_a_log_that_does_not_say_what_it_is(world, call):
    log = Fading(world.log)
    settings = RealtimeSettings(**QUIET | {"flush_timeout_s": 0.4})
    updates = world.open(settings=settings, environment=world.environment(log=log))
    updates.put("item", [1], rows_of([1]))
    log.answers = [Unreachable("nobody"), Unreachable("nobody")]
    getattr(updates, call)()
    log.answers = [Unreachable("nobody")] * 100
    with pytest.raises(OutcomeUnknown, match="nobody"):
        getattr(updates, call)()
    assert len(log.answers) > 90
    log.answers = []
    getattr(updates, call)()


def test_many_threads_lose_nothing(world):
    updates = world.open()
    world.log.fates = (["ok"] * 37 + ["lost"]) * 20

    def put(first):
        for step in range(50):
            updates.put("item", range(first, first + 10), rows_of(np.arange(10) + step), trained_through=NOW + step)

    threads = [threading.Thread(target=put, args=(100 * n,)) for n in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    updates.flush()
    assert world.served() == {"item": {100 * n + i: (49 + i, 49 + i) for n in range(4) for i in range(10)}}


def test_closed_it_takes_nothing_more(world):
    updates = world.open()
    updates.close()
    with pytest.raises(InvalidInput, match="closed"):
        updates.put("item", [1], rows_of([1]))
