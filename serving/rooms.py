"""Memory of a client that a replica on the same machine writes the rows of an answer into: they cross no network. Light.

A room is a file without a name (`memfd_create`), gone with the last process that has it open. The client offers it with a lookup;
the replica opens it through the client's pid, and takes it only if it is what was offered, and if nobody can make it shorter any
more, as who writes past the end of a mapped file dies of it. Where anything is not so, the rows go over the stream as ever.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import secrets
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .wire import RoomOffer

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX = "penstock-rows-"
SMALLEST_BYTES = 256 << 10
"""Less is as quick over the stream."""
GRANULE_BYTES = 1 << 20
MOST_ROOMS, MOST_FREE_BYTES = 32, 256 << 20
"""Of a client: how many it may have handed out at once, each of which takes two descriptors; what it keeps for later."""
MOST_OPEN, IDLE_S = 256, 30.0
"""Of a replica: how many it keeps open, and how long those that are not used."""
_SEALS = "F_ADD_SEALS", "F_GET_SEALS", "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_SEAL"
IS_POSSIBLE = hasattr(os, "memfd_create") and all(hasattr(fcntl, name) for name in _SEALS)


def neighbourhood() -> str:
    """Alike in processes that may open each other's memory, those of one user who see each other's pids; "" where none may."""
    if not IS_POSSIBLE:
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        said = f"{boot} {os.stat('/proc/self/ns/pid').st_ino} {os.geteuid()}"
    except OSError:
        return ""
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


# ---- the client's side ---------------------------------------------------------------------------------------------------


class Room:
    """Of `nbytes`."""

    def __init__(self, nbytes: int) -> None:
        self.name = PREFIX + secrets.token_hex(16)
        self._fd = os.memfd_create(self.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        weakref.finalize(self, os.close, self._fd).atexit = False
        os.posix_fallocate(self._fd, 0, nbytes)  # taken here, so that a replica never fails, or pays, for want of it
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.nbytes, self._mapped = nbytes, _mapped(self._fd, nbytes)

    @property
    def offer(self) -> RoomOffer:
        return RoomOffer(pid=os.getpid(), fd=self._fd, name=self.name, bytes=self.nbytes)

    def shown(self) -> NDArray[np.float32]:
        """float32[n], read-only, which every view of it keeps alive."""
        floats = np.frombuffer(self._mapped, np.float32)
        floats.flags.writeable = False
        return floats


class Rooms:
    """Of one client, used again once nothing shows their rows any more. Any thread may call, also while it collects garbage."""

    def __init__(self) -> None:
        self._free: list[Room] = []
        self._back = deque[Room]()
        self._out, self._pid, self._changing = 0, os.getpid(), threading.Lock()

    def take(self, nbytes: int) -> Room | None:
        """One of at least so many bytes, to be given back, lent or lost. None: there is to be none."""
        with self._changing:
            if self._pid != os.getpid():  # a fork's child shares the memory of all rooms with its parent
                self._free, self._back, self._out, self._pid = [], deque(), 0, os.getpid()
            self._collect()
            if self._out >= MOST_ROOMS:
                return None
            self._out += 1
            fitting = [room for room in self._free if nbytes <= room.nbytes]
            if fitting:
                found = min(fitting, key=lambda room: room.nbytes)
                self._free.remove(found)
                return found
        try:
            return Room(-(-nbytes // GRANULE_BYTES) * GRANULE_BYTES)
        except (OSError, MemoryError):
            self.lost()
            return None

    def give_back(self, room: Room) -> None:
        """Nobody writes into it any more, or reads it."""
        self._back.append(room)

    def lost(self) -> None:
        """One that was taken may still be written into by whom it was offered: it is never used again."""
        with self._changing:
            self._out -= 1

    def lend(self, room: Room, sizes: Sequence[int]) -> list[NDArray[np.float32]]:
        """float32[size] one after the other, read-only. The room comes back when no array has any of it in view."""
        shown = room.shown()
        weakref.finalize(shown, self._back.append, room).atexit = False
        return [shown[low:end] for low, end in pairwise(accumulate(sizes, initial=0))]

    def _collect(self) -> None:
        while self._back:
            self._free.append(self._back.popleft())
            self._out -= 1
        while sum(room.nbytes for room in self._free) > MOST_FREE_BYTES:
            self._free.pop(0)


# ---- the replica's side --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Opened:
    floats: NDArray[np.float32]
    used_at: float


class OpenRooms:
    """The rooms that clients have offered to a replica."""

    def __init__(self) -> None:
        self._opened: dict[RoomOffer, _Opened] = {}
        self._changing = threading.Lock()

    def __len__(self) -> int:
        return len(self._opened)

    def of(self, offer: RoomOffer) -> NDArray[np.float32] | None:
        """float32[n] to write into; None: it is not what it should be, or out of reach."""
        with self._changing:
            if (known := self._opened.get(offer)) is not None:
                known.used_at = time.monotonic()
                return known.floats
        floats = _opened(offer)
        if floats is not None:
            with self._changing:
                while len(self._opened) >= MOST_OPEN:
                    del self._opened[min(self._opened, key=lambda each: self._opened[each].used_at)]
                self._opened[offer] = _Opened(floats, time.monotonic())
        return floats

    def sweep(self) -> None:
        """Lets go of those that were not used of late; who offers one again finds it opened again."""
        since = time.monotonic() - IDLE_S
        with self._changing:
            for offer in [offer for offer, opened in self._opened.items() if opened.used_at < since]:
                del self._opened[offer]


def _opened(offer: RoomOffer) -> NDArray[np.float32] | None:
    if not IS_POSSIBLE or not offer.name.startswith(PREFIX) or offer.bytes < 1:
        return None
    there = f"/proc/{offer.pid}/fd/{offer.fd}"
    try:
        if not _is_room(there, offer):  # whatever else a number leads to is not even opened
            return None
        fd = os.open(there, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    try:
        if not _is_room(f"/proc/self/fd/{fd}", offer) or not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            return None
        status = os.fstat(fd)
        if offer.bytes > min(status.st_size, 512 * status.st_blocks):  # the client has its memory already
            return None
        return np.frombuffer(_mapped(fd, offer.bytes), np.float32, offer.bytes // 4)
    except OSError:
        return None
    finally:
        os.close(fd)


def _is_room(link: str, offer: RoomOffer) -> bool:
    return os.readlink(link) == f"/memfd:{offer.name} (deleted)"


def _mapped(fd: int, nbytes: int) -> mmap.mmap:
    return mmap.mmap(fd, nbytes, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
