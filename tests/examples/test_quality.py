import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.examples.retail.quality import SlidingAuc, auc
from penstock.pipeline.core.errors import InvalidInput


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
def test_auc_is_the_share_of_pairs_in_the_right_order(examples):
    labels = np.array([label for label, _ in examples], np.float32)
    scores = np.array([value for _, value in examples], np.float32)
    wins = [
        1.0 if good > bad else 0.5 if good == bad else 0.0
        for good in scores[labels == 1].tolist()
        for bad in scores[labels == 0].tolist()
    ]
    assert auc(labels, scores) == pytest.approx(np.mean(wins)) if wins else np.isnan(auc(labels, scores))


def test_auc_of_other_sizes_is_refused():
    with pytest.raises(InvalidInput, match="2 labels for 3 scores"):
        auc(np.zeros(2), np.zeros(3))


def test_the_window_slides_by_batches():
    generator = np.random.default_rng(1)
    batches = [((generator.random(20) < 0.4).astype(np.float32), generator.random(20)) for _ in range(6)]
    window = SlidingAuc(batches=3)
    for count, (labels, scores) in enumerate(batches, start=1):
        held = batches[max(0, count - 3) : count]
        assert window.add(labels, scores) == auc(
            np.concatenate([one for one, _ in held]), np.concatenate([one for _, one in held])
        )
    other = window.copy()
    assert other.add(*batches[0]) == window.add(*batches[0])
    other.add(*batches[1])
    assert other.add(*batches[2]) != window.add(*batches[2])


def test_a_window_of_nothing_is_refused():
    with pytest.raises(InvalidInput, match="0 batches"):
        SlidingAuc(batches=0)
