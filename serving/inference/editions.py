"""The edition that is served, the one that comes after it, and what brings them on: the log, the store, the cluster.

Three callers, a thread each at most: `follow` reads the log and is the only one that changes an edition, `look` reads refs and
dense slices, so that a slow store keeps no row waiting, `ask` asks the cluster for rows of hot keys. What decides is in `Edition`
and `Errand`; here is the I/O and the clock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping

import numpy as np

from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.config import microseconds
from penstock.pipeline.core.errors import Corrupt, PositionGone
from penstock.pipeline.core.ids import Offset, Partition, Timeline
from penstock.pipeline.core.manifest import DenseInfo
from penstock.pipeline.core.records import NO_KEYS
from penstock.pipeline.core.times import WallTime
from penstock.pipeline.environment import Environment
from penstock.slicer.dense import read_dense

from ..replica import Dense, News
from .edition import Edition, manifest_of
from .errand import MOST_KEYS, Cluster, Errand
from .hot_table import Taken
from .members import Keys

log = logging.getLogger(__name__)
AGAIN_S, LONGEST_AGAIN_S = 0.02, 1.0
"""When the cluster is asked again that was not where it has to be."""
ANEW_US = 3_000_000
"""How soon an edition is begun anew that could not be followed."""
SAMPLE = 256
"""Hot rows of a table that are compared with the cluster's at a time."""


