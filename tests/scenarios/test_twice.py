"""What is shipped is state: writes that come again, from whatever point on, change nothing. For a replica's table and a fold."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.pipeline.core.ids import Partition
from penstock.serving.table import Table
from penstock.slicer.fold import Fold

BUCKETS = 8
WRITES = st.lists(st.dictionaries(st.integers(-3, 12), st.floats(-8, 8, width=32) | st.none(), min_size=1), max_size=6)
"""Records: key -> the row's value, None for a deletion."""


def parts(record):
    puts = {key: value for key, value in record.items() if value is not None}
    rows = np.repeat(np.array([*puts.values()], np.float32)[:, None], 2, axis=1).view(np.uint8).reshape(len(puts), 8)
    return np.array([*puts], np.int64), rows, np.array([key for key in record if key not in puts], np.int64)


def table_after(records):
    found = Table(
        codec="float32", dim=2, width=8, bucket_count=BUCKETS, partition_count=1, held=range(BUCKETS), image_bytes=0, max_labels=1
    )
    for record in records:
        found.apply(Partition(0), *parts(record))
    keys, rows = found.scan(range(BUCKETS))
    return dict(zip(keys.tolist(), map(bytes, rows), strict=True)), found.digests.tolist(), found.row_count


def fold_after(records):
    found = Fold(8)
    for record in records:
        found.add(*parts(record))
    written = found.written()
    return written.keys.tolist(), written.rows.tobytes(), written.tombstones.tolist()


@given(WRITES, st.data())
def test_invariant_1_writes_that_come_again_change_nothing(records, data):
    again = data.draw(st.integers(0, len(records)), label="they come again from here on")
    for after in (table_after, fold_after):
        assert after([*records, *records[again:]]) == after(records)
        assert after([record for record in records for _ in range(2)]) == after(records)
