"""Dense slices announced on the log: one counts once it has passed in every partition."""

import itertools

import msgspec
import pytest

from penstock.pipeline.core.coordination import DenseAnnouncement
from penstock.pipeline.core.dense import DenseFold
from penstock.pipeline.core.errors import Corrupt
from penstock.pipeline.core.records import Record, RecordKind


def announcement(number, *, publisher="p", term=1, timeline=1):
    found = DenseAnnouncement(number=number, path=f"{publisher}-{term}-{number}", bytes=1, digest=f"{publisher}{term}.{number}")
    text = msgspec.json.encode(found).decode()
    return Record(kind=RecordKind.DENSE, timeline=timeline, partition=0, publisher=publisher, term=term, text=text)


def test_it_counts_once_it_has_passed_everywhere():
    for order in itertools.permutations(range(3)):
        fold = DenseFold(3)
        for p in order:
            assert fold.newest() is None
            fold.announce(p, 10 + p, announcement(1), "")
        assert fold.newest().digest == "p1.1"


def test_the_newest_that_is_complete_counts():
    fold = DenseFold(2)
    for p, number in ((0, 1), (0, 2), (1, 1)):
        fold.announce(p, 10 * number, announcement(number), "")
    assert fold.newest().digest == "p1.1"
    fold.announce(1, 20, announcement(2), "")
    assert fold.newest().digest == "p1.2"


def test_the_order_in_partition_0_decides():
    fold = DenseFold(2)
    for p, publisher in ((1, "a"), (1, "b"), (0, "b"), (0, "a")):
        fold.announce(p, 0, announcement(1, publisher=publisher), "")
    assert fold.newest().digest == "a1.1"


def test_a_second_reading_changes_nothing():
    fold = DenseFold(2)
    for number in (1, 2):
        for p in (0, 1):
            fold.announce(p, 10 * number, announcement(number), "")
    for p in (0, 1):
        fold.announce(p, 10, announcement(1), "")
    assert fold.newest().digest == "p1.2"


def test_one_that_lies_before_a_state_is_part_of_it():
    fold = DenseFold(2)
    fold.announce(0, 10, announcement(1), "")
    fold.announce(1, 20, announcement(1), "")
    assert fold.newest(after=[11, 21]) is None
    assert fold.newest(after=[11, 20]).digest == "p1.1"
    assert fold.newest(after=[0, 0]).digest == "p1.1"


def test_what_is_passed_over_is_forgotten():
    fold = DenseFold(1)
    for number in range(1, 1000):
        fold.announce(0, number, announcement(number), "")
    assert len(fold._seen) == len(fold._order) == 1


def test_what_is_no_announcement_is_refused():
    record = Record(kind=RecordKind.DENSE, timeline=1, partition=0, text='{"number": 1}')
    with pytest.raises(Corrupt, match="partition 0 offset 7: not an announcement of a dense slice"):
        DenseFold(1).announce(0, 7, record, "partition 0 offset 7")
