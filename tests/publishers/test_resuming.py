"""Resumes: which states they are allowed from, and that whatever a dead term left behind is in the next delta."""

import numpy as np
import pytest
from faulty import Faults, Faulty, every_failure
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_world import NOW, World, claim, fence, roll_back, rows_of

from penstock.pipeline.catalog.catalog import Actor
from penstock.pipeline.catalog.checkpoints import read_checkpoint
from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.errors import CommitConflict, InvalidInput, NotResumable
from penstock.pipeline.core.ids import BIRTH, State
from penstock.pipeline.core.manifest import Manifest, TableChange
from penstock.publishers.key_runs import write_keys
from penstock.publishers.settings import RealtimeSettings


@pytest.fixture
def world():
    made = World()
    yield made
    made.close()


def dirty(updates, table="item"):
    return sorted(updates._driver.touched.keys(table).tolist())


def commit(world, state, keys=(), table="item"):
    """A delta of `state` that carries `keys`."""
    found = read_checkpoint(world.catalog, state.marker)[0]
    refs = world.catalog.refs()
    changes = {}
    if keys:
        run = write_keys(world.store, world.catalog.reload_schema(), table, np.array(keys), f"retail/data/{state}")
        changes = {table: TableChange(runs=(run,), interval=DigestVector.of(np.zeros(world.buckets, np.uint64)))}
    draft = Manifest(
        model="retail", version=0, kind="delta", state=state, previous=refs.trunk, base=refs.trunk, positions=found.positions,
        trained_through=found.trained_through, created_at=NOW, publisher="trainer", term=1, upload="", changes=changes,
    )  # fmt: skip
    return world.catalog.commit(draft, promote=("live",), guard=lambda refs: None, actor=Actor(who="me", now=NOW))


def marked(updates, keys, value=1, table="item"):
    updates.put(table, keys, rows_of(np.full(len(keys), value)))
    return State.parse(updates.mark().state)


def test_what_the_dead_term_wrote_past_the_checkpoint_is_dirty(world):
    first = world.open()
    state = marked(first, [1, 2])
    first.put("item", [2, 3], rows_of([5, 5]))
    first.delete("item", [1])
    first.flush()
    second = world.open(state)
    assert dirty(second) == [1, 2, 3]
    assert second.unsent == 3
    assert second.term == 2
    second.put("item", [2], rows_of([9]))
    assert second.unsent == 2
    second.mark()
    assert read_checkpoint(world.catalog, 2)[0].touched["trainer"].unsent == 2
    assert (second.unsent, dirty(second)) == (0, [])


def test_what_committed_deltas_past_the_checkpoint_carry_is_dirty(world):
    first = world.open()
    one, two = marked(first, [1]), marked(first, [2])
    world.born("user")
    commit(world, one, [1])
    commit(world, two, [2, 77])
    assert dirty(world.open(one)) == [2, 77]


def test_what_was_touched_between_the_newest_live_state_and_the_checkpoint_is_dirty(world):
    first = world.open()
    marked(first, [1])
    first.touch("item", [5])
    two = marked(first, [2])
    assert dirty(world.open(two)) == [1, 2, 5]


def test_checkpoints_past_the_state_are_given_up(world):
    first = world.open()
    one, two, three = marked(first, [1]), marked(first, [2]), marked(first, [3])
    commit(world, two, [1, 2])
    world.open(one)
    assert [read_checkpoint(world.catalog, s.marker)[0].status for s in (one, two, three)] == ["marked", "marked", "expired"]
    with pytest.raises(NotResumable, match="state 1-3 of model retail was given up by an earlier resume; load state 1-2"):
        world.open(three)


def test_fresh_is_for_publishers_that_are_new(world):
    first = world.open()
    state = marked(first, [1])
    with pytest.raises(NotResumable, match="trainer has published before .term 1.; load state 1-1"):
        world.open()
    assert dirty(world.open(BIRTH)) == [1]
    with pytest.raises(NotResumable, match=f"state {state} .* was given up .*load state 1-0"):
        world.open(state)


def test_a_first_resume_that_died_may_start_fresh_again(world):
    world.open()
    assert world.open().term == 2


def test_a_state_that_nobody_knows(world):
    marked(world.open(), [1])
    with pytest.raises(NotResumable, match="1-9 .* is not known.*load state 1-1"):
        world.open(State(1, 9))
    with pytest.raises(NotResumable, match="marker 1 is of state 1-1"):
        world.open(State(7, 1))
    with pytest.raises(InvalidInput, match="offline"):
        world.open(publisher="offline")


def test_after_a_rollback_only_what_lies_before_the_cut_may_be_resumed(world):
    first = world.open()
    before = marked(first, [1])
    cut = tuple(world.memory_log.end(p) for p in range(2))
    poisoned = marked(first, [2], 666)
    claim(world)
    fences = fence(world)
    roll_back(world, fences, cut=cut)
    with pytest.raises(NotResumable, match="1-2 .* lies past the cut of the rollback to version 0.*; load state 2-90"):
        world.open(poisoned)
    second = world.open(before)
    assert (second.timeline, dirty(second)) == (2, [1])
    second.put("item", [3], rows_of([3]))
    second.flush()
    assert world.served()["item"] == {1: (1, 1), 3: (3, 3)}
    assert State.parse(second.mark().state).timeline == 2


