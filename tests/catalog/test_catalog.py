"""Commits, refs and their history: races, lost replies, crashes at every call."""

import threading

import msgspec
import pytest
from faulty import Faults, Faulty, every_failure

from penstock.pipeline.catalog import keys, leases
from penstock.pipeline.catalog.catalog import Actor, Catalog
from penstock.pipeline.catalog.checkpoints import (
    expire_checkpoints,
    finish_checkpoint,
    marked_checkpoint,
    open_checkpoint,
)
from penstock.pipeline.core.documents import encode
from penstock.pipeline.core.errors import CommitConflict, Corrupt, Expired, NotFound, Refused, Superseded
from penstock.pipeline.core.ids import BIRTH, Position, Positions, State
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.schema import TableSchema
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.pipeline.ports.store import Overwrite

START = Positions("log-1", (Position(0, {}), Position(0, {})))
ME = Actor(who="me", now=1_000_000, why="test")


def born(store):
    return Catalog.create(store, "retail", buckets=8, positions=START, actor=ME)


def draft(catalog, marker, *, previous=None):
    previous = catalog.refs().trunk if previous is None else previous
    return Manifest(
        model="retail", version=0, kind="delta", state=State(1, marker), previous=previous, base=previous, positions=START,
        trained_through=marker, created_at=ME.now, publisher="p", term=1, upload=f"u{marker}", changes={},
    )  # fmt: skip


def commit(catalog, marker, *, previous=None, guard=lambda refs: None, who="me"):
    return catalog.commit(
        draft(catalog, marker, previous=previous),
        promote=("live",),
        guard=guard,
        actor=Actor(who=who, now=marker, why=f"w{marker}"),
    )


def test_a_model_is_born_once():
    store = MemoryStore()
    first, second = born(store), born(store)
    assert first.schema() == second.schema()
    assert first.refs().trunk == 0
    assert first.manifest(0).state == BIRTH
    with pytest.raises(Refused, match="buckets 16 was asked for, it was born with buckets 8"):
        Catalog.create(store, "retail", buckets=16, positions=START, actor=ME)
    with pytest.raises(Refused, match="log other"):
        Catalog.create(store, "retail", buckets=8, positions=START._replace(log="other"), actor=ME)


def test_birth_at_every_failure():
    stores = [MemoryStore()]
    for at in every_failure(lambda faults: born(Faulty(stores[0], faults))):
        catalog = born(stores[0])
        assert (catalog.refs().trunk, catalog.schema().buckets) == (0, 8), at
        stores[0] = MemoryStore()


def test_a_table_is_frozen_at_its_birth():
    catalog = born(MemoryStore())
    catalog.add_tables({"item": TableSchema(dim=4, codec="float32", width=16)})
    catalog.add_tables(
        {"item": TableSchema(dim=4, codec="float32", width=16), "user": TableSchema(dim=2, codec="int8", width=10)}
    )
    assert sorted(catalog.reload_schema().tables) == ["item", "user"]
    with pytest.raises(Refused, match="table user: dim 3 was asked for, it was born with dim 2"):
        catalog.add_tables(
            {"user": TableSchema(dim=3, codec="int8", width=11), "new": TableSchema(dim=2, codec="int8", width=10)}
        )
    assert "new" not in catalog.reload_schema().tables


def test_invariant_4_every_move_is_recorded():
    catalog = born(MemoryStore())
    for marker in (1, 2, 3):
        commit(catalog, marker, who=f"trainer-{marker}")
    assert [(r.move.who, r.move.why, r.refs["live"].version) for r in catalog.moves()] == [
        ("me", "test", 0), ("trainer-1", "w1", 1), ("trainer-2", "w2", 2), ("trainer-3", "w3", 3),
    ]  # fmt: skip
    assert [m.version for m in catalog.history().trunk] == [0, 1, 2, 3]


def test_invariant_2_of_two_that_race_one_commits():
    catalog = born(MemoryStore())
    commit(catalog, 1)
    with pytest.raises(CommitConflict, match="version 1 was committed after 0"):
        commit(catalog, 2, previous=0)
    assert catalog.refs().trunk == 1
    assert commit(catalog, 2).version == 2


def test_many_writers_lose_nothing():
    store = MemoryStore()
    born(store)
    landed, lock = [], threading.Lock()

    def write(first):
        catalog = Catalog(store, "retail")
        for marker in range(first, 40, 4):
            while True:
                try:
                    manifest = commit(catalog, marker)
                    break
                except CommitConflict:
                    continue
            with lock:
                landed.append(manifest.version)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(1, 5)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    catalog = Catalog(store, "retail")
    trunk = [m.version for m in catalog.history().trunk]
    assert sorted(landed) == trunk[1:]
    assert [r.generation for r in catalog.moves()] == list(range(len(trunk)))


