"""What the exporter tells: what lies in the store and the log of each model, as of a look a little while ago. No scrape makes a
request to either."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from prometheus_client.registry import Collector

from .. import metrics as m
from ..config import Config
from ..core.errors import PenstockError
from ..core.ids import Version
from ..environment import Environment, open_environment
from ..metrics import Family, Samples
from .log_watch import LogWatch
from .overview import ReplicaDocument, StatusDocument, gathered

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Published:
    """Versions that were seen, each once, and what they brought."""

    newest: Version = Version(-1)
    versions: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    nbytes: dict[str, int] = field(default_factory=dict)

    def look(self, env: Environment) -> None:
        history = env.catalog.history()
        for manifest in sorted((*history.trunk, *history.bases.values()), key=lambda each: each.version):
            if manifest.version > self.newest and manifest.kind != "birth":
                kind, self.newest = manifest.kind, manifest.version
                self.versions[kind] = self.versions.get(kind, 0) + 1
                self.rows[kind] = self.rows.get(kind, 0) + manifest.rows + manifest.tombstones
                self.nbytes[kind] = self.nbytes.get(kind, 0) + manifest.bytes


class Watched:
    """One model, looked at again and again; one that does not exist yet, or cannot be reached, is tried again."""

    def __init__(self, config: Config, model: str) -> None:
        self.model, self._config = model, config
        self._opened = ExitStack()
        self._env: Environment | None = None
        self._log: LogWatch | None = None
        self._published, self._trouble = Published(), ""
        self._families: Sequence[Family] = ()

    def families(self) -> Sequence[Family]:
        """Of the last look."""
        return self._families

    def look(self) -> None:
        samples = Samples(m.EXPORTER, self.model)
        try:
            if self._env is None:
                self._env = self._opened.enter_context(open_environment(self._config, self.model))
                self._log = LogWatch(self._env.log)
            began_at = self._env.clock()
            found = gathered(self._env, self._log)
            self._published.look(self._env)
        except Exception as error:
            if str(error) != self._trouble:
                log.warning("model %s: %s", self.model, error, exc_info=not isinstance(error, PenstockError))
            self._trouble = str(error)
            samples.add(m.UP, 0)
        else:
            self._trouble = ""
            samples.add(m.UP, 1)
            samples.add(m.LOOKED, began_at / 1e6)
            _add(samples, found, self._published)
        self._families = tuple(samples.families())

    def close(self) -> None:
        self._opened.close()


class Exporter(Collector):
    """Looks at the models in a thread of its own, `every` so many seconds, from when it is made until `close`."""

    def __init__(self, config: Config, models: Sequence[str], *, every: float) -> None:
        self._models, self._every = [Watched(config, model) for model in models], every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exporter", daemon=True)
        self._thread.start()

    def collect(self) -> Iterator[Family]:
        """One family a metric, with the samples of all models."""
        whole: dict[str, Family] = {}
        for model in self._models:
            for family in model.families():
                if family.name in whole:
                    joined = type(family)(family.name, family.documentation)
                    joined.samples = [*whole[family.name].samples, *family.samples]
                    whole[family.name] = joined
                else:
                    whole[family.name] = family
        yield from whole.values()

    def _run(self) -> None:
        while not self._stop.is_set():
            for model in self._models:
                model.look()
            self._stop.wait(self._every)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for model in self._models:
            model.close()


def _add(samples: Samples, found: StatusDocument, published: Published) -> None:
    samples.add(m.TRUNK, found.version)
    samples.add(m.TIMELINE, found.timeline)
    samples.add(m.VERSION_AGE, found.version_age_s)
    for name, ref in found.refs.items():
        samples.add(m.REF_VERSION, ref.version, name)
        samples.add(m.REF_FROZEN, ref.frozen is not None, name)
        samples.add(m.FRESHNESS, _freshness_s([each for each in found.replicas if each.ref == name]), name)
    samples.add(m.CHAIN, found.chain)
    samples.add(m.CHAIN_LIMIT, found.max_chain)
    for metric, counts in (
        (m.PUBLISHED, published.versions), (m.PUBLISHED_ROWS, published.rows), (m.PUBLISHED_BYTES, published.nbytes),
    ):  # fmt: skip
        for tier, count in counts.items():
            samples.add(metric, count, tier)
    samples.add(m.ROWS_OWED, found.rows_owed)
    for each in found.log:
        samples.add(m.LOG_BEGIN, each.begin, str(each.partition))
        samples.add(m.LOG_END, each.end, str(each.partition))
        samples.add(m.HEADROOM, each.headroom, str(each.partition))
        samples.add(m.LOG_SILENCE, each.silence_s, str(each.partition))
    samples.add(m.RETENTION_USED, found.retention_used)
    samples.add(m.REACH, found.recovery_reach_s)
    samples.add(m.WINDOW, found.recovery_window_s)
    samples.add(m.PUBLISHERS, len(found.publishers))
    for replica in found.replicas:
        samples.add(m.PRESENCE_READY, replica.ready, replica.replica, replica.ref)
        samples.add(m.PRESENCE_BEHIND, replica.versions_behind, replica.replica, replica.ref)
        lags = [each.lag_ms / 1000 for each in replica.partitions if each.lag_ms is not None]
        samples.add(m.PRESENCE_LAG, max(lags, default=None), replica.replica, replica.ref)
        samples.add(m.PRESENCE_STOPPED, sum(bool(each.alarm) for each in replica.partitions), replica.replica, replica.ref)
        samples.add(m.PRESENCE_SILENT, 0, replica.replica)
    for name in found.silent:
        samples.add(m.PRESENCE_SILENT, 1, name)
    samples.add(m.DIGESTS_AGREE, found.digests_agree)
    samples.add(m.ROLLBACK_OPEN, found.rollback_open_s or 0.0)
    samples.add(m.UPLOADS, found.uploads)
    samples.add(m.UPLOAD_AGE, found.upload_oldest_s or 0.0)
    samples.add(m.SKIPS, len(found.skips))
    for care in found.care:
        samples.add(m.CARE_OK, care.ok, care.work)
        samples.add(m.CARE_AGE, care.age_s, care.work)


def _freshness_s(replicas: Sequence[ReplicaDocument]) -> float | None:
    found = [each.freshness_s for replica in replicas for each in replica.partitions if each.freshness_s is not None]
    return max(found, default=None)
