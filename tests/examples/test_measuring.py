from dataclasses import dataclass

import numpy as np
import pytest
from trainer_world import World, rows_of

from penstock.examples.retail.measuring import LogMeter, ServedQuality, growing, version_marks
from penstock.examples.retail.quality import auc
from penstock.examples.retail.story import AUC_BATCHES


def test_quality_has_a_point_for_each_full_window():
    generator = np.random.default_rng(1)
    labels = [np.array([1, 0, 1, 0], np.float32)] * (AUC_BATCHES + 2)
    scores = [generator.random(4).astype(np.float32) for _ in labels]
    served = ServedQuality()
    assert np.isnan(served.newest)
    for number, (label, score) in enumerate(zip(labels, scores, strict=True)):
        served.add(number, number * 10, label, score)
    assert served.batches == [AUC_BATCHES - 1, AUC_BATCHES, AUC_BATCHES + 1]
    last = slice(-AUC_BATCHES, None)
    assert served.newest == auc(np.concatenate(labels[last]), np.concatenate(scores[last]))
    line = served.line("served")
    assert line.at == tuple(10 * number for number in served.batches)
    assert line.auc[-1] == served.newest


def test_of_values_at_one_time_the_last_stays():
    assert growing([1, 2, 2, 3], [0.1, 0.2, 0.3, 0.4]) == ((1, 2, 3), (0.1, 0.3, 0.4))


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


def test_the_meter_counts_rows_and_slices_and_nothing_twice(world):
    world.born("a")
    updates = world.open()
    meter = LogMeter(world.environment())
    keys = np.arange(20)
    updates.put("a", keys, rows_of(np.zeros(20)), trained_through=5)
    updates.flush()
    slice_bytes = updates.put_dense({"w": np.zeros(100, np.float32)}, trained_through=6).bytes
    updates.flush()
    meter.read_all()
    first = meter.tier()
    records = [(record.kind.name, len(record.keys)) for _, _, record in world.records()]
    rows = [count for kind, count in records if kind == "ROWS"]
    assert (first.rows, first.writes) == (20, len(rows) + 1)
    assert first.bytes > slice_bytes + 20 * (8 + 4 * world.dim)
    meter.read_all()
    assert meter.tier() == first
    updates.put("a", keys[:3], rows_of(np.ones(3)), trained_through=7)
    updates.mark()
    meter.read_all()
    assert meter.rows == 23


@dataclass
class Version:
    version: int
    kind: str
    created_at: int
    timeline: int = 1
    trained_through: int = 3


def test_versions_are_marked_at_seconds_of_the_run():
    trunk = (Version(0, "birth", 0), Version(1, "snapshot", 3_000_000), Version(2, "rollback", 4_500_000, timeline=2))
    marks = version_marks(trunk, began_us=1_000_000)
    assert [(mark.version, mark.kind, mark.timeline, mark.at_s) for mark in marks] == [
        (1, "snapshot", 1, 2.0),
        (2, "rollback", 2, 3.5),
    ]
