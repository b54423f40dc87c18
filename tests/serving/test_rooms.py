"""Rows in memory that client and replica share: the same as over the stream, never touched while somebody looks at them, and
whatever else a client may offer is left alone."""

import fcntl
import gc
import os
import subprocess
import sys
import threading
from contextlib import ExitStack

import msgspec
import numpy as np
import pytest
from exchanges import connect, serve
from open_files import open_descriptors
from served import step, world_with
from waiting import reached

from penstock.pipeline.core.errors import Unreachable, VersionGone
from penstock.serving import Client, Replica, Server, rooms
from penstock.serving.bags import Bags
from penstock.serving.rooms import MOST_FREE_BYTES, MOST_ROOMS, PREFIX, OpenRooms, Room, Rooms, neighbourhood
from penstock.serving.wire import RoomOffer

__all__ = ["connect", "serve"]
MIB = 1 << 20
KEYS = np.arange(40)
MANY = np.tile(KEYS, 1000)
"""Enough for a room: of 320 kB of rows."""


@pytest.fixture
def world():
    return world_with(*KEYS, max_request_keys=200_000)


@pytest.fixture
def server(serve):
    server = serve()
    step(server.replica, 2)
    return server


@pytest.fixture
def client(server):
    with Client(server.address) as client:
        client.lookup("item", KEYS)
        client.lookup("user", KEYS)
        yield client


def shared_by(client, ask):
    """What `ask` returns, and how many parts came in shared memory for it."""
    before = client.counters.shared
    return ask(), client.counters.shared - before


def free(client):
    """The rooms that nobody uses."""
    gc.collect()
    with (found := client._means.fleet.rooms)._changing:
        found._collect()
        return list(found._free)


# ---- lookups -------------------------------------------------------------------------------------------------------------


def test_rows_are_the_same_as_over_the_stream(server, client):
    asked = np.concatenate([MANY, np.arange(900, 1000)])
    with Client(server.address, share_memory=False) as other:
        expected, streamed = shared_by(other, lambda: other.lookup("item", asked))
    found, shared = shared_by(client, lambda: client.lookup("item", asked))
    assert (shared, streamed) == (1, 0)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[1].sum() == MANY.size
    assert not found[0].flags.writeable
    assert not expected[0].flags.writeable


def test_many_tables_pooled_and_not_of_one_version(server, client):
    bags = {"user": Bags(np.arange(0, MANY.size, 4), "mean")}
    with Client(server.address, share_memory=False) as other:
        expected = other.lookup_many({"item": MANY, "user": MANY}, bags=bags, version=1)
    found, shared = shared_by(client, lambda: client.lookup_many({"item": MANY, "user": MANY}, bags=bags, version=1))
    assert shared == 1
    for table, (rows, there) in expected.items():
        assert found[table][0].shape == rows.shape
        np.testing.assert_array_equal(found[table][0], rows)
        np.testing.assert_array_equal(found[table][1], there)


def test_shards_share_each_its_part(world):
    with ExitStack() as closing:
        servers = []
        for number, buckets in enumerate((range(4), range(4, 8))):
            replica = Replica(world.environment(), name=f"r{number}", buckets=buckets)
            step(replica, 2)
            servers.append(Server(replica, host="127.0.0.1", port=0))
            closing.callback(servers[-1].drain)
        client = closing.enter_context(Client([server.address for server in servers]))
        client.lookup("item", KEYS)
        asked = np.tile(MANY, 3)
        (rows, found), shared = shared_by(client, lambda: client.lookup("item", asked))
        assert shared == 2
        assert found.all()
        np.testing.assert_array_equal(rows, np.tile(client.lookup("item", KEYS)[0], (3000, 1)))


def test_small_answers_and_unknown_tables_go_over_the_stream(server):
    with Client(server.address) as client:
        assert shared_by(client, lambda: client.lookup("item", MANY))[1] == 0, "how long its rows are was not known"
        assert shared_by(client, lambda: client.lookup("item", MANY))[1] == 1
        assert shared_by(client, lambda: client.lookup("item", KEYS))[1] == 0
        assert shared_by(client, lambda: client.lookup_many({"item": MANY, "user": MANY}))[1] == 0


