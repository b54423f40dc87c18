"""What every metric is called, what it means and how it is labelled; and how samples become what Prometheus reads. Knows nobody
who measures."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

Kind = Literal["gauge", "counter", "histogram"]
Family = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily
LAG_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
FRESHNESS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """`labels` come behind those of its source: `Source.labels`. The name of a counter has no `_total` here."""

    kind: Kind
    name: str
    help: str
    labels: tuple[str, ...]

    @property
    def series(self) -> tuple[str, ...]:
        """The names that queries use."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "count", "sum"))
        return (f"{self.name}_total" if self.kind == "counter" else self.name,)


@dataclass(slots=True)
class Source:
    """Who measures; `labels` stand on each of its samples."""

    name: str
    labels: tuple[str, ...]
    metrics: list[Metric] = field(default_factory=list)

    def gauge(self, name: str, text: str, *labels: str) -> Metric:
        return self._add("gauge", name, text, labels)

    def counter(self, name: str, text: str, *labels: str) -> Metric:
        return self._add("counter", name, text, labels)

    def histogram(self, name: str, text: str, *labels: str) -> Metric:
        return self._add("histogram", name, text, labels)

    def _add(self, kind: Kind, name: str, text: str, labels: tuple[str, ...]) -> Metric:
        self.metrics.append(Metric(kind, f"penstock_{name}", text, labels))
        return self.metrics[-1]


class Spread:
    """A histogram that one thread fills and any thread reads. `bounds`: the upper ends of its buckets; what lies beyond the last
    one counts in one more."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float, weight: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += weight
        self.total += value * weight


class Samples:
    """Samples of one moment, with these values of the source's labels."""

    def __init__(self, source: Source, *common: str) -> None:
        self._source, self._common = source, common
        self._families: dict[str, Family] = {}

    def add(self, metric: Metric, value: float | None, *labels: str) -> None:
        """None is not known: no sample."""
        if value is not None:
            found = self._family(metric)
            assert not isinstance(found, HistogramMetricFamily)
            found.add_metric([*self._common, *labels], float(value))

    def add_spread(self, metric: Metric, spread: Spread, *labels: str) -> None:
        found, counts = self._family(metric), spread.counts[:]
        assert isinstance(found, HistogramMetricFamily)
        ends = [*map(str, map(float, spread.bounds)), "+Inf"]
        buckets = list(zip(ends, map(float, accumulate(counts)), strict=True))
        found.add_metric([*self._common, *labels], buckets, sum_value=spread.total)

    def families(self) -> Iterator[Family]:
        yield from self._families.values()

    def _family(self, metric: Metric) -> Family:
        if metric.name not in self._families:
            kinds = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}
            names = (*self._source.labels, *metric.labels)
            self._families[metric.name] = kinds[metric.kind](metric.name, metric.help, labels=names)
        return self._families[metric.name]


# ---- a replica -------------------------------------------------------------------------------------------------------------

