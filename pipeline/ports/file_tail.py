"""The tail of one partition, mapped: where every process sees at once, without a system call, what is acknowledged.

One process at a time (the holder of the partition's lock) advances it; any number read it. A slot is never overwritten
while it is the newer one, so that neither a crash nor a race leaves less than one whole slot.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

from ..core.errors import Corrupt
from .file_format import SLOT_BYTES, TAIL_BYTES, Tail, newest_slot, packed_tail


class TailFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(self._file).st_size < TAIL_BYTES:
                raise Corrupt(f"{path}: shorter than {TAIL_BYTES} bytes")
            self._map = mmap.mmap(self._file, TAIL_BYTES, prot=mmap.PROT_READ)
        except BaseException:
            os.close(self._file)
            raise
        self._parsed = _parse(self._map, path)

    def read(self) -> Tail:
        """The newest tail; `Corrupt` when neither slot is whole."""
        return self._newest()[2]

    def advance(self, tail: Tail) -> None:
        """Publishes `tail`; only for the holder of the lock."""
        newer = self._newest()[1]
        os.pwrite(self._file, packed_tail(tail), (1 - newer) * SLOT_BYTES)

    def force(self) -> None:
        """Makes it durable: without that a power cut may set it back to an older tail, within the same segment."""
        os.fdatasync(self._file)

    def close(self) -> None:
        self._map.close()
        os.close(self._file)

    def _newest(self) -> tuple[bytes, int, Tail]:
        parsed = self._parsed
        if self._map[:] != parsed[0]:
            parsed = self._parsed = _parse(self._map, self._path)
        return parsed


def _parse(tail: mmap.mmap, path: Path) -> tuple[bytes, int, Tail]:
    """The bytes, the number of the newer slot, its content; looks again when a look fell between two writes."""
    for _ in range(100):
        slots = tail[:]
        if (found := newest_slot(slots)) is not None:
            return slots, *found
        time.sleep(0.0001)
    raise Corrupt(f"{path}: neither slot matches its crc32")
