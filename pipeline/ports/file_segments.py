"""Reading the segments of one partition folder: blocks of records, and where an offset stands. It changes nothing."""

from __future__ import annotations

import os
from heapq import nlargest
from pathlib import Path
from typing import NamedTuple

from ..core.errors import Corrupt
from ..core.ids import Offset
from .file_format import HEADER, INDEX_ENTRY, Block, index_name, record_bytes, segment_base, whole_records

BLOCK_BYTES = 1 << 20
TRIED = 4
"""Index entries that are tried before a segment is read from its start."""


class Place(NamedTuple):
    """Where a record stands: its offset, the first offset of its segment, and its position there."""

    offset: Offset
    base: Offset
    position: int


def bases_in(folder: Path) -> list[Offset]:
    """The first offsets of the segments, ascending; never none."""
    bases = sorted(base for name in os.listdir(folder) if (base := segment_base(name)) is not None)
    if not bases:
        raise Corrupt(f"{folder}: no segment")
    return bases


def read_block(segment: int, place: Place, *, limit: int, max_record_bytes: int, most_bytes: int, at_least: int) -> Block:
    """The whole records from `place` on and before the position `limit`; the rest is as in `whole_records`."""
    size = limit - place.position
    block = memoryview(os.pread(segment, min(size, BLOCK_BYTES, max(most_bytes, HEADER.size)), place.position))
    if len(block) >= HEADER.size and len(block) < (needed := record_bytes(block)) <= size and at_least:
        block = memoryview(os.pread(segment, min(needed, HEADER.size + max_record_bytes), place.position))
    return whole_records(block, place.offset, max_record_bytes=max_record_bytes, most_bytes=most_bytes, at_least=at_least)


def indexed_places(folder: Path, wanted: Offset, base: Offset) -> list[Place]:
    """Where the index of a segment says that records at or before `wanted` stand, the nearest first, at most `TRIED`.

    A hint: an entry may be stale, so the record that is found there has to prove it.
    """
    try:
        raw = (folder / index_name(base)).read_bytes()
    except FileNotFoundError:
        return []
    raw = raw[: len(raw) // INDEX_ENTRY.size * INDEX_ENTRY.size]
    near = (Place(Offset(offset), base, position) for offset, position in INDEX_ENTRY.iter_unpack(raw) if offset <= wanted)
    return nlargest(TRIED, near)