REPLICA = Source("replica", ("model", "replica"))
REPLICA_READY = REPLICA.gauge("replica_ready", "Whether the replica should be asked: 1 or 0.")
REPLICA_VERSION = REPLICA.gauge("replica_version", "The version that every partition has adopted.")
REPLICA_TIMELINE = REPLICA.gauge("replica_timeline", "The timeline that every partition has come to.")
REPLICA_BEHIND = REPLICA.gauge("replica_versions_behind", "Versions of its ref that it has not adopted.")
UPDATE_LAG = REPLICA.histogram(
    "update_lag_seconds",
    "From written by its publisher to readable, of each row of the realtime tier.",
    "table",
    "partition",
)
UPDATE_FRESHNESS = REPLICA.histogram(
    "update_freshness_seconds", "From the newest event learned to readable here, of each row of the realtime tier.",
    "table", "partition",
)  # fmt: skip
REPLICA_LAG = REPLICA.gauge(
    "replica_lag_seconds", "Of the newest record, from written to readable; while there are more, how old those may be.",
    "partition",
)  # fmt: skip
REPLICA_LAG_RECORDS = REPLICA.gauge("replica_lag_records", "Records of the log that are not read yet.", "partition")
REPLICA_FRESHNESS = REPLICA.gauge("replica_freshness_seconds", "Now less the newest event learned from.", "partition")
REPLICA_SILENCE = REPLICA.gauge("replica_silence_seconds", "Since the log took the record that was read last.", "partition")
REPLICA_STOPPED = REPLICA.gauge("replica_partition_stopped", "Whether the partition stands still: 1 or 0.", "partition")
REPLICA_RECORDS = REPLICA.counter(
    "replica_records",
    "Records read: taken, dropped as not newer, ignored as of another timeline, dead by the rollback of a table, skipped.",
    "partition", "outcome",
)  # fmt: skip
REPLICA_GAPS = REPLICA.counter("replica_gaps", "Holes met in a publisher's sequence.", "partition")
REPLICA_FENCES = REPLICA.counter("replica_fences", "Fences passed.", "partition")
APPLIED_ROWS = REPLICA.counter(
    "applied_rows", "Rows and tombstones written, by tier: realtime, delta (rollbacks too), snapshot (a chain that was loaded).",
    "tier",
)  # fmt: skip
APPLIED_BYTES = REPLICA.counter("applied_bytes", "Keys and encoded rows written, by tier.", "tier")
ADOPTIONS = REPLICA.counter(
    "replica_adoptions",
    "Versions adopted by a partition: free (the log had brought it all), taken (with rows of the delta), jumped, reloaded.",
    "partition", "how",
)  # fmt: skip
DISAGREEMENTS = REPLICA.counter("replica_digest_disagreements", "Times that digests were not those stated.", "partition")
UNDONE_ROWS = REPLICA.counter(
    "replica_undone_rows", "Rows that rollbacks set back: recalled from memory, replayed from the log, fetched from the store.",
    "how",
)  # fmt: skip
TABLE_ROWS = REPLICA.gauge("replica_table_rows", "Rows held.", "table")
TABLE_BYTES = REPLICA.gauge("replica_table_bytes", "Memory of a table.", "table")
LOOKUPS = REPLICA.counter("lookups", "Lookups answered.")
LOOKUP_KEYS = REPLICA.counter("lookup_keys", "Keys of the lookups answered.")
LOOKUP_TIME = REPLICA.histogram("lookup_seconds", "From the keys had come until the rows were ready to go, waiting included.")
LOOKUPS_SHED = REPLICA.counter("lookups_shed", "Lookups turned away: no room, past their deadline, or nobody waits.", "why")
LOOKUPS_REFUSED = REPLICA.counter("lookups_refused", "Lookups refused for what was asked.")
LOOKUPS_FAILED = REPLICA.counter("lookups_failed", "Lookups that failed for no fault of the caller.")
CALLS_OPEN = REPLICA.gauge("calls_open", "Calls that are open.")
LOOKUPS_RUNNING = REPLICA.gauge("lookups_running", "Lookups that run.")
LOOKUPS_WAITING = REPLICA.gauge("lookups_waiting", "Lookups that wait for their turn.")

# ---- a publisher, in the trainer's process ---------------------------------------------------------------------------------

PUBLISHER = Source("publisher", ("model", "publisher"))
PUT_ROWS = PUBLISHER.counter("publisher_put_rows", "Rows and deletions put, shed ones included.")
SHED_ROWS = PUBLISHER.counter("publisher_shed_rows", "Rows not sent for want of room; the next delta has them.")
OWED_ROWS = PUBLISHER.gauge("publisher_owed_rows", "Touched keys whose row the log does not hold; the next delta has them.")
SENT_ROWS = PUBLISHER.counter("publisher_acknowledged_rows", "Rows and deletions acknowledged by the log, folded touches once.")
SENT_RECORDS = PUBLISHER.counter("publisher_acknowledged_records", "Records acknowledged by the log.")
SENT_BYTES = PUBLISHER.counter("publisher_acknowledged_bytes", "Bytes of these records.")
QUEUED_BYTES = PUBLISHER.gauge("publisher_queued_bytes", "What waits to be sent or acknowledged.")
QUEUE_LIMIT = PUBLISHER.gauge("publisher_queue_limit_bytes", "The bound of that: realtime.queue_bytes.")
TERMS = PUBLISHER.counter("publisher_terms", "Terms opened: one, and one for each send whose outcome was unknown.")
ENDED = PUBLISHER.gauge("publisher_ended", "Whether it is over for this publisher: 1 or 0.", "why")
LEARNED = PUBLISHER.gauge("publisher_freshness_seconds", "Now less the newest event that the trainer said it has seen.")
ERRORS = PUBLISHER.counter("publisher_errors", "Calls of the trainer that raised.", "call", "error")
COMMITTED = PUBLISHER.counter("publisher_versions", "Versions committed by this process.", "tier")

