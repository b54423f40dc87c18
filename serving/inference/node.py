"""An inference node: the hot rows of a model and its dense slice in the process of those who score, and the cluster for the rest.

It follows the log itself, so a hot row is as new as the cluster's. Lookups run in their callers' threads and take no lock but
that of a near cache.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from penstock.pipeline.config import Config, config_path, load_config, microseconds
from penstock.pipeline.core.errors import InvalidInput, NotFound, Unreachable
from penstock.pipeline.core.ids import Timeline, Version
from penstock.pipeline.environment import Environment, open_environment

from ..client import Client
from ..warming import warm
from .edition import Edition
from .editions import Editions
from .errand import Cluster
from .gathering import Elsewhere, Gathering, Unreached
from .hot_table import HOT_OVERHEAD, warm_hot
from .inputs import Features, Inputs, Sources, checked
from .members import Keys
from .reporting import NodeStatus, status_of
from .traffic import Counted, Counts, hottest
from .transforms import Transform, load_transform

log = logging.getLogger(__name__)
POLL_S = 0.05
PAUSE_S, LONGEST_PAUSE_S = 0.05, 3.2
TIMEOUT_S = 10.0
COUNTED_PER_HOT = 4
COUNT_EVERY = 8
"""One of so many keys of a request is counted."""


class InferenceNode:
    """Bootstraps when it is made, and follows from `start` to `close`; else it takes a `step` when told to.

    `cluster`: who has all rows, a `Client`; it stays the caller's. `hot`: how often each key was seen, by table, as of
    `read_frequencies`; without, and later on, the requests tell. `timeout_s`: how long a request waits for the cluster to be
    where this node is."""

    def __init__(
        self,
        env: Environment,
        cluster: Cluster,
        *,
        ref: str = "live",
        hot: Mapping[str, Counted] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        settings = env.config.inference
        self.env, self.cluster, self.timeout_s, self._budget = env, cluster, timeout_s, settings.hot_bytes
        self._max_lag, self._recount = microseconds(settings.max_lag), microseconds(settings.recount)
        self.transform: Transform | None = None if settings.transform is None else load_transform(settings.transform)
        self.sources = Sources()
        self._summing = threading.Lock()
        self.failure: Exception | None = None
        """What it cannot go on without; its hot rows are not trusted then."""
        self.editions = Editions(env, cluster, ref=ref)
        warm(self.edition.schema)
        warm_hot(self.edition.schema)
        self._counts: dict[str, Counts] = {}
        for name, counted in (hot or {}).items():
            self._counts_of(name).add_counted(counted)
        self._recounted_at = env.clock()
        self.recount()
        self._threads: list[threading.Thread] = []
        self._closing = ExitStack()

    @classmethod
    def open(
        cls,
        config: Config | str | Path | None = None,
        *,
        model: str | None = None,
        ref: str = "live",
        hot: Mapping[str, Counted] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> InferenceNode:
        """Of a model of the config (a file, or $PENSTOCK_CONFIG), with a client of its replicas as [client] says; follows, until
        `close`. Errors as of `load_config`, `open_environment` and `Client.from_config`."""
        found = config if isinstance(config, Config) else load_config(config_path(None if config is None else Path(config)))
        name = found.model_name(model)
        with ExitStack() as closing:
            env = closing.enter_context(open_environment(found, name))
            client = closing.enter_context(Client.from_config(found, name, ref=ref, timeout_s=timeout_s))
            node = cls(env, client, ref=ref, hot=hot, timeout_s=timeout_s)
            node.start()
            node._closing = closing.pop_all()
            return node

    @property
    def edition(self) -> Edition:
        return self.editions.edition

    @property
    def version(self) -> Version:
        return self.edition.shown.version

    @property
    def timeline(self) -> Timeline:
        return self.edition.timeline

    def status(self) -> NodeStatus:
        return status_of(self)

    # ---- lookups -------------------------------------------------------------------------------------------------------

    def inputs(self, features: Features, *, unreached: Unreached = "refuse") -> Inputs:
        """Rows of all features, and the dense slice that goes with them, of one timeline.

        `NotFound`: no such table; `InvalidInput`: keys or offsets that cannot be; `Refused`: an unknown key, where the table says
        so; `Unreachable`: the cluster does not answer and not all keys are here, unless `unreached` is "defaults"."""
        wanted, until = checked(features), time.monotonic() + self.timeout_s
        for some in wanted.values():
            self._counts_of(some.table).add(some.keys[random.randrange(COUNT_EVERY) :: COUNT_EVERY])
        while True:
            edition = self.edition
            try:
                found = Gathering(edition, self.cluster, self.env.clock(), self.trusts(edition)).gather(wanted, unreached)
            except Elsewhere as elsewhere:
                if time.monotonic() > until or self.editions.stopped.is_set():
                    raise Unreachable(f"{elsewhere}, for {self.timeout_s:.1f} s", hint="ask again a little later") from None
                self.editions.come_to(edition, elsewhere.timeline)
                continue
            with self._summing:
                self.sources = self.sources.plus(found.sources)
            return found

    def transformed(self, raw: Mapping[str, object], *, unreached: Unreached = "refuse") -> Inputs:
        """As `inputs`, of the raw features that the config's transform takes. `InvalidInput`: the config names none."""
        if self.transform is None:
            raise InvalidInput("the config names no feature transform", hint='say transform = "NAME" under [inference]')
        return self.inputs(self.transform(raw), unreached=unreached)

    def trusts(self, edition: Edition) -> bool:
        """Whether its hot rows are as new as the log, but for `max_lag`."""
        if edition.exact:
            return True
        is_fresh = self.env.clock() - self.editions.current_at <= self._max_lag
        return edition.caught_up and is_fresh and not edition.alarm and self.failure is None

    # ---- which keys are hot ----------------------------------------------------------------------------------------------

    def choose(self, hot: Mapping[str, Keys]) -> None:
        """These keys (int64[n] by table) are hot from now on, whatever was asked for; until the requests say otherwise. The
        others of these tables are not. `NotFound`: no such table."""
        for name in hot:
            self.edition.table(name)
        self.editions.choose(hot)

    def recount(self) -> None:
        """Chooses the hot keys anew from what was asked for."""
        tables = self.edition.tables
        counted = {name: counts.fade() for name, counts in list(self._counts.items()) if name in tables}
        counted = {name: found for name, found in counted.items() if found.keys.size}
        row_bytes = {name: 4 * table.dim + HOT_OVERHEAD for name, table in tables.items()}
        hot = {name: table.members.keys for name, table in tables.items()}
        self.editions.choose(hottest(counted, row_bytes, self._budget, hot))

    def _counts_of(self, table: str) -> Counts:
        found = self._counts.get(table)
        if found is None:
            fit = self._budget // (4 * self.edition.table(table).dim + HOT_OVERHEAD)
            found = self._counts.setdefault(table, Counts(COUNTED_PER_HOT * max(1, fit)))
        return found

    def _recount_if_due(self) -> None:
        now = self.env.clock()
        if now - self._recounted_at >= self._recount:
            self._recounted_at = now
            self.recount()

    # ---- the threads ---------------------------------------------------------------------------------------------------

    def step(self, timeout_s: float = 0.0) -> int:
        """One round of each thread. Returns the rows that the log brought."""
        self._watch()
        rows = self.editions.follow(timeout_s)
        self.editions.ask()
        return rows + self.editions.follow(0.0)

    def _watch(self) -> None:
        self.editions.look()
        self._recount_if_due()

    def start(self) -> None:
        """Follows in threads of its own until `close`."""
        pause_s = microseconds(self.env.config.replica.refresh) / 1e6

        def watch() -> None:
            self.editions.looks.clear()
            self._watch()
            self.editions.looks.wait(pause_s)

        def ask() -> None:
            if self.editions.sent.wait(POLL_S):
                self.editions.sent.clear()
                self.editions.ask()

        works: list[Callable[[], object]] = [lambda: self.editions.follow(POLL_S), watch, ask]
        for name, work in zip(("follows", "watches", "asks"), works, strict=True):
            thread = threading.Thread(target=self._run, args=(work,), name=f"inference node {name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        """A log or store that does not answer is waited for, anything else that fails is `failure`."""
        pause_s = PAUSE_S
        while not self.editions.stopped.is_set():
            try:
                work()
                pause_s = PAUSE_S
            except (Unreachable, NotFound) as error:
                log.warning("inference node waits: %s", error)
                self.editions.trouble = str(error)
                self.editions.stopped.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            except Exception as error:
                log.exception("inference node stops")
                self.failure = error
                return

    def close(self) -> None:
        """Stops the threads, and closes what was opened with it."""
        self.editions.stopped.set()
        self.editions.looks.set()
        self.editions.sent.set()
        for thread in self._threads:
            thread.join()
        self._closing.close()

    def __enter__(self) -> InferenceNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