def test_a_rollback_that_is_decided_during_the_resume_is_seen(world):
    marked(world.open(), [1])
    claim(world)
    fences, real = fence(world), world.log.inner.append
    committed = []

    def append(partition, payload):
        if not committed:
            committed.append(roll_back(world, fences))
        return real(partition, payload)

    world.log.inner.append = append
    with pytest.raises(NotResumable, match="lies past the cut"):
        world.open(State(1, 1))
    assert world.open(State(2, 90)).timeline == 2


def test_what_the_log_no_longer_holds_makes_all_dirty(world):
    first = world.open()
    state = marked(first, [1])
    first.put("item", [2], rows_of([2]))
    first.flush()
    for p in range(2):
        world.memory_log.truncate(p, world.memory_log.end(p))
    assert world.open(state)._driver.touched.whole == {"item"}


def test_undo_takes_back_the_own_rows_of_the_dead_term(world):
    first = world.open()
    state = marked(first, [1, 2])
    first.put("item", [2, 3], rows_of([5, 5]))
    first.flush()
    second = world.open(state)
    second.put("item", [2], rows_of([8]))
    asked = []

    def rows(table, keys):
        asked.append((table, keys.tolist()))
        return rows_of(np.ones(len(keys))), np.isin(keys, [1, 2])

    assert second.undo(rows) == 2
    assert asked == [("item", [1, 3])], "key 2 was put again, it is not taken back"
    second.flush()
    assert world.served()["item"] == {1: (1, 1), 2: (8, 8)}
    assert second.unsent == 0


def test_other_publishers_rows_are_not_undone(world):
    shared = RealtimeSettings(beat_us=3_600_000_000, linger_s=0.0, reserve_us=1_000_000)
    zero, one = (world.open(publisher=f"trainer-{n}", settings=shared) for n in range(2))
    zero.put("item", [0], rows_of([1]))
    one.put("item", [1], rows_of([1]))
    zero.flush()
    one.flush()
    again = world.open(BIRTH, publisher="trainer-1", settings=shared)
    assert dirty(again) == [1]
    assert again.undo(lambda table, keys: (rows_of(keys), np.zeros(len(keys), bool))) == 1
    again.flush()
    assert world.served() == {"item": {0: (1, 1)}}


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "shed", "mark", "commit", "resume"]), st.integers(0, 9), st.integers(0, 9)),
    max_size=25,
)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_a_delta_of_the_touched_keys_always_makes_the_served_state_that_of_the_trainer(steps):
    """The model: what is served is the newest version, with the log behind it; a trainer that was loaded from any checkpoint must
    bring it to its own state by the rows of the keys that checkpoints list as touched."""
    world = World()
    world.born("item")
    updates, mine = world.open(), {}
    states, live, base, committed = {BIRTH: {}}, {}, BIRTH, {BIRTH}
    try:
        for number, (step, key, other) in enumerate([*steps, ("mark", 0, 0), ("commit", 0, 0)]):
            if step == "put":
                updates.put("item", [key, other], rows_of([number, number]))
                mine |= {key: (number, number), other: (number, number)}
            elif step == "delete":
                updates.delete("item", [key])
                mine.pop(key, None)
            elif step == "shed":
                updates.touch("item", [key])
                mine[key] = (number, number)
            elif step == "mark":
                states[State.parse(updates.mark().state)] = dict(mine)
            elif step == "commit":
                head = max(states)
                if head.marker > base.marker:
                    keys = _touched_between(world, base, head)
                    rows = states[head]
                    live = {k: v for k, v in live.items() if k not in keys} | {k: rows[k] for k in keys if k in rows}
                    assert live == rows
                    commit(world, head, sorted(keys))
                    base = head
                    committed.add(head)
            elif step == "resume":
                candidates = sorted(states)
                state = candidates[-1 - key % len(candidates)]
                updates.close()
                updates, mine = world.open(state), dict(states[state])
                # A resume gives up every checkpoint past it that was never published.
                states = {s: rows for s, rows in states.items() if s.marker <= state.marker or s in committed}
    finally:
        world.close()


def _touched_between(world, base, head):
    keys = set()
    from penstock.publishers.key_runs import read_keys

    for number in range(base.marker + 1, head.marker + 1):
        for listed in read_checkpoint(world.catalog, number)[0].touched.values():
            for table, run in listed.keys.items():
                for some in read_keys(world.store, world.catalog.reload_schema(), table, run):
                    keys |= set(some.tolist())
    return keys


def test_a_resume_at_every_failure_can_be_done_again():
    world, updates = None, None

    def resumes(faults: Faults) -> None:
        nonlocal world, updates
        world, updates = World(), None
        first = world.open()
        state = marked(first, [1, 2])
        marked(first, [4])
        first.put("item", [2, 3], rows_of([5, 5]))
        first.flush()
        assert state == State(1, 1)
        environment = world.environment(store=Faulty(world.store, faults), log=Faulty(world.memory_log, faults))
        updates = world.open(state, environment=environment)

    for at in every_failure(resumes, limit=300):
        if updates is None:
            updates = world.open(State(1, 1))
        assert dirty(updates) == [1, 2, 3, 4], at
        assert updates.unsent == 4, at
        assert read_checkpoint(world.catalog, 2)[0].status == "expired", at
        updates.close()
        world.open(State(1, 1)).mark()
        world.close()


def test_a_resume_that_meets_one_rollback_after_the_other_gives_up(world, monkeypatch):
    monkeypatch.setattr("penstock.publishers.resuming.ATTEMPTS", 0)
    with pytest.raises(CommitConflict, match="rolled back 0 times"):
        world.open()