# ---- the exporter: what lies in the store and in the log -------------------------------------------------------------------

EXPORTER = Source("exporter", ("model",))
UP = EXPORTER.gauge("up", "Whether store and log answered at the last look: 1 or 0.")
LOOKED = EXPORTER.gauge("looked_timestamp_seconds", "When the last look that succeeded began.")
TRUNK = EXPORTER.gauge("trunk_version", "The newest version.")
TIMELINE = EXPORTER.gauge("timeline", "The timeline of the newest version.")
VERSION_AGE = EXPORTER.gauge("version_age_seconds", "Since the newest version was made.")
REF_VERSION = EXPORTER.gauge("ref_version", "The version of a ref.", "ref")
REF_FROZEN = EXPORTER.gauge("ref_frozen", "Whether a ref is frozen: 1 or 0.", "ref")
FRESHNESS = EXPORTER.gauge(
    "freshness_seconds", "Now less the newest event learned from, where that is worst, of those who serve the ref.", "ref"
)
CHAIN = EXPORTER.gauge("chain_length", "Versions that a newcomer loads.")
CHAIN_LIMIT = EXPORTER.gauge("chain_limit", "Compaction is due beyond: retention.max_chain.")
PUBLISHED = EXPORTER.counter("published_versions", "Versions seen, by tier: snapshot, delta, rollback, compaction.", "tier")
PUBLISHED_ROWS = EXPORTER.counter("published_rows", "Rows and tombstones of these.", "tier")
PUBLISHED_BYTES = EXPORTER.counter("published_bytes", "What these added to the store.", "tier")
ROWS_OWED = EXPORTER.gauge("rows_owed", "Rows of marked checkpoints that are not in the log; the next delta has them.")
LOG_BEGIN = EXPORTER.gauge("log_begin_offset", "The oldest offset held.", "partition")
LOG_END = EXPORTER.gauge("log_end_offset", "The offset that the next record gets.", "partition")
LOG_SILENCE = EXPORTER.gauge("log_silence_seconds", "Since the newest record was taken.", "partition")
REACH = EXPORTER.gauge(
    "recovery_reach_seconds",
    "How far back a rollback can go: the age of the oldest version from which on the log is held; absent while nothing is lost.",
)
HEADROOM = EXPORTER.gauge(
    "log_headroom_records", "From the oldest offset held to the live version's; negative: it is lost.", "partition"
)
RETENTION_USED = EXPORTER.gauge(
    "log_retention_used_ratio", "The live version's age, of the log's retention; a delta is due at 0.5."
)
WINDOW = EXPORTER.gauge("recovery_window_seconds", "How far back a rollback must be able to go: recovery.window.")
PUBLISHERS = EXPORTER.gauge("publishers", "Publishers that have a term, runs over checkpoints left out.")
PRESENCE_READY = EXPORTER.gauge("presence_ready", "Whether a replica reports that it should be asked: 1 or 0.", "replica", "ref")
PRESENCE_BEHIND = EXPORTER.gauge(
    "presence_versions_behind", "Versions of its ref that a replica has not adopted.", "replica", "ref"
)
PRESENCE_LAG = EXPORTER.gauge("presence_lag_seconds", "The lag that a replica reports, where that is worst.", "replica", "ref")
PRESENCE_STOPPED = EXPORTER.gauge("presence_partitions_stopped", "Partitions of a replica that stand still.", "replica", "ref")
PRESENCE_SILENT = EXPORTER.gauge("presence_silent", "1: its lease has ended and it never said that it leaves.", "replica")
DIGESTS_AGREE = EXPORTER.gauge(
    "digests_agree", "Whether replicas at one version have one digest: 1 or 0; absent while none can be compared."
)
ROLLBACK_OPEN = EXPORTER.gauge("rollback_open_seconds", "Since a rollback was claimed that is not decided; 0 if there is none.")
UPLOADS = EXPORTER.gauge("uploads_open", "Publishes under way.")
UPLOAD_AGE = EXPORTER.gauge("upload_oldest_seconds", "Since the oldest of these began; 0 if there is none.")
SKIPS = EXPORTER.gauge("log_skipped_records", "Records that every reader passes over, by decision.")
CARE_OK = EXPORTER.gauge("care_ok", "Whether the last run of verify, retention or compact went well: 1 or 0.", "work")
CARE_AGE = EXPORTER.gauge("care_age_seconds", "Since that run ended.", "work")

SOURCES = (REPLICA, PUBLISHER, EXPORTER)