def test_rows_that_are_looked_at_stay_as_they_are(client):
    held = [client.lookup("item", np.roll(MANY, turn))[0] for turn in range(5)]
    views = [rows[10:20, :1] for rows in held[:2]]
    expected = [view.copy() for view in views]
    copies = [rows.copy() for rows in held[2:]]
    del held[:2]
    for turn in range(10):
        client.lookup("item", np.roll(MANY, 7 * turn))
    for rows, copy in zip([*views, *held], [*expected, *copies], strict=True):
        np.testing.assert_array_equal(rows, copy)
    names = {room.name for room in free(client)}
    assert len(names) == 1, "what nobody looked at was used again"
    del views, held, rows
    assert len(free(client)) == 6


def test_more_rows_than_rooms_may_be_held(client):
    held = [client.lookup("item", MANY)[0] for _ in range(MOST_ROOMS + 3)]
    assert client.counters.shared == MOST_ROOMS
    np.testing.assert_array_equal(held[0], held[-1])
    del held[1:4]
    assert shared_by(client, lambda: client.lookup("item", MANY))[1] == 1


def test_a_room_that_is_too_small_is_not_used(world, server, client):
    client._means.fleet._members[server.address].connection._dims["item"] = 1
    longer = np.tile(MANY, 5)
    (rows, found), shared = shared_by(client, lambda: client.lookup("item", longer))
    assert (shared, found.all(), rows.shape) == (0, True, (longer.size, 2))
    client._first(lambda replica, left: replica.health(timeout_s=left))
    assert shared_by(client, lambda: client.lookup("item", longer))[1] == 1


def test_a_refusal_gives_the_room_back_and_a_loss_does_not(server, client):
    client.lookup("item", MANY)
    (room,) = free(client)
    with pytest.raises(VersionGone):
        client.lookup("item", MANY, version=77)
    assert free(client) == [room]
    server.shutdown()
    with pytest.raises(Unreachable):
        client.lookup("item", MANY, timeout_s=1.0)
    assert free(client) == []
    assert client._means.fleet.rooms._out == 0


def test_a_slow_replica_writes_where_nobody_looks(world, serve):
    servers = [serve("a"), serve("b")]
    for server in servers:
        step(server.replica, 2)
    with Client([server.address for server in servers], timeout_s=20.0) as client:
        for _ in range(20):
            client.lookup("item", MANY)
            client.lookup("item", KEYS)
        holding, going_on = threading.Event(), threading.Event()
        looked_up = servers[0].replica.lookups.answer_pooled
        scribbled = []

        def late(self, wanted, version, room, *others):
            if room is not None and not holding.is_set():
                holding.set()
                going_on.wait(30)
                room[:] = -1.0
                scribbled.append(room)
            return looked_up(wanted, version, room, *others)

        kind = type(servers[0].replica.lookups)
        before = kind.answer_pooled
        kind.answer_pooled = late
        try:
            expected = np.tile(client.lookup("item", KEYS)[0], (1000, 1))
            answers = [client.lookup("item", MANY)[0] for _ in range(3)]
            assert holding.is_set()
            going_on.set()
            reached(lambda: scribbled)
        finally:
            going_on.set()
            kind.answer_pooled = before
        answers += [client.lookup("item", MANY)[0] for _ in range(3)]
        for rows in answers:
            np.testing.assert_array_equal(rows, expected)


