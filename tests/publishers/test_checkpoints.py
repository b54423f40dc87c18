"""Checkpoints of one publisher and of several: what their positions mean, and what becomes of them when a step fails."""

import dataclasses
import threading

import msgspec
import numpy as np
import pytest
from faulty import Crash, Faults, Faulty, every_failure
from trainer_world import NOW, World, check_sequences, rows_of

from penstock.pipeline.catalog.catalog import Actor, Catalog
from penstock.pipeline.catalog.checkpoints import expire_checkpoints, read_checkpoint
from penstock.pipeline.catalog.leases import take_term
from penstock.pipeline.core.errors import Expired, InvalidInput, OutcomeUnknown, Refused, Superseded
from penstock.pipeline.core.ids import BIRTH, State
from penstock.pipeline.core.records import RecordKind
from penstock.publishers.key_runs import read_keys
from penstock.publishers.marking import Receipt
from penstock.publishers.settings import RealtimeSettings

SHARED = RealtimeSettings(beat_us=3_600_000_000, flush_timeout_s=5.0, linger_s=0.0, reserve_us=10_000_000)


@pytest.fixture
def world():
    made = World()
    yield made
    made.close()


def checkpoint(world, state):
    return read_checkpoint(world.catalog, State.parse(state).marker)[0]


def touched(world, found, publisher="trainer"):
    listed, schema = found.touched[publisher], world.catalog.reload_schema()
    return {
        table: sorted(np.concatenate(list(read_keys(world.store, schema, table, run))).tolist())
        for table, run in listed.keys.items()
    }


def test_invariant_5_a_checkpoint_says_where_to_go_on(world):
    updates = world.open()
    updates.put("item", range(10), rows_of(range(10)), trained_through=NOW - 5)
    sidecar = updates.mark(step=42)
    at_mark = world.served()
    updates.put("item", [3, 11], rows_of([33, 11]), trained_through=NOW)
    updates.delete("item", [4])
    second = updates.mark()
    found = checkpoint(world, sidecar.state)
    assert (sidecar.state, second.state, sidecar.step, sidecar.model) == ("1-1", "1-2", 42, "retail")
    assert sidecar.through() == found.trained_through == NOW - 5
    assert world.served(found.positions, found.state, start=at_mark) == world.served()
    assert world.served(checkpoint(world, "1-2").positions, State(1, 2)) == {}
    assert touched(world, found) == {"item": list(range(10))}
    assert touched(world, checkpoint(world, "1-2")) == {"item": [3, 4, 11]}
    for p, position in enumerate(found.positions.partitions):
        record = next(r for q, offset, r in world.records(p) if offset == position.offset - 1)
        assert (record.kind, record.state) == (RecordKind.MARKER, State(1, 1))
        assert position.readers == {"trainer": (record.term, record.seq)}
    check_sequences(world)


def test_a_marker_whose_fate_is_unknown_costs_its_number_only(world):
    updates = world.open()
    updates.put("item", range(10), rows_of(range(10)))
    updates.flush()
    world.log.fates = ["ok", "lost"]
    sidecar = updates.mark()
    assert (sidecar.state, updates.term) == ("1-2", 2)
    assert (checkpoint(world, "1-1").status, checkpoint(world, "1-2").publishers) == ("open", {"trainer": 2})
    assert touched(world, checkpoint(world, "1-2")) == {"item": list(range(10))}


def test_when_no_marker_gets_through_what_was_touched_stays_so(world):
    updates = world.open()
    updates.put("item", range(10), rows_of(range(10)))
    updates.flush()
    world.log.fates = (["unsent"] * 2 + ["ok"] * 2) * 3
    with pytest.raises(OutcomeUnknown, match="markers of 3 checkpoints"):
        updates.mark()
    sidecar = updates.mark()
    assert touched(world, checkpoint(world, sidecar.state)) == {"item": list(range(10))}


def test_a_checkpoint_that_a_resume_gave_up_does_not_count(world):
    updates = world.open()
    updates.put("item", [1], rows_of([1]))
    finish = updates._checkpoints._finish

    def expired_before(*arguments):
        expire_checkpoints(world.catalog, past=BIRTH, actor=Actor(who="me", now=NOW))
        return finish(*arguments)

    updates._checkpoints._finish = expired_before
    with pytest.raises(Expired, match="checkpoint 1-1 was given up"):
        updates.mark()
    updates._checkpoints._finish = finish
    assert not updates.marked
    assert touched(world, checkpoint(world, updates.mark().state)) == {"item": [1]}
    assert updates.marked


def test_puts_wait_at_the_barrier(world):
    updates = world.open()
    updates.put("item", [1], rows_of([1]))
    receipt = updates.hold()
    ends = [world.memory_log.end(p) for p in range(2)]
    done = threading.Event()

    def put():
        updates.put("item", [1], rows_of([2]))
        done.set()

    thread = threading.Thread(target=put)
    thread.start()
    assert not done.wait(0.1)
    assert [world.memory_log.end(p) for p in range(2)] == ends
    with pytest.raises(InvalidInput, match="held for another checkpoint"):
        updates.hold()
    updates.release(None)
    thread.join()
    updates.flush()
    assert msgspec.json.decode(msgspec.json.encode(receipt), type=Receipt) == receipt
    assert world.served() == {"item": {1: (2, 2)}}
    assert touched(world, checkpoint(world, updates.mark().state)) == {"item": [1]}


