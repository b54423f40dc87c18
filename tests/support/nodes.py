"""Inference nodes of a world by hand, and its replicas as their cluster."""

import numpy as np

from penstock.pipeline.core.errors import Unreachable


class Replicas:
    """A client without a network: the first replica answers, and an older timeline than one that was seen does not count."""

    def __init__(self, *replicas):
        self.replicas, self.down, self.asked, self.seen = list(replicas), False, 0, 0

    def answers(self, keys, *, version=None):
        self.asked += sum(len(some) for some in keys.values())
        if self.down:
            raise Unreachable("no replica answers")
        for replica in self.replicas:
            found = replica.lookup_many(list(keys.items()), version=version)
            if version is not None or all(answer.timeline >= self.seen for answer in found):
                self.seen = max([self.seen, *(answer.timeline for answer in found)])
                return dict(zip(keys, found, strict=True))
        raise Unreachable(f"the replicas have not come to timeline {self.seen} yet")


SLOW = dict.fromkeys(("max_lag", "near_expiry", "recount", "compare", "patience"), "10d")
"""Events of a world are minutes apart: what takes time happens only in tests that want it."""


def hot(**tables):
    return {name: np.array(keys, np.int64) for name, keys in tables.items()}


def steps(node, rounds=12):
    """Until there is nothing left to do."""
    node.editions.read()
    for _ in range(rounds):
        node.editions._ask_at = 0.0
        node.step()


def rows_of(node, table, keys, **options):
    """[(event, serial) or None]: as a service gets them."""
    found = node.inputs({table: np.array(keys, np.int64)}, **options)
    return [tuple(row) if there else None for row, there in zip(found.rows[table].tolist(), found.found[table], strict=True)]
