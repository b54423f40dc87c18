"""A version that was made by comparing says nothing of a key that base and checkpoint have alike, whatever the log says."""

import msgspec
import numpy as np
import pytest
from served import counted, step
from shop import Shop

from penstock.pipeline.core.hashing import buckets_of
from penstock.publishers.delta import publish_delta
from penstock.serving.replica import Replica

KEY, BUCKETS = 4, 8


def same_bucket(key):
    return next(k for k in range(50, 10_000) if buckets_of(np.array([k]), BUCKETS) == buckets_of(np.array([key]), BUCKETS))


@pytest.mark.parametrize("image_bytes", [1 << 20, 0])
def test_what_a_dead_term_has_left_beside_a_key_written_behind_the_marker_goes(image_bytes):
    shop = Shop()
    settings = msgspec.structs.replace(shop.config.replica, before_image_bytes=image_bytes)
    shop.config = msgspec.structs.replace(shop.config, replica=settings)
    other = same_bucket(KEY)
    shop.tables["item"][other] = 0.5
    shop.published()
    replica = Replica(shop.env, name="replica")
    shop.train("item", {KEY: 27.0})
    shop.updates.flush()
    shop.tables["item"][KEY] = 4.0  # the trainer goes on from its checkpoint
    shop.reopen(touched_keys=1)
    shop.train("item", {other: 1.0, other + 10_000: 1.0}, send=False)
    shop.updates.touch("item", [other, other + 10_000])
    sidecar, source = shop.mark(), shop.source()
    shop.train("item", {other: 2.0})
    shop.updates.flush()
    step(replica)
    assert publish_delta(shop.env, source, sidecar=sidecar).source == "compared"
    step(replica)
    found = replica.lookup("item", np.array([KEY, other]))
    assert (replica.version, found.rows[:, 0].tolist()) == (2, [4.0, 2.0])
    assert counted(replica, "disagreed") == 1
    shop.close()
