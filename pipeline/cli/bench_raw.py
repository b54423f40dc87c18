"""A plain client of the broker, beside Penstock: the same messages from this process to another one. Kafka only; told what to do
by `bench_readers`."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ..config import Config
from ..core.records import row_record_bytes
from ..environment import log_options, log_settings
from ..ports.kafka_raw import RawReceiver, RawSender, RawTopic
from ..ports.open_log import open_log
from .bench_model import own_log
from .bench_pacing import Plan, watched
from .bench_probes import MOST_PUTS, PREPARED, TABLE, Load, Noted
from .bench_readers import LOST_S, Observed, Reader, reader

NUMBER = struct.Struct("<q")
"""What a message begins with: the number of its put."""
SHARE = 4
"""It is measured for this part of the time, before and after what it is compared with."""
POLL_S = 0.02


@contextmanager
def plain_client(config: Config, name: str, publisher: str, plan: Plan) -> Iterator[Callable[[], NDArray[np.float64]]]:
    """Gives what measures it once: milliseconds from send to received, of each put and partition, on a topic like the log's."""
    settings = log_settings(config)
    with own_log(config, name):
        open_log(config.log.url, name=name, partitions=plan.load.partitions, create=settings, options=log_options(config)).close()
        topic = RawTopic(urlsplit(config.log.url).netloc, f"penstock-{name}", dict(config.log.options), settings.max_record_bytes)
        messages = _messages(plan.load, publisher)
        with reader(receive, topic, plan.load) as receiver:
            yield lambda: _measured(topic, messages, receiver, plan)


def _messages(load: Load, publisher: str) -> list[list[bytes]]:
    """For each prepared put one message a partition, as large as the record of its rows."""
    rng, width = np.random.default_rng(0), 4 * load.dim
    fixed = row_record_bytes(rows=0, tombstones=0, width=0, publisher=publisher, table=TABLE)
    found = []
    for _ in range(PREPARED):
        counts = np.bincount(load.partitions_of(np.unique(load.keys(rng))), minlength=load.partitions)
        found.append([rng.bytes(fixed + rows * (8 + width) - NUMBER.size) for rows in counts.tolist()])
    return found


def _measured(topic: RawTopic, messages: list[list[bytes]], receiver: Reader, plan: Plan) -> NDArray[np.float64]:
    sender = RawSender(topic)

    def put(number: int) -> None:
        for partition, message in enumerate(messages[number % PREPARED]):
            sender.send(partition, NUMBER.pack(number) + message)

    try:
        return watched(plan, plan.seconds / SHARE, receiver, put).latencies_ms
    finally:
        sender.close()


def receive(pipe: Connection, topic: RawTopic, load: Load) -> None:
    """In a process of its own: says "ready", then receives when it is asked to; in between it is not connected."""
    pipe.send("ready")
    while True:
        pipe.recv()
        receiver = RawReceiver(topic, partitions=load.partitions)
        try:
            pipe.send("watching")
            pipe.send(_observed(pipe, receiver, load))
        finally:
            receiver.close()


def _observed(pipe: Connection, receiver: RawReceiver, load: Load) -> Observed:
    noted, last, patience = Noted(load.partitions), MOST_PUTS, float("inf")
    while noted.newest.min() < last and time.monotonic() < patience:
        newest = noted.newest.copy()
        for partition, messages in receiver.receive(POLL_S).items():
            newest[partition] = NUMBER.unpack_from(messages[-1])[0]
        noted.look(newest, np.full(load.partitions, time.monotonic_ns()))
        if last == MOST_PUTS and pipe.poll():
            last, patience = pipe.recv().number, time.monotonic() + LOST_S
    return Observed(noted.seen(), np.empty(0))
