"""The inference service's side: scores batches with rows and dense slices that replicas serve, and times how they arrive.

It asks replicas over the network like any other service, and sees nothing of the trainer but what it is told to wait for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from penstock.pipeline.core.errors import Unreachable
from penstock.serving.client import Client
from penstock.serving.status import ReplicaStatus

from .keys import Keys
from .model import TABLES, Floats, score, time_context
from .online import DENSE_PREFIX
from .stream import Batch

ARRIVAL_S = 30.0
PROBE_PAUSE_S = 0.0003
REFRESH_EVERY = 2
"""Batches that a replica scores with one dense slice."""


@dataclass(slots=True)
class Asked:
    """One replica, and the dense slice that it gave last."""

    name: str
    client: Client
    asked: int = 0
    _dense: dict[str, Floats] = field(default_factory=dict)

    def lookup(self, table: str, keys: Keys) -> Floats:
        """float32[n, 16] of int64[n] keys; each different one is asked for once."""
        unique, places = np.unique(keys, return_inverse=True)
        return self.client.lookup(table, unique)[0][places]

    def scores(self, batch: Batch) -> Floats:
        """float32[n] of the batch's examples."""
        if self.asked % REFRESH_EVERY == 0:
            self.refresh()
        self.asked += 1
        rows = {table: self.lookup(table, batch.keys[table]) for table in TABLES}
        return score(rows, time_context(batch.at), self._dense)

    def refresh(self) -> None:
        _, tensors = self.client.dense()
        self._dense = {name.removeprefix(DENSE_PREFIX): tensor.astype(np.float32) for name, tensor in tensors.items()}

    def status(self) -> ReplicaStatus:
        return self.client.status()

    def arrival_ms(self, table: str, key: int, row: Floats, *, since: float) -> float:
        """Looks `key` up until it has `row` (float32[16]): ms since `since`, of `time.perf_counter`."""
        wanted = np.array([key], np.int64)
        while True:
            rows, _ = self.client.lookup(table, wanted)
            passed = time.perf_counter() - since
            if np.array_equal(rows[0], row):
                return passed * 1000
            if passed > ARRIVAL_S:
                raise Unreachable(f"{self.name}: key {key} of table {table} has not arrived in {ARRIVAL_S:.0f} s")
            time.sleep(PROBE_PAUSE_S)


class Inference:
    """Several replicas, asked in turn."""

    def __init__(self) -> None:
        self.replicas: list[Asked] = []
        self._turn = 0

    def add(self, name: str, url: str) -> Asked:
        added = Asked(name, Client(url))
        self.replicas.append(added)
        return added

    def next(self) -> Asked:
        self._turn += 1
        return self.replicas[self._turn % len(self.replicas)]

    def refresh(self) -> None:
        """Takes the dense slices anew, as after a rollback."""
        for replica in self.replicas:
            replica.refresh()

    def close(self) -> None:
        for replica in self.replicas:
            replica.client.close()
