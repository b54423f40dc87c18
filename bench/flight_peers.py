"""Processes beside the bench of lookups over Flight: `transport`, a server that looks nothing up, and `trainer`, which publishes
the table and puts rows while it is told to."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import flight

from penstock.publishers import FRESH, Delivery, Updates

from .served import BATCH, ROWS, keys_of
from .tables import DIM

TRAINED = "2026-11-01T10:00:00Z"
PUT, PUT_A_SECOND = 500, 100_000
BYTES = pa.schema([pa.field("rows", pa.float32())])


class Transport(flight.FlightServerBase):  # type: ignore[misc]
    """Answers an exchange with as many bytes as the rows take, always the same; the command says in how many batches."""

    def __init__(self) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._rows = pa.array(np.random.default_rng(0).standard_normal(BATCH * DIM, dtype=np.float32))

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        reader.read_chunk()
        writer.begin(BYTES)
        edges = np.linspace(0, len(self._rows), int(descriptor.command) + 1).astype(int).tolist()
        for low, high in pairwise(edges):
            writer.write_batch(pa.RecordBatch.from_arrays([self._rows[low:high]], schema=BYTES))


def transport() -> None:
    server = Transport()
    print(server.port, flush=True)
    server.serve()


def trainer(config: str) -> None:
    """Publishes, then puts rows of keys that are there from "go" to "stop", and says how many a second that were."""
    rng = np.random.default_rng(0)
    with Delivery.open(config, publisher="trainer", resume=FRESH, model="bench") as delivery:
        rows = rng.standard_normal((ROWS, DIM), dtype=np.float32)
        delivery.publish_snapshot({"item": (keys_of(np.arange(ROWS)), rows)}, trained_through=TRAINED)
        del rows
        print("published", flush=True)
        updates = delivery.updates()
        while sys.stdin.readline():
            print(_put(updates, rng), flush=True)


def _put(updates: Updates, rng: np.random.Generator) -> float:
    """Rows a second, until a line comes."""
    began, put = time.perf_counter(), 0
    parts = cycle([(keys_of(rng.choice(ROWS, PUT)), rng.standard_normal((PUT, DIM), dtype=np.float32)) for _ in range(400)])
    while not select.select([sys.stdin], [], [], max(0.0, put / PUT_A_SECOND - (time.perf_counter() - began)))[0]:
        updates.put("item", *next(parts), trained_through=TRAINED)
        put += PUT
    updates.flush()
    rate = put / (time.perf_counter() - began)
    sys.stdin.readline()
    return rate


@contextmanager
def peer(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """One of them, and what it says first."""
    command = [sys.executable, "-m", __name__, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    transport() if sys.argv[1] == "transport" else trainer(sys.argv[2])