class Editions:
    """`taken`: what came of all errands; `differing`: hot rows that were not the cluster's and should have been. `current_at`:
    what the log took before this was read. `trouble`: what the log or the cluster could not give, "" if nothing is missing."""

    def __init__(self, env: Environment, cluster: Cluster, *, ref: str) -> None:
        self.env, self.cluster, self.ref = env, cluster, ref
        settings = self.settings = env.config.inference
        self._patience, self._compare_every = microseconds(settings.patience), microseconds(settings.compare)
        self.taken, self.differing, self.swaps, self.trouble = Taken(), 0, 0, ""
        self.stopped, self.looks, self.sent = threading.Event(), threading.Event(), threading.Event()
        """Ends all waiting; the store is to be read; an errand waits."""
        self._changing = threading.Condition()
        self._news: News | None = None
        self._chosen: dict[str, Keys] = {}
        self._errand: Errand | None = None
        self._ask_at, self._again_s = 0.0, AGAIN_S
        self._known = known = self._read_news()
        self._dense = self._read_dense(manifest_of(known, ref).dense)
        self.edition = self._begin(known, self._dense, {})
        self._next: Edition | None = None
        self._next_at = WallTime(0)
        self._is_over = False
        """The edition cannot go on: another one is needed."""
        self.current_at = self._looked_at = self._compared_at = self._ends_at = env.clock()
        self._ends = known.ends

    def choose(self, hot: Mapping[str, Keys]) -> None:
        """These keys (int64[n] by table) are hot from the next step on."""
        with self._changing:
            self._chosen |= {name: np.unique(keys) for name, keys in hot.items()}

    def come_to(self, edition: Edition, timeline: Timeline | None) -> None:
        """Waits a little for another edition than this one, since the cluster is on another timeline, or, None: does not hold the
        version any more."""
        self._looked_at = WallTime(0)
        self.looks.set()
        with self._changing:
            if timeline is None and self._next is not None:
                self._next.confirmed = True
        if timeline is not None:
            self._hear(timeline)
        self._swap_if_ready()
        with self._changing:
            self._changing.wait_for(lambda: self.edition is not edition, AGAIN_S)

    # ---- the log ---------------------------------------------------------------------------------------------------------

    def follow(self, timeout_s: float) -> int:
        """What the log has, what it leads to, and what came back from the cluster. Returns the rows that the log brought."""
        with self._changing:
            news, self._news = self._news, None
            chosen, self._chosen = self._chosen, {}
            edition, both = self.edition, [each for each in (self._next, self.edition) if each is not None]
        for each in both:
            each.choose(chosen)
        if news is not None and not edition.exact:
            edition.learn(news.refs, news.history, news.ends, news.skips, news.schema)
        rows = self._poll(edition, timeout_s)
        if not edition.exact and not edition.adopt():
            self._is_over = True
            self.looks.set()
        edition.catch_up()
        self._settle_errand()
        self._swap_if_ready()
        if not self.edition.show(self._dense):
            self.looks.set()
        self._compare()
        self._send_errand()
        return rows

    def _poll(self, edition: Edition, timeout_s: float) -> int:
        wanted, asked_at = edition.polls(), self.env.clock()
        if not wanted:
            self.current_at = asked_at  # there is nothing that it would want to hear
            self.stopped.wait(timeout_s)
            return 0
        try:
            found = self.env.log.poll(wanted, timeout_s=timeout_s)
        except (PositionGone, Corrupt) as error:
            log.warning("inference node: %s", error)
            self.trouble, self._is_over = str(error), True
            self.looks.set()
            self.stopped.wait(timeout_s)
            return 0
        name, schema = self.env.log.url, self.env.catalog.reload_schema
        rows = sum(edition.take(partition, entries, schema, name) for partition, entries in found.items() if entries)
        if not any(found.values()):
            self.current_at = asked_at
        elif all(offset >= self._ends.get(partition, offset) for partition, offset in edition.offsets().items()):
            self.current_at = max(self.current_at, self._ends_at)
        return rows

    def _compare(self) -> None:
        """Now and then some hot rows are asked for again: they must be the same, bit by bit."""
        edition, now = self.edition, self.env.clock()
        if edition.exact or edition.wanted or now - self._compared_at < self._compare_every:
            return
        self._compared_at = now
        draw = np.random.default_rng(now)
        for name, table in edition.tables.items():
            keys = table.members.keys
            edition.want(name, draw.choice(keys, min(SAMPLE, keys.size), replace=False) if keys.size else NO_KEYS)

    # ---- the cluster -------------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Runs the errand that waits, if one does."""
        errand = self._errand
        if errand is not None and not errand.is_back:
            errand.run(self.cluster, self.env.log.end)
            if errand.timeline is not None:
                self._hear(errand.timeline)

    def _send_errand(self) -> None:
        if self._errand is not None or time.monotonic() < self._ask_at:
            return
        for edition in (self._next, self.edition):
            if edition is not None and edition.wanted and (edition.caught_up or edition.exact or edition is self._next):
                most = min(MOST_KEYS, self.env.config.replica.max_request_keys)
                is_probe = edition is self._next and not edition.exact and not edition.confirmed
                self._errand = Errand.begin(edition, most=1 if is_probe else most)
                self.sent.set()
                return

    def _settle_errand(self) -> None:
        errand = self._errand
        if errand is None or not errand.is_back:
            return
        if errand.edition not in (self.edition, self._next):
            self._errand = None
            return
        if errand.error is None and not errand.may_settle():
            return
        corrects, taken = errand.edition.corrects, errand.settle()
        self.taken = self.taken.plus(taken)
        if taken.changed and not corrects and not errand.is_ahead:
            self.differing += taken.changed
            log.warning("inference node: %d hot rows were not those of the cluster; they are now", taken.changed)
        if errand.error is None:
            self.trouble, self._again_s = "", AGAIN_S
        else:
            self.trouble, self._ask_at = str(errand.error), time.monotonic() + self._again_s
            self._again_s = min(2 * self._again_s, LONGEST_AGAIN_S)
        self._errand = None

    def _hear(self, timeline: Timeline) -> None:
        """The cluster has answered from a timeline."""
        with self._changing:
            if self._next is not None and self._next.timeline == timeline != self.edition.timeline:
                self._next.confirmed = True
        self._swap_if_ready()

    # ---- one edition after the other ---------------------------------------------------------------------------------------

    def _swap_if_ready(self) -> None:
        with self._changing:
            edition, other = self.edition, self._next
            if other is None or not self._is_ready(edition, other):
                return
            self._dense, self._news = other.shown.dense, self._known
            self.edition, self._next, self._is_over = other, None, False
            self.swaps += 1
            self._changing.notify_all()

    def _is_ready(self, edition: Edition, other: Edition) -> bool:
        """Another edition takes over at once, but after a rollback not before the cluster has gone back too, if that takes no
        longer than the patience; and where it is of exactly one version, with all of its rows."""
        is_back = other.timeline != edition.timeline
        if other.confirmed or (is_back and self.env.clock() - self._next_at > self._patience):
            return True
        if other.exact:
            errand = self._errand
            return not other.wanted and (errand is None or errand.edition is not other)
        return not is_back or not other.wanted

    def _begin(self, news: News, dense: Dense, hot: Mapping[str, Keys]) -> Edition:
        settings = self.settings
        return Edition.begin(
            news, ref=self.ref, dense=dense, hot=hot, near_bytes=settings.near_bytes, expiry_us=microseconds(settings.near_expiry)
        )

    # ---- the store -----------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """The refs if it is due, the edition that they call for, and the dense slice that is wanted."""
        if self._is_over or self.env.clock() - self._looked_at >= microseconds(self.env.config.replica.refresh):
            self.read()
        self._prepare()
        info = self.edition.wanted_dense
        if info != self._dense.info:
            self._dense = self._read_dense(info)

    def read(self) -> None:
        """Reads the refs, the versions where they have moved, and the ends of the log."""
        refs, now = self.env.catalog.refs(), self.env.clock()
        if refs.generation != self._known.refs.generation:
            self._known = self._news = self._read_news()
        if not self.edition.exact:
            self._ends, self._ends_at = self._read_ends(), now
        self._looked_at = now

    def _prepare(self) -> None:
        """Begins another edition where the one that there is cannot go on to what the ref names."""
        known, edition, now = self._known, self.edition, self.env.clock()
        target, is_exact = manifest_of(known, self.ref), known.refs.ref(self.ref).follow != "log"
        is_other = is_exact != edition.exact or target.timeline != edition.timeline
        if edition.exact and is_exact:
            is_other = target.version != edition.manifest.version
        if not is_other and not (self._is_over and (not self._next_at or now - self._next_at >= ANEW_US)):
            return
        if self._next is not None and self._next.manifest.version == target.version:
            return
        if not is_other:
            known = self._known = self._read_news()  # with the log as it is now
            target = manifest_of(known, self.ref)
        hot = {name: table.members.keys for name, table in edition.tables.items()}
        other = self._begin(known, self._read_dense(target.dense), hot)
        with self._changing:
            self._next, self._next_at = other, now
        self._swap_if_ready()

    def _read_news(self) -> News:
        catalog = self.env.catalog
        refs = catalog.refs()
        return News(refs, catalog.history(refs), catalog.reload_schema(), read_skips(catalog), self._read_ends())

    def _read_ends(self) -> dict[Partition, Offset]:
        return {p: self.env.log.end(p) for p in map(Partition, range(self.env.log.partitions))}

    def _read_dense(self, info: DenseInfo | None) -> Dense:
        return Dense(info, {} if info is None else read_dense(self.env.catalog.store, info))
