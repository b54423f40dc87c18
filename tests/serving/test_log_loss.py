"""A log that loses what a replica has read, becomes another, or cannot be read in one partition: the rest serves on."""

from __future__ import annotations

import time
import uuid

import msgspec
import pytest
from broken_records import put_broken
from served import check_same, counted, partition, published, rows_of, step, world_of

from penstock.pipeline.catalog.catalog import Actor
from penstock.pipeline.catalog.skipping import skip_record
from penstock.pipeline.core.errors import Corrupt, PositionGone, Refused
from penstock.pipeline.ports.file_log import open_file_log
from penstock.pipeline.ports.kafka_log import open_kafka_log
from penstock.pipeline.ports.log_checks import LogSettings, another_log
from penstock.pipeline.ports.memory_log import Appended
from penstock.serving.replica import Replica


@pytest.fixture
def world():
    return world_of()


def test_an_end_below_the_own_position_means_loading_anew(world, caplog):
    writer = published(world)
    replica = Replica(world.environment(), name="r")
    kept = [list(records) for records in world.log._records]
    writer.put("item", 2, *range(12))
    step(replica)
    assert {row[0] for row in rows_of(replica)["item"].values()} == {2}
    world.log._records = kept  # as after an unclean change of leaders
    step(replica)
    assert counted(replica, "reloaded") == 2
    assert {row[0] for row in rows_of(replica)["item"].values()} == {1}
    assert "does not exist, the log ends at" in caplog.text
    check_same(world, replica)
    world.writer().put("item", 3, *range(12))
    step(replica)
    assert {row[0] for row in rows_of(replica)["item"].values()} == {3}


@pytest.mark.parametrize("table", ["item", "user"])
def test_what_was_read_and_is_lost_is_found_when_nobody_saw_it_go(world, caplog, table):
    """Invariant 9: an unclean change of leaders that was over before the log was asked again."""
    writer = published(world)
    replica = Replica(world.environment(), name="r")
    kept, model = [list(records) for records in world.log._records], {table: dict(rows) for table, rows in world.model.items()}
    writer.put("item", 2, 0, 1)
    step(replica)
    world.log._records, world.model = kept, model
    heir = world.writer()  # its opening records stand where the lost ones were
    heir.put(table, 3, *range(4, 12))
    world.committed(msgspec.structs.replace(world.drafted(world.mark(heir)), source="touched"))
    step(replica)
    assert "the log has lost what was read here" in caplog.text
    assert rows_of(replica) == world.model
    check_same(world, replica)


class Remade:
    """A log that was made anew under the same name."""

    def __init__(self, log):
        self.log, self.remade = log, False

    def __getattr__(self, name):
        if self.remade and name in ("poll", "begin", "end"):
            raise another_log(self.log.url, self.log.identity)
        return getattr(self.log, name)


def test_a_log_that_was_made_anew_stops_every_partition_and_is_named(world):
    writer = published(world)
    log = Remade(world.log)
    replica = Replica(world.environment(log=log), name="r")
    writer.put("item", 2, *range(12))
    step(replica)
    served = rows_of(replica)
    log.remade = True
    for _ in range(5):
        replica.step(0.0)
    assert all("no longer the log log-1" in partition(replica, p).alarm for p in (0, 1))
    assert not replica.ready(world.now)
    assert rows_of(replica) == served
    with pytest.raises(PositionGone):
        Replica(world.environment(log=log), name="newcomer").step(0.0)


class Damaged:
    """A log that cannot deliver partition 0 from an offset on."""

    def __init__(self, log, offset):
        self.log, self.offset = log, offset

    def __getattr__(self, name):
        return getattr(self.log, name)

    def poll(self, wanted, **options):
        found = self.log.poll(wanted, **options)
        before = [entry for entry in found.get(0, ()) if entry.offset < self.offset]
        if 0 in wanted and wanted[0] <= self.offset and not before and found.get(0):
            raise Corrupt("partition 0: a crc differs")
        return {**found, 0: before} if before else {p: entries for p, entries in found.items() if p}


def test_a_damaged_partition_stops_alone_and_the_next_version_leads_past(world):
    writer = published(world)
    log = Damaged(world.log, world.ends()[0] + 1)
    replica = Replica(world.environment(log=log), name="r")
    for event in (2, 3, 4):
        writer.put("item", event, *range(12))
    step(replica)
    assert partition(replica, 0).alarm == "partition 0: a crc differs"
    assert (partition(replica, 1).alarm, partition(replica, 1).offset) == ("", world.ends()[1])
    with pytest.raises(Refused, match="the log itself is damaged"):
        skip_record(world.catalog, log, 0, log.offset, actor=Actor(who="me", now=world.now, why="x"))
    world.commit(world.mark(writer))
    step(replica)
    assert counted(replica, "jumped") == 1
    check_same(world, replica)


@pytest.fixture(params=["file", pytest.param("kafka", marks=pytest.mark.kafka)])
def real_log(request, tmp_path):
    settings = LogSettings(max_record_bytes=1 << 20)
    if request.param == "file":
        log = open_file_log(tmp_path / "log", partitions=2, create=settings)
    else:
        name = f"penstock-{uuid.uuid4().hex}"
        log = open_kafka_log(request.getfixturevalue("kafka_server"), name, partitions=2, create=settings)
    yield log
    log.close()


class Named:
    """A real log under the identity that the world was born with."""

    identity = "log-1"

    def __init__(self, log):
        self.log = log

    def __getattr__(self, name):
        return getattr(self.log, name)

    def append(self, partition, payload):
        """As a log in memory: there once this returns."""
        return Appended(self.log.append(partition, payload).result(30))


def awaited(replica, done):
    replica.refresh()
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        replica.step(0.1)


@pytest.mark.parametrize("kind", ["noise", "of a future version", "foreign", "empty"])
def test_a_poisoned_record_of_a_real_log_stops_one_partition_until_it_is_skipped(world, real_log, kind):
    world.log = Named(real_log)
    writer = published(world)
    replica = Replica(world.environment(), name="r")
    writer.put("item", 2, *range(12))
    offset = put_broken(world, writer, kind)
    writer.put("item", 3, *range(12))
    stopped, other = partition(replica, 0), partition(replica, 1)
    awaited(replica, lambda: stopped.alarm and other.offset == real_log.end(1))
    assert (stopped.offset, stopped.unread) == (offset, offset)
    skip_record(world.catalog, world.log, 0, offset, actor=Actor(who="me", now=world.now, why="a test wrote it"))
    awaited(replica, lambda: stopped.offset == real_log.end(0))
    assert (stopped.alarm, stopped.counters.skipped, stopped.gap) == ("", 1, None)
    assert rows_of(replica) == world.model
