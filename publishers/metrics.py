"""What a publisher measures, for Prometheus: read from its state when somebody looks, so that `put` pays nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.registry import Collector

from penstock.pipeline import metrics as m
from penstock.pipeline.core.times import NEVER
from penstock.pipeline.environment import Environment
from penstock.pipeline.metrics import Family, Samples

from .updates import Updates

ENDS = ("Fenced", "Superseded", "other")


class PublisherMetrics(Collector):
    """Of one publisher. `committed`: the versions that it has committed, by kind."""

    def __init__(self, environment: Environment, updates: Updates) -> None:
        self._environment, self._updates, self.committed = environment, updates, Counter[str]()

    def collect(self) -> Iterator[Family]:
        updates, acknowledged = self._updates, self._updates.acknowledged
        samples = Samples(m.PUBLISHER, self._environment.catalog.model, updates.publisher)
        samples.add(m.PUT_ROWS, updates.rows_put)
        samples.add(m.SHED_ROWS, updates.rows_shed)
        samples.add(m.OWED_ROWS, updates.unsent)
        samples.add(m.SENT_ROWS, acknowledged.rows)
        samples.add(m.SENT_RECORDS, acknowledged.records)
        samples.add(m.SENT_BYTES, acknowledged.nbytes)
        samples.add(m.QUEUED_BYTES, updates.queued_bytes)
        samples.add(m.QUEUE_LIMIT, self._environment.config.realtime.queue_bytes)
        samples.add(m.TERMS, acknowledged.terms)
        through = updates.trained_through
        samples.add(m.LEARNED, None if through == NEVER else (self._environment.clock() - through) / 1e6)
        failure = "" if updates.failure is None else type(updates.failure).__name__
        for why in ENDS:
            samples.add(m.ENDED, failure == why if why != "other" else failure not in ("", *ENDS), why)
        for (call, error), count in updates.errors.copy().items():
            samples.add(m.ERRORS, count, call, error)
        for tier, count in self.committed.copy().items():
            samples.add(m.COMMITTED, count, tier)
        yield from samples.families()
