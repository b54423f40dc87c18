from dataclasses import replace

import numpy as np
import pytest

from penstock.examples.retail.poison import SwappedLabels
from penstock.examples.retail.rehearsal import rehearse
from penstock.examples.retail.story import POISON, SEED, story_stream
from penstock.examples.retail.stream import read_purchases
from penstock.pipeline.core.errors import InvalidInput


@pytest.fixture(scope="module")
def stream():
    return story_stream(read_purchases())


def test_labels_are_swapped_for_whole_sessions_within_the_window_only(stream):
    swapped = sessions = 0
    for number in range(stream.first_at(POISON.begin) - 1, stream.first_at(POISON.end) + 2):
        batch = stream.batch(number)
        poisoned = POISON.reported(batch)
        changed = poisoned.reported != batch.reported
        within = (batch.at >= POISON.begin) & (batch.at < POISON.end)
        assert not changed[~within].any()
        assert np.array_equal(poisoned.billed, batch.billed)
        assert np.array_equal(poisoned.keys["product"], batch.keys["product"])
        for session in set(zip(batch.keys["customer"][within].tolist(), batch.at[within].tolist(), strict=True)):
            of_session = changed[(batch.keys["customer"] == session[0]) & (batch.at == session[1])]
            assert of_session.all() or not of_session.any()
            swapped += int(of_session.all())
            sessions += 1
    assert sessions > 100
    assert swapped / sessions == pytest.approx(POISON.share, abs=0.1)


def test_a_batch_outside_the_window_is_left_alone(stream):
    batch = stream.batch(3)
    assert POISON.reported(batch) is batch


@pytest.mark.parametrize("change", [{"end": POISON.begin}, {"share": 0.0}, {"share": 1.1}])
def test_a_poison_that_is_none_is_refused(change):
    with pytest.raises(InvalidInput):
        replace(POISON, **change)


def test_swapping_everything_swaps_everything(stream):
    number = stream.first_at(POISON.begin) + 3
    batch = stream.batch(number)
    assert np.array_equal(SwappedLabels(begin=POISON.begin, end=POISON.end, share=1.0).reported(batch).reported, 1 - batch.billed)


@pytest.mark.slow
def test_the_story_quality_falls_and_a_rollback_brings_it_back(stream):
    found = rehearse(stream, POISON, seed=SEED)
    assert found.before() > 0.8
    assert found.lowest() < 0.5
    control = found.mean_after(found.control, batches=20)
    assert found.mean_after(found.rolled_back, batches=20) > control - 0.01
    assert found.mean_after(found.unhealed, batches=20) < control - 0.01
    for series in (found.unhealed, found.rolled_back):
        assert series[: found.first] == found.control[: found.first]
        assert len(series) == len(found.control) == len(stream)
