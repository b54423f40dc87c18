"""Lineage, chains, adoption order, dead ranges, and what a reader does with a record."""

import dataclasses

import numpy as np
import pytest

from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.errors import ChainBroken, NotFound
from penstock.pipeline.core.history import Entry, History, LivePath, Verdict, effective, table_layers, verdict
from penstock.pipeline.core.ids import Position, Positions, Reader, State
from penstock.pipeline.core.manifest import Manifest, Rollback, RunInfo, TableChange, TableFull, Target
from penstock.pipeline.core.records import Record, RecordKind
from penstock.pipeline.core.times import NEVER

NO_DIGESTS = DigestVector.of(np.zeros(1, np.uint64))


def version(number, *, base=None, timeline=1, full=False, kind="delta", rollback=None, marker=None, previous=None):
    runs = (RunInfo(path=f"{number}", kind="rows", rows=1, bytes=1, digest=""),)
    return Manifest(
        model="m", version=number, kind=kind, state=State(timeline, number if marker is None else marker),
        previous=number - 1 if previous is None and number else previous, base=base,
        positions=Positions("log", (Position(number * 10, {}),)),
        trained_through=number, created_at=number, publisher="p", term=1, upload="", rollback=rollback,
        changes={"item": TableChange(runs=runs, interval=NO_DIGESTS)},
        full={"item": TableFull(runs=runs, state=NO_DIGESTS)} if full else None,
    )  # fmt: skip


def taken(cut, fence, *, tables=None):
    return Rollback(target=Target(kind="version"), tables=tables, cut=(cut,), fence=(fence,), undo={}, lost_rows=0)


def rolled_back():
    """0 birth, 1 snapshot, 2, 3; 4 goes back to 2 (dead: 25 to 40); 5; 6 goes back to 3, on timeline 1 (dead: 30 to 60); 7."""
    return History(
        (
            version(0, kind="birth"), version(1, base=0, full=True, kind="snapshot"), version(2, base=1), version(3, base=2),
            version(4, base=2, timeline=2, kind="rollback", rollback=taken(25, 40)), version(5, base=4, timeline=2),
            version(6, base=3, timeline=3, kind="rollback", rollback=taken(30, 60)), version(7, base=6, timeline=3),
        )
    )  # fmt: skip


def record(timeline=1, *, kind=RecordKind.ROWS, publisher="p", term=1, seq=1, table="item", keys=(1,)):
    rows = np.zeros((len(keys), 4), np.uint8)
    return Record(
        kind=kind, timeline=timeline, partition=0, publisher=publisher, term=term, seq=seq, trained_through=7, text=table,
        keys=np.array(keys, np.int64) if kind == RecordKind.ROWS else np.empty(0, np.int64), rows=rows,
    )  # fmt: skip


def test_invariant_3_a_hole_in_the_commit_order_is_refused():
    with pytest.raises(ChainBroken, match="version 2 follows 0, but 1 was committed before it"):
        History((version(0), version(1), version(2, previous=0)))


def test_lineages_go_past_what_was_taken_back():
    history = rolled_back()
    assert [m.version for m in history.lineage(5)] == [0, 1, 2, 4, 5]
    assert [m.version for m in history.lineage(7)] == [0, 1, 2, 3, 6, 7]
    with pytest.raises(NotFound, match="version 9 is not on the trunk"):
        history.lineage(9)
    with pytest.raises(ChainBroken, match="version 1 names 2 as its base, which is not older"):
        History((version(0), version(1, base=2), version(2, base=1))).lineage(2)


def test_a_chain_begins_at_the_newest_whole_state():
    history = rolled_back()
    assert [m.version for m in history.chain(7)] == [1, 2, 3, 6, 7]
    beside = version(20, full=True, timeline=1, marker=3)
    history = History(history.trunk, {beside.state: beside})
    assert [m.version for m in history.chain(7)] == [20, 6, 7]
    assert [m.version for m in history.chain(5)] == [1, 2, 4, 5]
    with pytest.raises(ChainBroken, match="version 4 is a difference to 2, which is not retained"):
        History(history.trunk[4:]).chain(5)


def test_the_layers_of_a_table():
    history = rolled_back()
    assert [[run.path for run in layer] for layer in table_layers(history.chain(5), "item")] == [["1"], ["2"], ["4"], ["5"]]
    assert table_layers(history.chain(5), "user") == []


@pytest.mark.parametrize(
    ("adopted", "known", "path"),
    [
        (0, 3, [1, 2, 3]), (0, 5, [1, 2, 4, 5]), (3, 5, [4, 5]), (0, 7, [1, 2, 4, 6, 7]), (3, 7, [4, 6, 7]), (7, 7, []),
        (2, 3, [3]),
    ],
)  # fmt: skip
def test_versions_are_adopted_in_commit_order_and_no_rollback_is_passed_over(adopted, known, path):
    history, found = rolled_back(), []
    while (following := history.next_to_adopt(adopted, known)) is not None:
        adopted = following.version
        found.append(adopted)
    assert found == path


def test_the_history_before_a_timeline_was_left():
    history = rolled_back()
    assert [history.until(timeline).newest.version for timeline in (1, 2, 3)] == [3, 5, 7]


