"""Targets, cuts and bases, as pure functions."""

import numpy as np
import pytest

from penstock.pipeline.core.errors import InvalidInput, Refused
from penstock.pipeline.core.history import Entry
from penstock.pipeline.core.ids import Position, Positions, State
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.records import Record, RecordKind
from penstock.rollback.target import (
    before_append,
    before_event,
    choose_base,
    first_reaching,
    reaches,
    scan_floor,
    to_state,
    to_version,
)

MINUTE = 60_000_000


def version(number, *, made, learned, offset):
    return Manifest(
        model="m", version=number, kind="delta", state=State(1, number), previous=None, base=None,
        positions=Positions("log", (Position(offset, {}),)), trained_through=learned, created_at=made, publisher="p", term=1,
        upload="", changes={},
    )  # fmt: skip


LINEAGE = [version(n, made=100 * n, learned=90 * n, offset=10 * n) for n in range(1, 6)]


def entry(offset, *, learned=0, appended=0, kind=RecordKind.ROWS):
    return Entry(
        offset, Record(kind=kind, timeline=1, partition=0, trained_through=learned, keys=np.empty(0, np.int64)), appended
    )


@pytest.mark.parametrize("kind", [k for k in RecordKind if k != RecordKind.FENCE])
def test_a_record_of_any_kind_reaches_a_target(kind):
    assert reaches(before_event(7), entry(0, learned=7, kind=kind))
    assert not reaches(before_event(8), entry(0, learned=7, kind=kind))
    assert reaches(before_append(7), entry(0, appended=7, kind=kind))
    assert not reaches(before_append(8), entry(0, appended=7, learned=99, kind=kind))


def test_a_fence_reaches_nothing():
    assert not reaches(before_event(0), entry(0, learned=7, kind=RecordKind.FENCE))


def test_only_a_time_cuts_records():
    for target in (to_version(1), to_state(State(1, 1))):
        with pytest.raises(InvalidInput, match="is not cut by time"):
            reaches(target, entry(0))


def test_the_first_record_that_reaches_it_is_the_cut():
    entries = [entry(n, learned=learned) for n, learned in enumerate([1, 5, 3, 7, 5])]
    assert [first_reaching(before_event(event), entries) for event in (1, 2, 5, 6, 7, 8)] == [0, 1, 1, 3, 3, None]


def test_where_a_cut_is_looked_for():
    assert scan_floor(before_event(300), LINEAGE, margin_us=None).version == 3  # 270 is the last below
    assert scan_floor(before_event(270), LINEAGE, margin_us=None).version == 2
    assert scan_floor(before_event(400), LINEAGE, margin_us=150).version == 2  # made before 250
    assert scan_floor(before_append(400), LINEAGE, margin_us=50).version == 3
    assert scan_floor(before_append(10), LINEAGE, margin_us=0).version == 1


def test_the_base_is_the_newest_that_is_clean_and_before_every_cut():
    assert choose_base(before_event(300), LINEAGE, [None]).version == 3
    assert choose_base(before_event(300), LINEAGE, [29]).version == 2
    assert choose_base(before_append(999), LINEAGE, [40]).version == 4
    with pytest.raises(Refused, match="no version that is retained is old enough to go back to before event time"):
        choose_base(before_event(90), LINEAGE, [None])
    with pytest.raises(Refused, match="the oldest, 1, was made 1970-01-01T00:00:00.000100Z and has learned up to"):
        choose_base(before_append(5), LINEAGE, [9])
