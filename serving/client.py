"""Asks replicas over the network: shards in parallel, another replica where one is slow or gone, one timeline in each answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar
from urllib.parse import urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_safetensors

from penstock.pipeline.core.errors import InvalidInput, PenstockError, Unreachable
from penstock.pipeline.core.ids import Version
from penstock.pipeline.core.schema import KeyType

from .answers import Answer
from .asked_keys import Asked, asked_keys
from .asking import Counters, Means
from .bags import Bags, Pooling
from .connecting import Access, Connection
from .fleet import Fleet
from .hedging import Hedging
from .merging import Merging
from .rooms import Rooms
from .rounds import GivingUp, Rounds, unreachable
from .sources import Listed, Named, Source
from .status import Health, ReplicaStatus
from .timers import Timers

if TYPE_CHECKING:
    from typing import Self, Unpack

    from penstock.pipeline.config import Config

T = TypeVar("T")
Consistency = Literal["newest", "version"]
TIMEOUT_S = 10.0
HEDGE_SHARE = 0.05
MOST_CALLS = 64


class Options(TypedDict, total=False):
    """What a client may be made with.

    `timeout_s`: of a lookup, all its tries together. `consistency`: "newest", each row as new as its replica has it, or
    "version": all rows exactly as they were at one version, the newest that all shards have come to. `hedge_share`: second tries
    for slow first ones, at most. `tls_root`, `tls_cert` and `tls_key` are PEM files; `token`, or the content of `token_file`, is
    sent along with every call; `server_name` is whom the certificate must name, if not the host of the URL. `most_calls`: calls
    under way at once, beside those in the callers' own threads. `share_memory`, unless it is False: the rows of large answers of
    a replica of the same user on the same machine come in memory that both have, instead of over a socket."""

    timeout_s: float
    consistency: Consistency
    hedge_share: float
    tls_root: str | Path | None
    tls_cert: str | Path | None
    tls_key: str | Path | None
    token: str | None
    token_file: str | Path | None
    server_name: str | None
    most_calls: int
    share_memory: bool


class How(TypedDict, total=False):
    """Of one lookup. `version`: exactly as the rows were then. `consistency`, `timeout_s`: other than those of the client.
    `bags`: of tables whose rows are to be pooled; the answer has one row for each bag."""

    version: int | None
    consistency: Consistency
    timeout_s: float
    bags: Mapping[str, Bags]


class Client:
    """`urls`: of replicas, as in "grpc://replica-0:8815", or where to find them; those of another model than `model` are passed
    over. Each says which buckets it holds; a lookup goes to as few of them as hold all its keys. Safe to share among threads.

    Who does not answer, or says that it should not be asked, is asked again only after the others; until `timeout_s` is over, all
    that could answer are tried. A rollback is never undone by a fail-over: once an answer came from a timeline, older ones are
    refused, and no answer has rows of two. Rows that come from two replicas, one after the other, may go back in time by as much
    as one of them lags: who must not see that asks for a version."""

    def __init__(self, urls: str | Sequence[str] | Source, *, model: str | None = None, **options: Unpack[Options]) -> None:
        self._timeout_s = options.get("timeout_s", TIMEOUT_S)
        self._consistency: Consistency = options.get("consistency", "newest")
        if self._consistency not in ("newest", "version"):
            raise InvalidInput(f"consistency {self._consistency!r}: newest or version")
        source = Listed.of(urls) if isinstance(urls, str | Sequence) else urls
        rooms = Rooms() if options.get("share_memory", True) else None
        fleet = Fleet(source, _access(options), rooms, model, self._timeout_s)
        pool = ThreadPoolExecutor(options.get("most_calls", MOST_CALLS), "penstock-lookup")
        self._means = Means(
            fleet=fleet, hedging=Hedging(options.get("hedge_share", HEDGE_SHARE)), timers=Timers(), pool=pool
        )  # fmt: skip

    @classmethod
    def from_dns(cls, url: str, *, model: str | None = None, **options: Unpack[Options]) -> Self:
        """`url`: a name that has the addresses of all replicas, which is resolved again and again, and their port."""
        if url.startswith("grpc+tls"):
            options.setdefault("server_name", urlsplit(url).hostname)
        return cls(Named(url), model=model, **options)

    @classmethod
    def from_config(
        cls, config: Config | str | Path, model: str | None = None, *, ref: str = "live", **options: Unpack[Options]
    ) -> Self:
        """As `[client]` of a config says; where that names no replicas, those of `ref` that report to the catalog."""
        from .configured import configured

        found = configured(config, model, ref)
        merged: Options = {**found.options, **options}
        if isinstance(found.source, Named):
            return cls.from_dns(found.source.url, model=found.model, **merged)
        return cls(found.source, model=found.model, **merged)

    @property
    def urls(self) -> list[str]:
        """Those that would be asked first, first."""
        return self._means.fleet.urls

    @property
    def counters(self) -> Counters:
        """What it took so far."""
        with self._means.counting:
            return replace(self._means.counters)

    def warm(self) -> None:
        """Finds the replicas, and loads what lookups need, which else the first lookup does, in its own time."""
        if len(self._means.fleet.routing(time.monotonic() + self._timeout_s).segments) > 1:
            from .splitting import warm

            warm()

    def lookup(self, table: str, keys: Asked, **how: Unpack[How]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """float32[n, dim] rows and bool[n] found of n keys, integers or texts; with `version`, exactly as they were then.

        `NotFound`: no such table; `InvalidInput`: texts, and the table has numbers; `VersionGone`: no replica holds that version;
        `Unreachable`: none answers in time; `Overloaded`: all have too much to do; `Refused`: the table refuses unknown keys and
        one is, or the replica refuses the request."""
        answer = self.answer(table, keys, **how)
        return answer.rows, answer.found

    def lookup_many(
        self, keys: Mapping[str, Asked], **how: Unpack[How]
    ) -> dict[str, tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """As `lookup`, of several tables in one request to each shard."""
        return {table: (answer.rows, answer.found) for table, answer in self.answers(keys, **how).items()}

    def answer(self, table: str, keys: Asked, **how: Unpack[How]) -> Answer:
        """As `lookup`, with the version and timeline that the rows belong to."""
        return self.answers({table: keys}, **how)[table]

    def answers(self, keys: Mapping[str, Asked], **how: Unpack[How]) -> dict[str, Answer]:
        """As `lookup_many`, with the version and timeline that all rows belong to, or are newer than."""
        return self.answers_until(keys, GivingUp(), **how)

    def lookup_pooled(
        self,
        table: str,
        keys: Asked,
        offsets: Sequence[int] | NDArray[np.integer[Any]],
        *,
        pooling: Pooling = "sum",
        **how: Unpack[How],
    ) -> NDArray[np.float32]:
        """float32[bags, dim], the sum or mean of the rows of each bag, as torch's `EmbeddingBag` has it: bag i has the keys from
        offsets[i] up to offsets[i + 1], the last one up to the end. An unknown key counts as what the table gives for it."""
        how["bags"] = {table: Bags(np.asarray(offsets, np.int64), pooling)}
        return self.answers({table: keys}, **how)[table].rows

    def answers_until(self, keys: Mapping[str, Asked], giving_up: GivingUp, **how: Unpack[How]) -> dict[str, Answer]:
        """As `answers`; `giving_up` ends it with `Unreachable`."""
        if not keys:
            return {}
        until = time.monotonic() + how.get("timeout_s", self._timeout_s)
        version = how.get("version")
        merging = Merging({table: asked_keys(table, some) for table, some in keys.items()}, how.get("bags", {}))
        for table, bags in merging.bags.items():
            if table not in merging.wanted:
                raise InvalidInput(f"table {table}: bags, and no keys")
            bags.check(table, merging.wanted[table].keys.size)
        self._means.count(lookups=1)
        rounds = Rounds(self._means, merging, until=until, giving_up=giving_up)
        if version is None and how.get("consistency", self._consistency) == "version":
            return rounds.answers_at_one_version()
        return rounds.answers(None if version is None else Version(version))

    def status(self) -> ReplicaStatus:
        """Of the first replica that answers."""
        (said,) = self._first(lambda replica, left: replica.act("status", timeout_s=left))
        return msgspec.json.decode(said, type=ReplicaStatus)

    def key_type(self, table: str) -> KeyType:
        """What the keys of a table are, as the first replica that answers says; numbers where it has no such table."""
        found = self.status().tables.get(table)
        return "int64" if found is None else found.keys

    def ready(self) -> bool:
        """Whether the first replica that answers says that it should be asked."""
        return self._first(lambda replica, left: replica.health(timeout_s=left)).ready

    def replicas(self) -> dict[str, Health | None]:
        """What each replica that is known said of itself last, by URL; None: nothing yet."""
        self._means.fleet.known(time.monotonic() + self._timeout_s)
        return dict(self._means.fleet.members())

    def dense(self) -> tuple[str, dict[str, NDArray[Any]]]:
        """The digest of the dense slice that is served, and its tensors. `NotFound` when the model has none."""
        digest, data = self._first(lambda replica, left: replica.act("dense", timeout_s=left))
        return digest.decode(), load_safetensors(data)

    def close(self) -> None:
        self._means.fleet.close()
        self._means.timers.close()
        self._means.pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _first(self, call: Callable[[Connection, float], T]) -> T:
        """What the first replica that answers says; each has its share of the time."""
        until = time.monotonic() + self._timeout_s
        members, said = self._means.fleet.known(until), list[PenstockError]()
        for number, member in enumerate(members):
            try:
                return call(member.connection, (until - time.monotonic()) / (len(members) - number))
            except Unreachable as error:
                self._means.fleet.failed(member, error)
                said.append(error)
        raise unreachable(said)


def _access(options: Options) -> Access:
    def path(given: str | Path | None) -> Path | None:
        return None if given is None else Path(given)

    return Access(
        root=path(options.get("tls_root")), certificate=path(options.get("tls_cert")), key=path(options.get("tls_key")),
        token=options.get("token"), token_file=path(options.get("token_file")), server_name=options.get("server_name"),
    )  # fmt: skip
