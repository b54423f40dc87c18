# mypy: disable-error-code="call-arg,no-untyped-def,no-untyped-call,var-annotated,attr-defined"
"""What was written since which label, and what stood there before: per partition, a row of segments. Knows no row bytes.

A label begins a segment; the last one is open. A segment has every key written in it and, within a budget, the slot that the key
had before (its image), out of use but not free. A key's slot at a label is its image in the first segment from there on
that has one, else its present slot. Labels cost nothing when they are set; the oldest lose their images first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numba import carray, njit
from numpy.typing import NDArray

from penstock.pipeline.core.errors import InvalidInput, VersionGone
from penstock.pipeline.core.hashing import bucket_of, mix, prefetch
from penstock.pipeline.core.ids import Partition
from penstock.slicer.ordering import distinct

from . import writes
from .index import ABSENT, CAPACITY, EMPTY, HEADER, Index, Words, home, value_of
from .machine import pointer_to
from .memory import frozen

_AHEAD = 32
_NO_SLOTS: Words = np.empty(0, np.int64)


@njit(inline="always", cache=True)
def _images_at(address):
    """The entries of an index, by their address."""
    header = carray(pointer_to(address), (HEADER,), np.int64)
    return carray(pointer_to(address), (HEADER + 2 * header[CAPACITY],), np.int64)


@njit(nogil=True, cache=True)
def _find_at(entries, partition_of, offsets, addresses, keys, slots):
    n = keys.size
    for i in range(-_AHEAD, n):
        ahead = i + _AHEAD
        if ahead < n:
            mixed = mix(keys[ahead])
            prefetch(entries, home(entries, mixed))
            partition = partition_of[bucket_of(mixed, partition_of.size)]
            for at in range(offsets[partition], offsets[partition + 1]):
                images = _images_at(addresses[at])
                prefetch(images, home(images, mixed))
        if i < 0:
            continue
        key = keys[i]
        mixed = mix(key)
        # The present slot first: who sees a new one here sees the image that was published before it.
        slots[i] = value_of(entries, key, mixed)
        partition = partition_of[bucket_of(mixed, partition_of.size)]
        for at in range(offsets[partition], offsets[partition + 1]):
            images = _images_at(addresses[at])
            image = value_of(images, key, mixed)
            if image != EMPTY:
                slots[i] = image
                break


@dataclass(slots=True, eq=False)
class Segment:
    """`order` grows with every label of the table. `images`: how many keys have a slot, while it is `imaged`. `written`: how many
    were written, each time counted."""

    label: Hashable
    order: int
    index: Index
    imaged: bool = True
    images: int = 0
    written: int = 0

    def contents(self) -> tuple[NDArray[np.int64], Words]:
        """All keys, and their images; ABSENT for those that have none."""
        keys, values = self.index.contents()
        return keys, values if self.imaged else np.full_like(values, ABSENT)


@dataclass(frozen=True, slots=True)
class View:
    """The images that lead from the present back to some labels. It holds as long as `same`."""

    partition_of: NDArray[np.int32]
    """By bucket."""
    offsets: NDArray[np.int64]
    images: tuple[Words, ...]

    def same(self, other: View) -> bool:
        return len(self.images) == len(other.images) and all(a is b for a, b in zip(self.images, other.images, strict=True))

    def find(self, entries: Words, keys: NDArray[np.int64]) -> Words:
        """int64[n] keys -> int64[n] slots at the labels, not positive where there was none."""
        slots = np.empty(keys.size, np.int64)
        addresses = np.array([images.ctypes.data for images in self.images], np.int64)
        _find_at(entries, self.partition_of, self.offsets, addresses, frozen(keys), slots)
        return slots


class Segments:
    """`partition_of` is int32[buckets]. One writer changes it; `view` may be called from any thread. What is returned as slots
    is to be retired."""

    def __init__(self, partition_of: NDArray[np.int32], *, slot_bytes: int, image_bytes: int, max_labels: int) -> None:
        self._partition_of = partition_of
        self._max_images = image_bytes // slot_bytes
        self._max_labels = max_labels
        self._order = 0
        self._images = 0
        # Tuples are replaced, never changed: a reader takes one as it is.
        self._rows: list[tuple[Segment, ...]] = [()] * (int(partition_of[-1]) + 1)

    @property
    def nbytes(self) -> int:
        return sum(segment.index.nbytes for row in self._rows for segment in row)

    @property
    def images(self) -> int:
        """How many slots are kept as images."""
        return self._images

    def indexes(self) -> Iterator[Index]:
        """Those that have images."""
        return (segment.index for row in self._rows for segment in row if segment.images)

    def labels(self, partition: int) -> tuple[Hashable, ...]:
        """Oldest first."""
        return tuple(segment.label for segment in self._rows[partition])

    def open(self, partition: int) -> Segment | None:
        """The segment that writes go to."""
        row = self._rows[partition]
        return row[-1] if row else None

    def share_written(self, partition: int, *, parts: int) -> float:
        """Of the images that one of `parts` partitions may have, how many could have been written to its open segment."""
        found = self.open(partition)
        return found.written * parts / self._max_images if found is not None and self._max_images else 0.0

    def count(self, segment: Segment, images: int, *, written: int = 0) -> None:
        """The writer has kept so many more."""
        segment.written += written
        segment.images += images
        self._images += images

    def mark(self, partition: int, label: Hashable) -> Words:
        """Begins a segment. A label that is there already moves; the oldest beyond the bound is forgotten."""
        slots = [self.forget(partition, label)]
        row = self._rows[partition]
        self._rows[partition] = (*row, Segment(label, self._order, Index()))
        self._order += 1
        if len(row) == self._max_labels:
            slots.append(self.forget(partition, row[0].label))
        return np.concatenate(slots)

    def forget(self, partition: int, label: Hashable) -> Words:
        """What was written since the label counts for the one before it; nothing happens if there is no such label."""
        row = self._rows[partition]
        at = next((i for i, segment in enumerate(row) if segment.label == label), None)
        if at is None:
            return _NO_SLOTS
        if at:
            slots = self._absorb(row[at - 1], row[at])
        else:
            images = row[at].contents()[1]
            slots = images[images > 0]
            self.count(row[at], -row[at].images)
        self._rows[partition] = row[:at] + row[at + 1 :]
        return slots

    def trim(self) -> Words:
        """Takes the images of the oldest segments until the rest is within the budget."""
        slots = [_NO_SLOTS]
        while self._images > self._max_images:
            with_images = ((segment, row) for row in self._rows for segment in row if segment.images)
            oldest, row = min(with_images, key=lambda found: found[0].order)
            images = oldest.contents()[1]
            slots.append(images[images > 0])
            self.count(oldest, -oldest.images)
            # Labels before this one lead through it.
            for segment in row[: row.index(oldest) + 1]:
                segment.imaged = False
        return np.concatenate(slots)

    def written_since(self, partition: int, label: Hashable, *, until: Hashable | None = None) -> NDArray[np.int64] | None:
        """The keys of the segments from a label on, up to a later one; None if one of them is forgotten."""
        row = self._since(partition, label)
        rest = () if until is None else self._since(partition, until)
        if row is None or rest is None:
            return None
        row = row[: len(row) - len(rest)]
        return distinct([segment.index.contents()[0] for segment in row])

    def view(self, labels: Mapping[Partition, Hashable], held: Sequence[int]) -> View:
        """`held`: the partitions that must have a label. `VersionGone` for one that is not there or has lost its images."""
        offsets = np.zeros(len(self._rows) + 1, np.int64)
        images: list[Words] = []
        for partition in map(Partition, range(len(self._rows))):
            if partition in labels:
                images += self._images_since(partition, labels[partition])
            elif partition in held:
                raise InvalidInput(f"no label given for partition {partition}")
            offsets[partition + 1] = len(images)
        return View(self._partition_of, offsets, tuple(images))

    def _images_since(self, partition: int, label: Hashable) -> list[Words]:
        row = self._since(partition, label)
        if row is None:
            raise VersionGone(f"partition {partition}: nothing is remembered of {label}")
        if not all(segment.imaged for segment in row):
            raise VersionGone(f"partition {partition}: the rows as they were at {label} no longer fit into the budget")
        return [segment.index.entries for segment in row]

    def _since(self, partition: int, label: Hashable) -> tuple[Segment, ...] | None:
        row = self._rows[partition]
        return next((row[i:] for i, segment in enumerate(row) if segment.label == label), None)

    def _absorb(self, older: Segment, newer: Segment) -> Words:
        keys, values = newer.contents()
        index = older.index
        index.reserve(keys.size)
        retired = np.empty(keys.size, np.int64)
        gone, kept = writes.absorb(index.entries, index.shadow, older.imaged, keys, values, retired)
        self.count(newer, -newer.images)
        self.count(older, kept)
        return retired[:gone]
