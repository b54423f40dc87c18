"""Rollbacks of the whole model: exact to one record, whatever stands in the log."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recoveries import begun, check_recovery, roll_back
from worlds import TABLES, World, at

from penstock.pipeline.catalog.checkpoints import finish_checkpoint, open_checkpoint
from penstock.pipeline.core.errors import NotFound
from penstock.pipeline.core.ids import State
from penstock.pipeline.core.records import RecordKind
from penstock.rollback.execution import execute
from penstock.rollback.freezing import freeze, thaw
from penstock.rollback.planning import newest_checkpoint, plan_rollback
from penstock.rollback.target import before_append, before_event, to_state, to_version


def test_invariant_7_nothing_learned_from_the_target_or_later_is_served():
    world, trainer = begun()
    trainer.put("item", 8, 0, 1, 20)
    world.commit(world.mark(trainer))
    trainer.put("item", 9, 2, 21)
    trainer.put("user", 10, 0, 22, deleted=[1])
    trainer.put("item", 7, 3)  # a late event: the trainer has learned from minute 10 all the same
    world.commit(world.mark(trainer))
    trainer.put("user", 11, 2)
    manifest = roll_back(world, before_event(at(10)))
    check_recovery(world, manifest, poison=10)
    assert (manifest.base, manifest.timeline, manifest.state.timeline) == (2, 2, 2)
    assert manifest.trained_through == at(9)
    assert manifest.rollback.lost_rows == 3 + 1 + 1
    refs = world.catalog.refs()
    assert (refs.trunk, refs.timeline, refs.refs["live"].version) == (manifest.version, 2, manifest.version)
    assert (refs.move.who, refs.move.why) == ("me", "poison")
    assert world.rows(manifest)["item"][3][0] == 5
    assert 22 not in world.rows(manifest)["user"]


@pytest.mark.parametrize("cut_at", range(8))
def test_the_cut_is_exact_to_one_record(cut_at):
    """Eight records of one partition, each having learned from one minute more: the cut is the record of the target."""
    world, trainer = begun()
    keys = world.keys_in(0, 8)
    offsets = []
    for n, key in enumerate(keys):
        offsets.append(world.log.end(0))
        trainer.put("item", 20 + n, key)
    manifest = roll_back(world, before_event(at(20 + cut_at)))
    assert manifest.rollback.cut[0] == offsets[cut_at]
    assert manifest.rollback.cut[1] == manifest.rollback.fence[1]  # nothing was written there since
    check_recovery(world, manifest, poison=20 + cut_at)
    before = [5 if key < 10 else None for key in keys]
    found = [world.rows(manifest)["item"].get(key, (None,))[0] for key in keys]
    assert found == [20 + n if n < cut_at else before[n] for n in range(8)]


def test_a_microsecond_decides():
    for shift, expected in ((0, 5), (1, 20)):
        world, trainer = begun()
        trainer.put("item", 20, 0)
        manifest = roll_back(world, before_event(at(20) + shift))
        assert world.rows(manifest)["item"][0][0] == expected


def test_what_readers_drop_counts_for_the_cut():
    """A record of a dead term is dropped by readers, and says that somebody had learned from the target by then."""
    world, zombie = begun()
    trainer = world.writer(resume=State(1, 1))
    zombie.learned = 30
    reached = world.log.end(0)
    zombie.put("item", 30, world.keys_in(0, 1)[0])
    trainer.put("item", 6, *world.keys_in(0, 3))
    manifest = roll_back(world, before_event(at(30)))
    assert manifest.rollback.cut[0] == reached
    check_recovery(world, manifest, poison=30)


def test_a_reservation_counts_for_the_cut_and_against_a_base():
    """What one publisher has learned, others may serve before they say so: a reservation ahead is where the cut is."""
    world, first = begun()
    second = world.writer("second", reserve=5)
    world.now = at(40)
    reserved = world.ends()
    second.beat(reserve=42)
    first.put("item", 10, 0)  # its weights may know minute 42 by now, though it claims minute 10
    late = world.commit(world.mark(first, second))
    assert late.trained_through < at(42)
    manifest = roll_back(world, before_event(at(42)))
    assert (manifest.base, list(manifest.rollback.cut)) == (1, reserved)
    check_recovery(world, manifest, poison=10)


def test_a_sequence_that_was_sent_twice_is_folded_once():
    world, trainer = begun()
    key = world.keys_in(0, 1)[0]
    again = trainer.seqs[0]
    trainer.put("item", 6, key)
    trainer.put("item", 7, key)
    newest = world.model["item"][key]
    trainer.seqs[0] = again
    trainer.learned = 6
    trainer.put("item", 6, key)  # the bytes of the first one, late
    manifest = roll_back(world, before_event(at(20)))
    assert world.rows(manifest)["item"][key] == tuple(map(float, newest))
    check_recovery(world, manifest)


def test_back_to_before_an_append():
    world, trainer = begun()
    trainer.put("item", 6, 0)
    world.now = moment = at(60)
    trainer.put("item", 7, 1)
    world.now = at(61)
    trainer.put("item", 8, 2)
    manifest = roll_back(world, before_append(moment + 1))
    check_recovery(world, manifest)
    assert [world.rows(manifest)["item"][key][0] for key in (0, 1, 2)] == [6, 7, 5]
    manifest = roll_back(world, before_append(moment), of=1)
    assert [world.rows(manifest)["item"][key][0] for key in (0, 1, 2)] == [6, 5, 5]


def test_back_to_a_version():
    world, trainer = begun()
    for event in (8, 9):
        trainer.put("item", event, event, 0)
        trainer.keep("user", event, 3)
        world.commit(world.mark(trainer))
    trainer.put("user", 12, 5)
    manifest = roll_back(world, to_version(2))
    check_recovery(world, manifest, poison=9)
    assert world.rows(manifest) == world.rows(world.catalog.manifest(2))
    assert manifest.changes == {}


def test_back_to_a_version_beside_the_chain():
    world, trainer = begun()
    trainer.put("item", 8, 0)
    beside = world.base(world.commit(world.mark(trainer)))
    trainer.put("item", 9, 0)
    manifest = roll_back(world, to_version(beside.version))
    assert (manifest.base, world.rows(manifest)["item"][0][0]) == (2, 8)
    check_recovery(world, manifest)


def test_back_to_a_checkpoint_that_was_never_published():
    world, trainer = begun()
    trainer.put("item", 8, 0, 1)
    trainer.keep("item", 8, 2)
    state = world.mark(trainer)
    trainer.put("item", 9, 0)
    env = world.environment()
    assert newest_checkpoint(env).state == state
    plan = plan_rollback(env, to_state(state))
    assert plan.lost.unsent == 1  # key 2 was never delivered: it goes back to what was
    manifest = execute(env, plan, why="")
    check_recovery(world, manifest)
    assert [world.rows(manifest)["item"][key][0] for key in (0, 1, 2)] == [8, 8, 5]


def test_rows_that_only_a_delta_carried_are_taken_back():
    world, trainer = begun()
    trainer.keep("item", 8, 0, 30)
    world.commit(world.mark(trainer))
    manifest = roll_back(world, before_event(at(8)))
    check_recovery(world, manifest, poison=8)
    assert 30 not in world.rows(manifest)["item"]


def test_late_messages_of_the_old_timeline_change_nothing():
    world, trainer = begun()
    trainer.put("item", 8, 0)
    manifest = roll_back(world, before_event(at(8)))
    trainer.put("item", 9, *range(10))
    second = world.writer(resume=State(1, 1))
    second.put("item", 6, 1)
    again = roll_back(world, before_event(at(7)))
    check_recovery(world, again, poison=7)
    assert again.base == manifest.version
    assert world.rows(again)["item"][0][0] == 5
    assert world.rows(again)["item"][1][0] == 6


def test_a_dense_slice_counts_if_it_was_announced_everywhere_before_the_cut():
    world, trainer = begun()
    for announce in trainer.put_dense(6, "six"):
        announce()
    half = trainer.put_dense(7, "seven")
    half[0]()
    first = roll_back(world.copy(), before_event(at(8)))
    assert first.dense.digest == "six"
    half[1]()
    for announce in trainer.put_dense(9, "nine"):
        announce()
    manifest = roll_back(world, before_event(at(9)))
    assert manifest.dense.digest == "seven"
    assert roll_back(world, before_event(at(6)), of=1).dense is None


def test_the_dense_slice_of_the_base_stays_where_none_was_announced_since():
    world, trainer = begun()
    for announce in trainer.put_dense(6, "six"):
        announce()
    world.commit(world.mark(trainer))
    trainer.put("item", 9, 0)
    assert roll_back(world, before_event(at(9))).dense.digest == "six"


def test_digests_are_stated_where_the_base_states_them():
    world, trainer = begun()
    trainer.put("item", 6, 0, 40, deleted=[1])
    manifest = roll_back(world, before_event(at(7)))
    assert manifest.digests is not None
    check_recovery(world, manifest)
    trainer = world.writer()
    trainer.put("item", 7, 41)
    world.commit(world.mark(trainer))
    trainer.put("item", 8, 42)
    unknown = roll_back(world, before_event(at(9)))
    assert unknown.digests is None
    trainer = world.writer()
    trainer.put("item", 10, 43, deleted=[41])
    world.base(unknown)
    beside = roll_back(world, before_event(at(11)))
    assert (beside.base, beside.digests is not None) == (unknown.version, True)
    check_recovery(world, beside)


def test_every_ref_whose_version_is_taken_back_moves():
    world, trainer = begun()
    world.commit(world.mark(trainer), promote=("live", "stable"))
    trainer.put("item", 8, 0)
    world.commit(world.mark(trainer), promote=("live", "canary"))
    manifest = roll_back(world, before_event(at(8)))
    assert {name: (ref.version, ref.follow) for name, ref in world.catalog.refs().refs.items()} == {
        "live": (manifest.version, "log"), "canary": (manifest.version, "versions"), "stable": (2, "versions"),
    }  # fmt: skip


def test_a_model_that_was_never_published_goes_back_to_its_birth():
    world = World()
    trainer = world.writer()
    trainer.put("item", 5, 0, 1)
    trainer.put("item", 6, 0)
    manifest = roll_back(world, before_event(at(6)))
    check_recovery(world, manifest, poison=6)
    assert world.rows(manifest)["item"].keys() == {0, 1}
    assert roll_back(world, before_event(at(5)), of=1).rows == 0


def test_an_open_checkpoint_of_a_failed_attempt_is_in_nobodys_way():
    world, trainer = begun()
    trainer.put("item", 8, 0)
    manifest = roll_back(world, before_event(at(8)))
    opened = open_checkpoint(world.catalog, timeline=2, publishers={}, now=world.now)
    finish_checkpoint(world.catalog, opened, positions=manifest.positions, trained_through=0, touched={})
    assert opened.state.marker == manifest.state.marker + 1


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "keep", "late", "zombie", "delete", "mark", "commit", "dense", "beat"]),
        st.integers(0, 11),
        st.sampled_from(TABLES),
    ),
    min_size=3,
    max_size=24,
)


@settings(max_examples=40, deadline=None)
@given(steps=steps, back=st.integers(0, 12), tables=st.sampled_from([None, None, ("item",), ("user",)]))
def test_any_history_goes_back_exactly(steps, back, tables):
    world, trainer = begun()
    zombie = trainer
    trainer = world.writer(resume=State(1, 1))
    event, marked = 5, []
    for step, key, table in steps:
        event += step in ("put", "keep", "delete", "dense")
        if step == "put":
            trainer.put(table, event, key, key + 20)
        elif step == "late":
            trainer.put(table, event - 2, key)
        elif step == "keep":
            trainer.keep(table, event, key, key + 40)
        elif step == "delete":
            trainer.put(table, event, deleted=[key])
        elif step == "zombie":
            model = {name: dict(rows) for name, rows in world.model.items()}
            zombie.put(table, event, key)
            world.model = model
        elif step == "dense":
            for announce in trainer.put_dense(event, f"d{event}"):
                announce()
        elif step == "beat":
            trainer.beat()
        elif step == "mark":
            marked.append(world.mark(trainer))
        elif marked:
            world.commit(marked.pop())
            marked.clear()
    target = before_event(at(max(6, event + 1 - back)))
    manifest = roll_back(world, target, tables=tables)
    poisoned = None if tables is not None else max(6, event + 1 - back)
    check_recovery(world, manifest, poison=poisoned)
    assert manifest.trained_through < target.time or tables is not None


def test_a_rollback_thaws():
    world, trainer = begun()
    env = world.environment()
    frozen = freeze(env, "live", why="AUC falls")
    stopped = tuple(world.ends())
    assert frozen.refs["live"].frozen == stopped
    trainer.put("item", 8, 0)
    assert freeze(env, "live", why="again").refs["live"].frozen == stopped
    roll_back(world, before_event(at(8)))
    assert world.catalog.refs().refs["live"].frozen is None
    assert freeze(env, "live", why="").refs["live"].frozen is not None
    assert thaw(env, "live", why="").refs["live"].frozen is None
    with pytest.raises(NotFound, match="no ref 'canary'"):
        freeze(env, "canary", why="")


def test_fences_carry_no_event_time():
    world, trainer = begun()
    trainer.put("item", 8, 0)
    manifest = roll_back(world, before_event(at(8)))
    for p, fence in enumerate(manifest.rollback.fence):
        record = dict(world.records(p))[fence]
        assert (record.kind, record.timeline, record.publisher) == (RecordKind.FENCE, 2, "")
    assert np.all(np.array(world.ends()) == np.array(manifest.rollback.fence) + 1)
