"""The broker, the trainer and the replicas are killed with -9 at moments that a seed decides, again and again, under load.
Whatever was acknowledged is served by every replica, an old or a newborn one, all come to the same digest, and nobody has to
lend a hand.

CHAOS_KILLS=20 CHAOS_BROKER_KILLS=5 make it long (`make chaos SEED=2`), CHAOS_SEED makes it another one.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.kafka import KafkaBroker
from servers.s3 import free_port
from turmoil import Turmoil, say

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
KILLS, BROKER_KILLS = int(os.environ.get("CHAOS_KILLS", "5")), int(os.environ.get("CHAOS_BROKER_KILLS", "2"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
CONFIG = """
[store]
url = "file://{folder}/store"
[log]
url = "kafka://{bootstrap}"
partitions = 4
[models.shop]
buckets = 16
[realtime]
overflow = "{overflow}"
queue_bytes = {queue_bytes}
max_staleness = "2s"
flush_timeout = "4s"
"""
QUEUE_BYTES = {"block": 64 << 20, "priority": 40_000}
"""Of "priority" so few that a broker that is away makes rows give way."""


@pytest.fixture
def turmoil(tmp_path: Path, own_kafka: KafkaBroker, request: pytest.FixtureRequest) -> Iterator[Turmoil]:
    config = tmp_path / "penstock.toml"
    overflow = request.param
    config.write_text(
        CONFIG.format(folder=tmp_path, bootstrap=own_kafka.bootstrap, overflow=overflow, queue_bytes=QUEUE_BYTES[overflow])
    )
    found = Turmoil(tmp_path, config, [free_port(), free_port()], pace_ms=20)
    yield found
    found.close()


@pytest.mark.parametrize("turmoil", ["block", "priority"], indirect=True)
def test_nothing_that_was_acknowledged_is_lost_whoever_is_killed(turmoil: Turmoil, own_kafka: KafkaBroker) -> None:
    chance = random.Random(SEED)
    events = ["broker"] * BROKER_KILLS + chance.choices(["trainer", "replica"], k=KILLS)
    chance.shuffle(events)
    turmoil.trainer.start()
    turmoil.learned(10)
    for replica in turmoil.replicas.values():
        replica.start()
    for event in events:
        # Some are killed while they begin or catch up, the others when they have got somewhere.
        if chance.random() < 0.3:
            threading.Event().wait(chance.uniform(0, 1.5))
        else:
            turmoil.learned(chance.randrange(3, 30))
            turmoil.check_serving()
        if event == "replica":
            killed = chance.choice(list(turmoil.replicas.values()))
            killed.kill()
            killed.start()
        elif event == "trainer":
            turmoil.trainer.kill()
            if chance.random() < 0.7:
                turmoil.check_quiet()
            turmoil.trainer.start()
        else:
            own_kafka.kill()
            say("the broker was killed")
            while_away(turmoil, own_kafka, chance)
    turmoil.learned(20)
    turmoil.check_serving()
    assert turmoil.trainer.end() == 0, turmoil.trainer.tail()
    turmoil.check_end()
    assert sum(program.kills for program in turmoil.programs) >= KILLS


def while_away(turmoil: Turmoil, broker: KafkaBroker, chance: random.Random) -> None:
    """The broker comes back after a while; another process may have been killed meanwhile."""
    killed = chance.choice([None, turmoil.trainer, *turmoil.replicas.values()])
    threading.Event().wait(chance.uniform(0, 3))
    if killed is not None:
        killed.kill()
    quiet = killed is turmoil.trainer and chance.random() < 0.7
    if killed is not None and not quiet:
        killed.start()
    threading.Event().wait(chance.uniform(0, 3))
    broker.start()
    say("the broker is back")
    if quiet:
        turmoil.check_quiet()
        turmoil.trainer.start()
