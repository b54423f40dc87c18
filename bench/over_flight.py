"""Lookups of 150,000 keys among 10 million rows of 32 floats, asked of a replica in another process over Arrow Flight, which puts
the rows into memory that both have, or sends them over the socket: beside the same keys in process by one thread, beside Flight
that sends as many bytes and looks nothing up, and beside `MGET` of a Redis.

All take turns, so that a slow moment strikes all alike; ratios are those of the medians, or of the same percentiles."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from pyarrow import flight

from penstock.serving import Client
from penstock.serving.table import Table
from penstock.serving.wire import LookupReply, LookupRequest, keys_batch, rows_of

from .figures import Figure, alternating
from .fleet import replica
from .flight_peers import peer
from .served import BATCH, ROWS, drawn, in_bucket_order, keys_of, load, new_table
from .servers import RedisRows, redis_rows
from .tables import DIM, scratch_folder

ROUNDS, QUIET_ROUNDS, BLOCKS, DRAWN = 100, 30, 4, 32
BATCHES = 1
"""Of bare transport."""
REDIS_ROWS = 1_000_000
WAYS = {
    "client": f"{BATCH:,} keys over Flight, rows in shared memory",
    "socket": f"{BATCH:,} keys over Flight, rows over the socket",
}
Keys = NDArray[np.int64]
CONFIG = """
[store]
url = "file://{folder}/store"
[log]
url = "file://{folder}/log"
partitions = 8
[models.bench]
buckets = 1024
"""


def run() -> list[Figure]:
    with scratch_folder() as folder, ExitStack() as closing:
        config = folder / "penstock.toml"
        config.write_text(CONFIG.format(folder=folder))
        trainer, _ = closing.enter_context(peer("trainer", str(config)))
        _, url = closing.enter_context(replica(config, "all", "0-1023"))
        _, port = closing.enter_context(peer("transport"))
        asking = Asking(folder, closing, url, f"grpc://127.0.0.1:{port}")
        return [*asking.against_others("zipf"), *asking.against_others("uniform"), *asking.while_applied(trainer)]


class Asking:
    """One client of everything."""

    def __init__(self, folder: Path, closing: ExitStack, url: str, transport: str) -> None:
        self._table: Table = new_table()
        load(self._table, in_bucket_order(ROWS))
        self._out = np.zeros((BATCH, DIM), np.float32)
        self._client = closing.enter_context(Client(url))
        self._streamed = closing.enter_context(Client(url, share_memory=False))
        self._raw, self._transport = (closing.enter_context(flight.FlightClient(where)) for where in (url, transport))
        self._redis: RedisRows | None = closing.enter_context(redis_rows(folder, *_redis_rows()))

    def against_others(self, law: str) -> list[Figure]:
        keys = _keys(law)
        works: dict[str, Callable[[], object]] = {
            "client": lambda: self._client.lookup("item", next(keys)),
            "socket": lambda: self._streamed.lookup("item", next(keys)),
            "raw": lambda: self._in_one_batch(next(keys)),
            "in process": lambda: self._table.lookup(next(keys), self._out),
            "transport": lambda: self._transported(next(keys)),
        }
        alternating(3, *works.values())
        took = dict(zip(works, alternating(ROUNDS, *works.values()), strict=True))
        if self._redis is not None:  # by itself, as what follows something so long finds cold caches
            numbers, stored = _numbers(law), self._redis
            _, took["Redis"] = alternating(ROUNDS // 4, works["client"], lambda: stored.rows(next(numbers)))
        figures = []
        for name, said in WAYS.items():
            for percent in (50, 99):
                figures.append(_against(f"{said}, {law}", took[name], "one thread in process", took["in process"], percent, 2))
        if self._redis is not None:
            redis = f"Redis MGET, {REDIS_ROWS:,} rows"
            figures.append(_against(f"{WAYS['client']}, {law}", took["client"], redis, took["Redis"], 50, 0.05))
        for name, said in (("transport", "bare transport"), ("raw", "asked for in one batch, without the client")):
            figures.append(_against(f"{WAYS['socket']}, {law}", took["socket"], said, took[name], 50))
        return figures

    def while_applied(self, trainer: subprocess.Popen[str]) -> list[Figure]:
        """Quiet and busy by turns."""
        assert trainer.stdin is not None
        assert trainer.stdout is not None
        figures = []
        for law in ("zipf", "uniform"):
            keys, rates = _keys(law), []
            quiet, busy = list[float](), list[float]()
            for _ in range(BLOCKS):
                quiet += self._asked(keys)
                print("go", file=trainer.stdin, flush=True)
                busy += self._asked(keys)
                print("stop", file=trainer.stdin, flush=True)
                rates.append(float(trainer.stdout.readline()))
            peer = f"quiet: {_ms(quiet, 99):.1f} ms; {np.mean(rates) / 1e3:.0f} thousand rows/s put by another process"
            ratio = _ms(busy, 99) / _ms(quiet, 99)
            what = f"{WAYS['client']} while 100,000 rows/s are applied, {law}, p99"
            figures.append(Figure(what, _ms(busy, 99), "ms", peer, ratio, "ratio <= 1.5"))
        return figures

    def _asked(self, keys: Iterator[Keys]) -> list[float]:
        return alternating(QUIET_ROUNDS, lambda: self._client.lookup("item", next(keys)))[0]

    def _in_one_batch(self, keys: Keys) -> object:
        request = msgspec.json.encode(LookupRequest(tables=("item",)))
        chunk = next(_exchanged(self._raw, request, keys, 1))
        return rows_of(chunk.data, msgspec.json.decode(chunk.app_metadata, type=LookupReply).dims)

    def _transported(self, keys: Keys) -> None:
        for _ in _exchanged(self._transport, str(BATCHES).encode(), keys, BATCHES):
            pass


def _exchanged(client: flight.FlightClient, command: bytes, keys: Keys, batches: int) -> Iterator[flight.FlightStreamChunk]:
    batch = keys_batch([keys])
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(command))
    with writer:
        writer.begin(batch.schema)
        writer.write_batch(batch)
        writer.done_writing()
        for _ in range(batches):
            yield reader.read_chunk()


def _numbers(law: str, rows: int = REDIS_ROWS) -> Iterator[Keys]:
    rng = np.random.default_rng(5)
    return cycle([drawn(law, rng, rows) for _ in range(DRAWN)])


def _keys(law: str) -> Iterator[Keys]:
    return cycle([keys_of(next(numbers)) for numbers in [_numbers(law, ROWS)] for _ in range(DRAWN)])


def _redis_rows() -> tuple[Keys, NDArray[np.float32]]:
    rng = np.random.default_rng(3)
    return rng.permutation(REDIS_ROWS), rng.standard_normal((REDIS_ROWS, DIM), dtype=np.float32)


def _against(what: str, ours: list[float], peer: str, theirs: list[float], percent: int, most: float | None = None) -> Figure:
    value, other = _ms(ours, percent), _ms(theirs, percent)
    target = "" if most is None else f"ratio <= {most}"
    return Figure(f"{what}, p{percent}", value, "ms", f"{peer}: {other:.1f} ms", value / other, target)


def _ms(times: list[float], percent: int) -> float:
    return float(np.percentile(times, percent)) * 1e3