def test_a_commit_at_every_failure_lands_once_when_run_again():
    stores = [MemoryStore()]
    born(stores[0])
    for at in every_failure(lambda faults: commit(Catalog(Faulty(stores[0], faults), "retail"), 1)):
        catalog = Catalog(stores[0], "retail")
        if catalog.refs().trunk == 0:
            commit(catalog, 1)
        history = catalog.history().trunk
        assert [m.state.marker for m in history] == [0, 1], at
        assert len([r for r in catalog.moves() if r.trunk]) == 1, at
        stores[0] = MemoryStore()
        born(stores[0])


def test_a_base_beside_the_chain_conflicts_with_nobody():
    catalog = born(MemoryStore())
    first = commit(catalog, 1)
    beside = msgspec.structs.replace(draft(catalog, 1), kind="compaction", base=None, previous=None, full={})
    later = commit(catalog, 2)
    manifest = catalog.add_base(beside, guard=lambda refs: None, actor=ME)
    assert manifest.version > later.version
    history = catalog.history()
    assert (history.newest.version, catalog.refs().refs["live"].version) == (later.version, later.version)
    assert [m.version for m in history.chain(later.version)] == [manifest.version, later.version]
    assert [m.version for m in history.chain(first.version)] == [manifest.version]


def test_a_checkpoint_is_given_up_or_committed_never_both():
    catalog = born(MemoryStore())

    def marked():
        opened = open_checkpoint(catalog, timeline=1, publishers={"p": 1}, now=5)
        return finish_checkpoint(catalog, opened, positions=START, trained_through=7, touched={})

    first, second = marked(), marked()
    assert (first.state, second.state) == (State(1, 1), State(1, 2))

    def guard(refs):
        marked_checkpoint(catalog, second.state)

    # given up between the refs being read and being swapped
    race = iter([lambda: None, lambda: expire_checkpoints(catalog, past=first.state, actor=ME)])

    def racing(refs):
        guard(refs)
        next(race, lambda: None)()

    with pytest.raises(Expired, match="checkpoint 1-2 was given up"):
        commit(catalog, 2, guard=racing)
    assert catalog.refs().trunk == 0
    assert marked_checkpoint(catalog, first.state) == first
    third = open_checkpoint(catalog, timeline=1, publishers={"p": 1}, now=5)
    assert third.state.marker == 3
    expire_checkpoints(catalog, past=first.state, actor=ME)
    with pytest.raises(Expired):
        finish_checkpoint(catalog, third, positions=START, trained_through=7, touched={})


def test_terms_are_taken_by_swap():
    catalog = born(MemoryStore())
    options = {"timeline": 1, "resumed_from": BIRTH, "reserve_us": 0, "now": 5}
    first = leases.take_term(catalog, "trainer-0", **options)
    second = leases.take_term(catalog, "trainer-0", **options)
    assert (first.term, second.term) == (1, 2)
    with pytest.raises(Superseded, match="has term 2, this process had 1"):
        leases.take_term(catalog, "trainer-0", **options, after=first.term)


def test_terms_at_every_failure_are_never_shared():
    stores = [MemoryStore()]
    born(stores[0])
    options = {"timeline": 1, "resumed_from": BIRTH, "reserve_us": 0, "now": 5}
    for at in every_failure(lambda faults: leases.take_term(Catalog(Faulty(stores[0], faults), "retail"), "t", **options)):
        before = leases.publisher_term(Catalog(stores[0], "retail"), "t")
        after = leases.take_term(Catalog(stores[0], "retail"), "t", **options)
        assert after.term == (before.term if before else 0) + 1, at


def test_bad_documents_and_missing_models_are_named():
    store = MemoryStore()
    with pytest.raises(NotFound, match="no model 'retail'"):
        Catalog(store, "retail").refs()
    catalog = born(store)
    with pytest.raises(NotFound, match="has no version 7"):
        catalog.manifest(7)
    store.put(keys.manifest("retail", 7), b"{}", Overwrite())
    with pytest.raises(Corrupt, match="retail/versions/0000000007.json: not a Manifest"):
        catalog.manifest(7)
    store.put(keys.manifest("retail", 7), encode(catalog.manifest(0)), Overwrite())
    with pytest.raises(Refused, match="says that it is version 0"):
        catalog.manifest(7)


def test_a_fault_free_run_is_not_disturbed_by_the_wrapper():
    faults = Faults()
    born(Faulty(MemoryStore(), faults))
    assert faults.calls == 4
