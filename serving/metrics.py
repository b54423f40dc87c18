"""What a replica measures, for Prometheus: read from its state when somebody looks, so that following and lookups pay nothing."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.registry import Collector

from penstock.pipeline import metrics as m
from penstock.pipeline.core.times import NEVER, WallTime
from penstock.pipeline.metrics import Family, Samples

from .partition import PartitionState
from .replica import Replica
from .reporting import end_of, lag_ms
from .server import Server

OUTCOMES = ("dropped", "ignored", "dead", "skipped")
ADOPTIONS = {"free": "adopted_free", "taken": "adopted_taken", "jumped": "jumped", "reloaded": "reloaded"}
UNDONE = ("recalled", "replayed", "fetched")


class ReplicaMetrics(Collector):
    """Of a replica, and of the server before it."""

    def __init__(self, replica: Replica, server: Server | None = None) -> None:
        self._replica, self._server = replica, server

    def collect(self) -> Iterator[Family]:
        replica, now = self._replica, self._replica.env.clock()
        samples = Samples(m.REPLICA, replica.env.catalog.model, replica.name)
        samples.add(m.REPLICA_READY, replica.ready(now))
        samples.add(m.REPLICA_VERSION, replica.version)
        samples.add(m.REPLICA_TIMELINE, replica.timeline)
        follower = replica.follower
        behind = follower.history.after(replica.version, up_to=follower.known.version)
        samples.add(m.REPLICA_BEHIND, len(behind))
        for spreads, metric in ((replica.measured.lag, m.UPDATE_LAG), (replica.measured.freshness, m.UPDATE_FRESHNESS)):
            for (table, partition), spread in spreads.copy().items():
                samples.add_spread(metric, spread, table, str(partition))
        states = list(follower.partitions.values())
        for state in states:
            self._add_partition(samples, state, now)
        self._add_applied(samples, states)
        for name, held in follower.tables.items():
            samples.add(m.TABLE_ROWS, held.row_count, name)
            samples.add(m.TABLE_BYTES, held.nbytes, name)
        if self._server is not None:
            _add_lookups(samples, self._server)
        yield from samples.families()

    def _add_partition(self, samples: Samples, state: PartitionState, now: WallTime) -> None:
        partition, counters, lag = str(state.partition), state.counters, lag_ms(self._replica, state, now)
        through = state.trained_through
        samples.add(m.REPLICA_LAG, None if lag is None else lag / 1000, partition)
        samples.add(m.REPLICA_LAG_RECORDS, end_of(self._replica, state) - state.offset, partition)
        samples.add(m.REPLICA_FRESHNESS, None if through == NEVER else (now - through) / 1e6, partition)
        samples.add(m.REPLICA_SILENCE, (now - state.heard_at) / 1e6 if state.heard_at else None, partition)
        samples.add(m.REPLICA_STOPPED, bool(state.alarm), partition)
        lost = {outcome: int(getattr(counters, outcome)) for outcome in OUTCOMES}
        samples.add(m.REPLICA_RECORDS, counters.records - lost["dropped"] - lost["ignored"] - lost["skipped"], partition, "taken")
        for outcome, count in lost.items():
            samples.add(m.REPLICA_RECORDS, count, partition, outcome)
        samples.add(m.REPLICA_GAPS, counters.gaps, partition)
        samples.add(m.REPLICA_FENCES, counters.fences, partition)
        for how, name in ADOPTIONS.items():
            samples.add(m.ADOPTIONS, getattr(counters, name), partition, how)
        samples.add(m.DISAGREEMENTS, counters.disagreed, partition)

    def _add_applied(self, samples: Samples, states: list[PartitionState]) -> None:
        replica, found = self._replica, [state.counters for state in states]
        for tier, rows, nbytes in (
            ("realtime", sum(c.rows for c in found), sum(c.bytes for c in found)),
            ("delta", sum(c.delta_rows for c in found), sum(c.delta_bytes for c in found)),
            (
                "snapshot",
                replica.measured.loaded_rows + sum(c.loaded_rows for c in found),
                replica.measured.loaded_bytes + sum(c.loaded_bytes for c in found),
            ),
        ):
            samples.add(m.APPLIED_ROWS, rows, tier)
            samples.add(m.APPLIED_BYTES, nbytes, tier)
        for how in UNDONE:
            samples.add(m.UNDONE_ROWS, sum(getattr(c, how) for c in found), how)


def _add_lookups(samples: Samples, server: Server) -> None:
    tally, admission = server.tally, server.admission
    samples.add(m.LOOKUPS, tally.lookups)
    samples.add(m.LOOKUP_KEYS, tally.keys)
    samples.add_spread(m.LOOKUP_TIME, tally.spread)
    for why, count in admission.shed.items():
        samples.add(m.LOOKUPS_SHED, count, why)
    samples.add(m.LOOKUPS_REFUSED, tally.refused)
    samples.add(m.LOOKUPS_FAILED, tally.failed)
    samples.add(m.CALLS_OPEN, admission.calls)
    samples.add(m.LOOKUPS_RUNNING, admission.running)
    samples.add(m.LOOKUPS_WAITING, admission.waiting)