def live(history, entries, *, offset=0, timeline=1):
    path = LivePath(history, 0, offset=offset, timeline=timeline)
    return [found.offset for entry in entries if (found := path.step(entry)) is not None]


def log():
    """Timeline 1 up to 39, a fence, timeline 2 up to 59, a fence, timeline 3; in between, messages of older timelines."""
    entries = []
    for offset in range(70):
        timeline = 1 + (offset > 40) + (offset > 60)
        kind = RecordKind.FENCE if offset in (40, 60) else RecordKind.ROWS
        entries.append(Entry(offset, record(timeline + (kind == RecordKind.FENCE), kind=kind)))
    for offset in (45, 65):
        entries[offset] = Entry(offset, record(1))
    return entries


def test_invariant_7_the_live_path_leaves_out_what_was_taken_back():
    history = rolled_back()
    assert live(history, log()) == [*range(25), *(o for o in range(61, 70) if o != 65)]
    assert live(history.until(2), log()) == [*range(25), *(o for o in range(41, 60) if o != 45)]
    assert live(history.until(1), log()) == [*range(40), 45, 65]


@pytest.mark.parametrize("offset", [0, 10, 24, 25, 30, 39, 40, 41, 59, 60, 61, 69])
def test_it_does_not_matter_where_a_reader_begins(offset):
    whole = live(rolled_back(), log())
    for timeline in (1, 2, 3):
        if timeline == 1 or (timeline == 2 and offset > 40) or offset > 60:
            found = live(rolled_back(), log()[offset:], offset=offset, timeline=timeline)
            assert found == [o for o in whole if o >= offset], timeline


def test_of_a_rollback_of_one_table_only_its_rows_are_dead_and_their_numbers_count():
    history = History((version(0), version(1, base=0, timeline=2, rollback=taken(2, 5, tables=("item",)))))
    tables = ["item", "user", "item", "user", "item"]
    entries = [Entry(n, record(seq=n + 1, table=table)) for n, table in enumerate(tables)]
    entries.append(Entry(5, record(2, kind=RecordKind.FENCE)))
    entries.append(Entry(6, record(2, seq=1)))
    path = LivePath(history, 0, offset=0, timeline=1)
    found = [path.step(entry) for entry in entries]
    assert [None if e is None else len(e.record.keys) for e in found] == [1, 1, 0, 1, 0, None, 1]
    assert found[2].record.trained_through == NEVER
    assert (found[2].record.seq, path.timeline, path.offset) == (3, 2, 7)
    late = Entry(3, record(seq=3, table="user"))
    path = LivePath(history, 0, offset=0, timeline=1)
    kept = [e for e in (path.step(entry) for entry in [*entries[:3], late]) if e is not None]
    assert [e.offset for e in effective(kept, {}, 1)] == [0, 1, 2]  # the number of a dead row is taken


def test_the_fence_of_a_timeline_that_was_given_up_is_void():
    history = rolled_back()
    entries = log()
    entries[10] = Entry(10, record(9, kind=RecordKind.FENCE))
    assert live(history, entries) == [o for o in live(history, log()) if o != 10]


@pytest.mark.parametrize(
    ("newest", "term", "seq", "expected"),
    [
        (None, 1, 0, Verdict.TAKE), (None, 1, 1, Verdict.TAKE), (None, 3, 1, Verdict.TAKE), (None, 1, 2, Verdict.GAP),
        ((1, 5), 1, 5, Verdict.DROP), ((1, 5), 1, 6, Verdict.TAKE), ((1, 5), 1, 7, Verdict.GAP), ((2, 0), 1, 9, Verdict.DROP),
        ((1, 5), 2, 0, Verdict.TAKE), ((1, 5), 2, 1, Verdict.TAKE), ((1, 5), 2, 2, Verdict.GAP),
    ],
)  # fmt: skip
def test_the_verdict_on_a_record(newest, term, seq, expected):
    readers = {} if newest is None else {"p": Reader(*newest)}
    assert verdict(readers, record(term=term, seq=seq)) == expected
    assert verdict({"other": Reader(9, 9), **readers}, record(term=term, seq=seq)) == expected


def test_what_takes_effect():
    numbers = [(1, 1, 1), (1, 1, 2), (1, 1, 2), (1, 2, 0), (1, 1, 3), (1, 2, 1), (1, 2, 5), (1, 2, 4), (2, 1, 1), (2, 1, 1)]
    entries = [Entry(n, record(timeline, term=term, seq=seq)) for n, (timeline, term, seq) in enumerate(numbers)]
    assert [e.offset for e in effective(entries, {"p": Reader(1, 1)}, 1)] == [1, 3, 5, 6, 8]
    assert [e.offset for e in effective(entries, {"p": Reader(1, 1)}, 2)] == [0, 1, 3, 5, 6, 8]  # numbers are of a timeline


def test_a_rollback_of_all_is_walked_over_in_one_step():
    path = LivePath(rolled_back(), 0, offset=0, timeline=1)
    for entry in log()[:25]:
        path.step(entry)
    assert (path.offset, path.timeline) == (61, 3)
    assert dataclasses.is_dataclass(path.history)