def test_two_publishers_cut_one_checkpoint(world):
    zero = world.open(publisher="trainer-0", settings=SHARED)
    one = world.open(publisher="trainer-1", settings=SHARED)
    zero.put("item", range(0, 10, 2), rows_of(range(5)), trained_through=NOW - 9)
    one.put("item", range(1, 10, 2), rows_of(range(5)), trained_through=NOW - 3)
    with pytest.raises(Refused, match="of trainer-0 would miss what trainer-1 publishes"):
        zero.mark()
    receipt = one.hold()
    sidecar = zero.mark(others=[receipt])
    one.release(sidecar)
    found = checkpoint(world, sidecar.state)
    assert sidecar.through() == NOW - 3
    assert touched(world, found, "trainer-0") == {"item": [0, 2, 4, 6, 8]}
    assert touched(world, found, "trainer-1") == {"item": [1, 3, 5, 7, 9]}
    assert zero.marked
    assert one.marked
    zero.put("item", range(0, 10, 2), rows_of(range(10, 15)))
    one.put("item", range(1, 10, 2), rows_of(range(10, 15)))
    zero.flush()
    one.flush()
    for p, position in enumerate(found.positions.partitions):
        after = [r for _, offset, r in world.records(p) if offset >= position.offset]
        for publisher, reader in position.readers.items():
            seqs = [r.seq for r in after if r.publisher == publisher]
            assert seqs == list(range(reader.seq + 1, reader.seq + 1 + len(seqs))), "whoever starts there finds no hole"
    assert world.served(found.positions, found.state)["item"] == {
        **{2 * i: (10 + i,) * 2 for i in range(5)}, **{2 * i + 1: (10 + i,) * 2 for i in range(5)}
    }  # fmt: skip


def test_a_receipt_of_a_superseded_publisher_does_not_count(world):
    zero = world.open(publisher="trainer-0", settings=SHARED)
    one = world.open(publisher="trainer-1", settings=SHARED)
    one.put("item", [1], rows_of([1]))
    receipt = one.hold()
    take_term(world.catalog, "trainer-1", timeline=1, resumed_from=BIRTH, reserve_us=1, now=NOW)
    with pytest.raises(Superseded, match="publisher trainer-1 has term 2, not 1"):
        zero.mark(others=[receipt])
    with pytest.raises(InvalidInput, match="each publisher takes part once"):
        zero.mark(others=[msgspec.structs.replace(receipt, publisher="trainer-0")])
    with pytest.raises(InvalidInput, match="is on timeline 7"):
        zero.mark(others=[msgspec.structs.replace(receipt, timeline=7)])
    zero.put("item", [2], rows_of([2]))
    zero.flush()


def test_without_reservations_a_second_publisher_is_refused(world):
    world.open(publisher="trainer-0")
    for settings in (world.settings, SHARED):
        with pytest.raises(InvalidInput, match="trainer-1 would share model retail with trainer-0"):
            world.open(publisher="trainer-1", settings=settings)
    with pytest.raises(InvalidInput, match="trainer-1"):
        world.open(publisher="trainer-1", settings=dataclasses.replace(SHARED, reserve_us=0))


def test_event_time_is_reserved_in_every_partition_before_it_is_learned(world):
    updates = world.open(settings=SHARED)
    updates.advance(NOW - 50_000_000)
    reserved = [max(r.trained_through for _, _, r in world.records(p) if r.kind == RecordKind.BEAT) for p in range(2)]
    assert reserved == [NOW - 40_000_000] * 2
    for step in range(0, 50_000_000, 1_000_000):
        through = NOW - 49_000_000 + step
        updates.put("item", [1], rows_of([1]), trained_through=through)
        for p in range(2):
            beats = [r.trained_through for _, _, r in world.records(p) if r.kind == RecordKind.BEAT]
            assert max(beats) >= through
    updates.flush()
    assert sum(r.kind == RecordKind.BEAT for _, _, r in world.records()) < 50, "in steps, not with every put"
    check_sequences(world)


class Switch:
    """The store or log of a process that dies, or is not answered, only once `faults` is given."""

    def __init__(self, inner):
        self.inner, self.now = inner, inner

    def arm(self, faults):
        self.now = Faulty(self.inner, faults)

    def __getattr__(self, name):
        return getattr(self.now, name)


def test_a_mark_at_every_failure_counts_once_or_not_at_all():
    outcomes = set()
    world, run = None, None

    def marks(faults: Faults) -> None:
        nonlocal world, run
        world, run = World(), {}
        store, log = Switch(world.store), Switch(world.memory_log)
        updates = world.open(environment=world.environment(store=store, log=log))
        updates.put("item", range(8), rows_of(range(8)))
        updates.flush()
        store.arm(faults)
        log.arm(faults)
        run["updates"] = updates
        run["sidecar"] = updates.mark()

    for at in every_failure(marks, limit=200):
        if (sidecar := run.get("sidecar")) is not None:
            assert checkpoint(world, sidecar.state).status == "marked", at
        # The trainer is started again from the state that it knows of, and marks: whatever was touched is covered.
        origin = BIRTH if sidecar is None else State.parse(sidecar.state)
        again = world.open(origin)
        found = checkpoint(world, again.mark().state)
        between = range(origin.marker + 1, found.state.marker + 1)
        covered = set()
        for number in between:
            listed = read_checkpoint(world.catalog, number)[0]
            if "trainer" in listed.touched:
                covered |= set(touched(world, listed).get("item", []))
        assert covered >= (set(range(8)) if sidecar is None else set()), at
        assert world.served() == {"item": {key: (key, key) for key in range(8)}}, at
        outcomes.add(sidecar is None)
        try:
            world.close()
        except Crash:
            raise AssertionError("closing makes no call") from None
    assert outcomes == {True, False}
    assert Catalog(world.store, "retail").refs().trunk == 0
