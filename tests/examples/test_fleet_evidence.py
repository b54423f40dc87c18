"""What the story says of its versions and moves is what the catalog has."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from penstock.examples.fleet.evidence import move_lines, taken_back, version_lines
from penstock.pipeline.config import parse_config
from penstock.pipeline.core.ids import Version
from penstock.pipeline.core.times import WallTime
from penstock.pipeline.environment import create_environment
from penstock.publishers import FRESH, Delivery
from penstock.rollback.execution import execute
from penstock.rollback.planning import plan_rollback
from penstock.rollback.target import to_version

CONFIG = """
[store]
url = "{0}/store"
[log]
url = "{0}/log"
partitions = 1
[models.m]
buckets = 4
[models.m.tables.item]
keys = "item/keys"
rows = "item/rows"
"""


def test_versions_moves_and_what_was_taken_back(tmp_path):
    config = parse_config(CONFIG.format(tmp_path.as_uri()), "test")
    with Delivery.open(config, publisher="trainer", resume=FRESH) as delivery:
        for value in range(1, 4):
            rows = np.full((2, 2), value, np.float32)
            delivery.updates().put("item", [1, 2], rows, trained_through=value)
            (delivery.publish_snapshot if value == 1 else delivery.publish_delta)({"item": (np.array([1, 2]), rows)})
    with create_environment(config, "m", who="somebody") as env:
        made = execute(env, plan_rollback(env, to_version(Version(1))), why="poison")
        assert taken_back(env, made.version) == (2, 3)
        found = version_lines(env, began=WallTime(env.catalog.history().trunk[0].created_at))
        assert [(line.version, line.timeline, line.kind, line.rows) for line in found[:3]] == [
            (1, 1, "snapshot", 2), (2, 1, "delta", 2), (3, 1, "delta", 2),
        ]  # fmt: skip
        assert (found[3].kind, found[3].timeline, found[3].who) == ("rollback", 2, "somebody")
        assert [line.who for line in found[:3]] == ["trainer"] * 3
        assert all(0 <= a.at_s <= b.at_s for a, b in pairwise(found))
        *_, last = move_lines(env)
        assert "somebody: rollback 4" in last
        assert last.endswith("(poison)")