def test_another_process_shares_as_well(server, client):
    program = f"""
import numpy as np
from penstock.serving import Client
with Client({server.address!r}) as client:
    client.lookup("item", np.arange(40))
    rows, found = client.lookup("item", np.tile(np.arange(40), 1000))
    assert found.all() and client.counters.shared == 1, client.counters
    print(float(rows.sum()))
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120).stdout
    assert float(said) == pytest.approx(float(client.lookup("item", MANY)[0].sum()))
    assert len(server.rooms) == 2


def test_a_fork_has_rooms_of_its_own():
    ours = Rooms()
    room = ours.take(MIB)
    ours.give_back(room)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        theirs = ours.take(MIB)
        os.write(writer, theirs.name.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100).decode() != room.name
    assert ours.take(MIB) is room
    os.close(reader)
    os.close(writer)


# ---- rooms ---------------------------------------------------------------------------------------------------------------


def test_a_room_is_one_memory_on_both_sides():
    room, opened = Room(MIB), OpenRooms()
    floats = opened.of(room.offer)
    floats[:] = np.arange(floats.size)
    np.testing.assert_array_equal(room.shown(), np.arange(MIB // 4))
    assert opened.of(room.offer) is floats


def test_rooms_that_are_free_are_bounded():
    ours = Rooms()
    taken = [ours.take(MOST_FREE_BYTES // 4) for _ in range(6)]
    for room in taken:
        ours.give_back(room)
    last = ours.take(MIB)
    assert last is taken[2], "the oldest ones went"
    assert len(ours._free) == 3


def test_a_room_that_is_dropped_takes_its_descriptors_along():
    def descriptors():
        gc.collect()
        return sum(count for target, count in open_descriptors().items() if name in target)

    ours = Rooms()
    room = ours.take(MIB)
    name, shown = room.name, ours.lend(room, [10, 20])
    del ours, room
    assert [some.size for some in shown] == [10, 20]
    assert descriptors() == 2
    del shown
    assert descriptors() == 0


def test_where_there_is_no_memory_there_is_no_room(monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    ours = Rooms()
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert ours.take(MIB) is None
    assert ours._out == 0


def test_who_is_near():
    assert neighbourhood() == neighbourhood() != ""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: 4711)
        other = neighbourhood()
    assert other != neighbourhood()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rooms, "IS_POSSIBLE", False)
        assert neighbourhood() == ""


def test_rooms_not_used_of_late_are_let_go(monkeypatch):
    opened, now = OpenRooms(), [100.0]
    monkeypatch.setattr(rooms.time, "monotonic", lambda: now[0])
    kept, left = Room(MIB), Room(MIB)
    for room in (kept, left):
        opened.of(room.offer)
    now[0] += rooms.IDLE_S
    opened.of(kept.offer)
    now[0] += 1.0
    opened.sweep()
    assert list(opened._opened) == [kept.offer]
    monkeypatch.setattr(rooms, "MOST_OPEN", 2)
    more = [Room(MIB) for _ in range(4)]
    for room in more:
        now[0] += 1.0
        opened.of(room.offer)
    assert list(opened._opened) == [room.offer for room in more[-2:]]


# ---- what else is offered ------------------------------------------------------------------------------------------------


def memfd(name=PREFIX + "x", nbytes=MIB, *, seals=fcntl.F_SEAL_SHRINK, is_filled=True):
    fd = os.memfd_create(name, os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, nbytes)
    if is_filled:
        os.posix_fallocate(fd, 0, nbytes)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd, name


def plain_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(MIB))
    return os.open(path, os.O_RDWR), PREFIX + "x"


OFFERED = {
    "whose size may change": lambda _: memfd(seals=0),
    "by another name": lambda _: (memfd()[0], PREFIX + "y"),
    "of somebody else": lambda _: memfd("else"),
    "shorter than it is said to be": lambda _: memfd(nbytes=MIB // 2),
    "that takes no memory yet": lambda _: memfd(is_filled=False),
    "that is a file": plain_file,
    "that is a pipe": lambda _: (os.pipe()[0], PREFIX + "x"),
    "that is not there": lambda _: (9999, PREFIX + "x"),
    "below all numbers": lambda _: (-1, PREFIX + "x"),
}


@pytest.mark.parametrize("what", OFFERED)
def test_anything_else_is_not_written_into(what, tmp_path, server, connect):
    fd, name = OFFERED[what](tmp_path)
    offer = RoomOffer(pid=os.getpid(), fd=fd, name=name, bytes=MIB)
    assert OpenRooms().of(offer) is None
    raw = connect(server)
    reply, ((rows, found),) = raw.ask(["item"], [KEYS], room=offer)
    assert (reply.in_room, rows.shape, found.all()) == ((), (KEYS.size, 2), True)


@pytest.mark.parametrize(
    "changes", [{"bytes": 0}, {"bytes": -4}, {"bytes": 2**62}, {"bytes": 2**63 - 1}, {"pid": 2**40}, {"pid": -1}]
)
def test_numbers_that_mean_nothing(changes):
    room = Room(MIB)
    assert OpenRooms().of(msgspec.structs.replace(room.offer, **changes)) is None
    assert OpenRooms().of(room.offer) is not None
