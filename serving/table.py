"""The rows of one embedding table as a replica serves them: in memory, found by key, changed by one writer under its readers.

Readers take no lock and never see half a row; each row is one that was written, but the rows of one answer may lie on both
sides of a write that runs meanwhile. Whoever wants them of one moment asks at labels. Knows no log, no version, no store.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import InvalidInput
from penstock.pipeline.core.hashing import add_puts, buckets_of, partitions_of
from penstock.pipeline.core.ids import Partition
from penstock.pipeline.core.records import NO_KEYS
from penstock.slicer.ordering import distinct

from . import writes
from .bags import Bags
from .decoding import code_of
from .extent import Extent, Keys, Rows
from .index import NO_INDEX, Index, Span, Words
from .memory import frozen
from .pooling import averaged
from .readers import Readers
from .segments import Segment, Segments, View
from .slab import Loan, Slab

__all__ = ["IMAGE_BYTES", "MAX_LABELS", "Keys", "Rows", "Table"]

IMAGE_BYTES = 256 << 20
MAX_LABELS = 64
_ATTEMPTS = 8


@dataclass(slots=True)
class Lent:
    """Rows that stay where they are: int64[n] keys, of which `done` were brought in."""

    loan: Loan
    keys: Keys
    done: int = 0


class Table:
    """`held`: the buckets, out of `bucket_count`, that may have rows here. `image_bytes` bounds what labels keep of rows
    that were replaced since; `max_labels` is per partition. Any thread may call anything; writers wait for each other.

    Errors: `InvalidInput` for arguments of another shape, dtype or range, and keys that do not belong here, with nothing changed;
    `StorageFull` when there is no memory."""

    def __init__(
        self,
        *,
        codec: str,
        dim: int,
        width: int,
        bucket_count: int,
        partition_count: int,
        held: range,
        image_bytes: int = IMAGE_BYTES,
        max_labels: int = MAX_LABELS,
    ) -> None:
        self._extent = Extent(width=width, bucket_count=bucket_count, partition_count=partition_count, held=held)
        if max_labels < 1:
            raise InvalidInput(f"at most {max_labels} labels: need 1 or more")
        self.dim, self.width = dim, width
        self.bucket_count, self.partition_count, self.held = bucket_count, partition_count, held
        self._codec = code_of(codec, dim=dim, width=width)
        self._slab = Slab(width)
        self._index = Index()
        self._digests = np.zeros(bucket_count, np.uint64)
        buckets = np.arange(bucket_count, dtype=np.int32)
        self._segments = Segments(
            partitions_of(buckets, bucket_count=bucket_count, partition_count=partition_count),
            slot_bytes=self._slab.stride,
            image_bytes=image_bytes,
            max_labels=max_labels,
        )
        self._lent: list[Lent] = []
        self._readers = Readers()
        self._writing = threading.RLock()
        self._row_count = 0

    # ---- reading -------------------------------------------------------------------------------------------------------

    def lookup(self, keys: Keys, out: NDArray[np.float32] | None = None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """int64[n] -> (float32[n, dim], bool[n] found); zeros where a key has no row. `out` is filled and returned if given."""
        self._extent.check_keys(keys)
        with self._readers.reading():
            return self._decoded(self._index.find(keys), out)

    def lookup_at(
        self, labels: Mapping[Partition, Hashable], keys: Keys, out: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """As `lookup`, each row as it was at the label of its partition. `labels` has one for every partition with buckets held.
        `VersionGone` when a label is forgotten, or its images fell out of the budget."""
        self._extent.check_keys(keys)
        with self._readers.reading():
            return self._decoded(self._slots_at(labels, keys), out)

    def add_up(
        self, keys: Keys, bags: Bags, absent: NDArray[np.float32], out: NDArray[np.float32],
        *, labels: Mapping[Partition, Hashable] | None = None,
    ) -> NDArray[np.bool_]:  # fmt: skip
        """Pools the rows of int64[n] keys by bags, which were checked, into `out` (float32[bags, dim]); `absent` (float32[dim])
        counts for a key without a row. Returns which have one (bool[n]). The rows as they are, or as in `lookup_at`."""
        self._extent.check_keys(keys)
        with self._readers.reading():
            slots = self._index.find(keys) if labels is None else self._slots_at(labels, keys)
            found = np.empty(slots.size, np.bool_)
            self._slab.add_up(slots, self._codec, bags.offsets, absent, out, found)
            averaged(slots.size, bags, out)
            return found

    def encoded(self, keys: Keys) -> tuple[Rows, NDArray[np.bool_]]:
        """int64[n] -> (uint8[n, width], bool[n] found); zeros where a key has no row."""
        self._extent.check_keys(keys)
        with self._readers.reading():
            slots = self._index.find(keys)
            return self._slab.copy(slots), slots > 0

    def encoded_at(self, partition: Partition, label: Hashable, keys: Keys) -> tuple[Rows, NDArray[np.bool_]]:
        """As `encoded`, of keys of one partition, as it was at the label; `VersionGone` as in `lookup_at`."""
        self._extent.check_keys(keys)
        with self._readers.reading(), self._writing:
            slots = self._segments.view({partition: label}, ()).find(self._index.entries, keys)
            return self._slab.copy(slots), slots > 0

    @property
    def digests(self) -> NDArray[np.uint64]:
        """uint64[bucket_count]: per bucket, the sum of the hashes of its rows."""
        with self._writing:
            return self._digests.copy()

    @property
    def row_count(self) -> int:
        return self._row_count

    @property
    def nbytes(self) -> int:
        """Memory for rows, index, and what labels remember; not that of others, in which rows were left."""
        with self._writing:
            return self._slab.nbytes + self._index.nbytes + self._segments.nbytes + self._digests.nbytes

    @property
    def row_bytes(self) -> int:
        """Memory for rows alone, those of labels among them."""
        with self._writing:
            return self._slab.row_bytes

    @property
    def borrowed_bytes(self) -> int:
        """Memory of others that has rows, or had them and is not given back yet."""
        with self._writing:
            return self._slab.borrowed_bytes

    def interval(self, keys: Keys) -> NDArray[np.uint64]:
        """uint64[bucket_count]: per bucket, the sum over int64[n] unique keys of the hash of the row, or of its tombstone."""
        self._extent.check_keys(keys)
        with self._readers.reading():
            return self._hashed(keys, self._index.find(keys))

    def keys_in(self, buckets: range) -> Keys:
        """int64[n], sorted: the keys of these buckets that have a row."""
        with self._writing:
            return np.sort(self._scanned(buckets)[0])

    def scan(self, buckets: range) -> tuple[Keys, Rows]:
        """(int64[n] sorted keys, uint8[n, width]): these buckets as they are at one moment."""
        with self._readers.reading():
            with self._writing:
                keys, slots = self._scanned(buckets)
            order = np.argsort(keys)
            return keys[order], self._slab.copy(slots[order])

    # ---- writing -------------------------------------------------------------------------------------------------------

    def reserve(self, keys: int, *, rows: int | None = None) -> None:
        """Makes the table ready for so many more keys at once, which else it becomes bit by bit. `rows`: how many of theirs will
        not stay where they are; all by default."""
        with self._writing:
            self._index.reserve(keys)
            self._slab.reserve(keys if rows is None else rows)

    def claim(self) -> None:
        """Takes the memory that was reserved, beside whoever fills it."""
        self._index.claim()
        self._slab.claim()

    def load(self, keys: Keys, rows: Rows) -> None:
        """Puts int64[n] unique keys, as `correct` does, in any partition."""
        self._extent.check_puts(keys, rows)
        self._extent.check_inside(keys, self.held)
        with self._writing:
            self._write(None, keys, rows, NO_KEYS)

    @property
    def can_borrow(self) -> bool:
        return self._slab.width == self._slab.stride

    def load_lent(self, keys: Keys, rows: Rows) -> None:
        """As `load`, if the table `can_borrow`: the rows stay where they are, in C order, and nobody changes a byte of them."""
        self._extent.check_puts(keys, rows)
        self._extent.check_inside(keys, self.held)
        if not rows.flags.c_contiguous:
            raise InvalidInput("rows that are to stay where they are need C order")
        if not keys.size:
            return
        with self._writing:
            slab, index = self._slab, self._index
            index.reserve(keys.size)
            retired, loan = np.empty(keys.size, np.int64), slab.borrow(rows)
            self._lent.append(Lent(loan, keys))
            add_puts(self._digests, keys, rows)
            born, gone = writes.place_rows(
                index.entries, index.shadow, slab.directory, slab.shift, slab.stride, slab.width, retired, self._digests,
                frozen(keys), loan.first,
            )  # fmt: skip
            self._row_count += born
            self._retire(retired[:gone])

    def bring_in(self, rows: int) -> bool:
        """Copies about so many of the rows that were left where they are to memory of its own; whether there are more."""
        with self._writing:
            if not self._lent:
                return False
            lent = self._lent[0]
            part = lent.keys[lent.done : lent.done + rows]
            self._bring_in(self._index, lent.loan, part)
            lent.done += part.size
            if lent.done == lent.keys.size:
                for index in self._segments.indexes():
                    self._bring_in(index, lent.loan, index.contents()[0])
                self._slab.give_back(lent.loan, epoch=self._readers.advance())
                del self._lent[0]
            return bool(self._lent)

    def apply(self, partition: Partition, keys: Keys, rows: Rows, tombstones: Keys) -> None:
        """Puts int64[n] unique keys, then deletes int64[m] ones, all of one partition."""
        self._extent.check_write(partition, keys, rows, tombstones)
        with self._writing:
            self._write(self._segments.open(partition), keys, rows, tombstones)

    def correct(self, partition: Partition, keys: Keys, rows: Rows, tombstones: Keys) -> None:
        """As `apply`, but as though it had been so before: no label remembers it, and those since which a key was not written
        have the corrected row as well."""
        self._extent.check_write(partition, keys, rows, tombstones)
        with self._writing:
            self._write(None, keys, rows, tombstones)

    def replace_buckets(self, buckets: range, keys: Keys, rows: Rows) -> None:
        """These buckets become exactly this: int64[n] unique keys and uint8[n, width]. Rows that are equal are not touched;
        others are written as by `apply`. The digests of these buckets are computed anew from the rows."""
        self._extent.check_puts(keys, rows)
        self._extent.check_inside(keys, buckets)
        if distinct([keys]).size != keys.size:
            raise InvalidInput("a key stands twice in the rows of a bucket")
        with self._writing:
            gone = np.setdiff1d(self._scanned(buckets)[0], keys)
            differing = self._slab.differing(self._index.find(keys), rows)
            keys, rows = keys[differing], rows[differing]
            born_in, gone_in = self._partitions(keys), self._partitions(gone)
            for partition in np.union1d(born_in, gone_in).tolist():
                here = born_in == partition
                self._write(self._segments.open(partition), keys[here], rows[here], gone[gone_in == partition])
            at = slice(buckets.start, buckets.stop)
            self._digests[at] = self._hashed(*self._scanned(buckets))[at]

    # ---- labels --------------------------------------------------------------------------------------------------------

    def mark(self, partition: Partition, label: Hashable) -> None:
        """The partition as it is now can be asked for by this label. One that is there already moves; the oldest beyond
        `max_labels` is forgotten."""
        self._extent.check_partition(partition)
        with self._writing:
            self._retire(self._segments.mark(partition, label))

    def forget(self, partition: Partition, label: Hashable) -> None:
        """What labels before it remember stays as it is. Idempotent."""
        self._extent.check_partition(partition)
        with self._writing:
            self._retire(self._segments.forget(partition, label))

    def labels(self, partition: Partition) -> tuple[Hashable, ...]:
        """Those of a partition that are not forgotten, oldest first."""
        self._extent.check_partition(partition)
        return self._segments.labels(partition)

    def share_written(self, partition: Partition) -> float:
        """How many keys were written since the newest label, as a share of the before-images that there may be of a partition; 0
        where none are kept."""
        return self._segments.share_written(partition, parts=sum(bool(part) for part in self._extent.parts))

    def written_since(self, partition: Partition, label: Hashable, *, until: Hashable | None = None) -> Keys | None:
        """int64[n], sorted: the keys put or deleted in a partition since the label, up to a later one or to now; None if one of
        them is forgotten."""
        self._extent.check_partition(partition)
        with self._writing:
            return self._segments.written_since(partition, label, until=until)

    # ---- inside --------------------------------------------------------------------------------------------------------

    def _bring_in(self, index: Index, loan: Loan, keys: Keys) -> None:
        slab = self._slab
        slab.reclaim(before=self._readers.oldest())
        slab.reserve(keys.size)
        slots = slab.free, slab.free_count, slab.top, loan.first, loan.stop
        slab.free_count, slab.top = writes.bring_in(
            index.entries, index.shadow, slab.directory, slab.shift, slab.stride, slab.width, *slots, frozen(keys)
        )

    def _write(self, segment: Segment | None, keys: Keys, rows: Rows, tombstones: Keys) -> None:
        slab, index = self._slab, self._index
        slab.reclaim(before=self._readers.oldest())
        slab.reserve(keys.size)
        index.reserve(keys.size)
        images, images_shadow, keeps = NO_INDEX, NO_INDEX, False
        if segment is not None:
            segment.index.reserve(keys.size + tombstones.size)
            images, images_shadow, keeps = segment.index.entries, segment.index.shadow, segment.imaged
        written = (index.entries, index.shadow, images, images_shadow, keeps, slab.directory, slab.shift, slab.stride, slab.width)
        retired = np.empty(keys.size + tombstones.size, np.int64)
        slab.free_count, slab.top, born, gone, kept = writes.put_rows(
            *written, slab.free, slab.free_count, slab.top, retired, self._digests, frozen(keys), frozen(rows)
        )
        died, gone_too, kept_too = 0, 0, 0
        if tombstones.size:
            died, gone_too, kept_too = writes.delete_rows(*written, retired[gone:], self._digests, frozen(tombstones))
        self._row_count += born - died
        if segment is not None:
            self._segments.count(segment, kept + kept_too, written=keys.size + tombstones.size)
        self._retire(retired[: gone + gone_too])

    def _retire(self, slots: Words) -> None:
        """Ends an epoch: these slots went out of sight in it, and the images that no longer fit into the budget."""
        trimmed = self._segments.trim()
        epoch = self._readers.advance()
        self._slab.retire(slots, epoch=epoch)
        self._slab.retire(trimmed, epoch=epoch)

    def _slots_at(self, labels: Mapping[Partition, Hashable], keys: Keys) -> Words:
        for _ in range(_ATTEMPTS):
            view = self._view(labels)
            slots = view.find(self._index.entries, keys)
            # A label set meanwhile, or a segment that moved, may have taken images that the view does not lead to.
            if view.same(self._view(labels)):
                return slots
        with self._writing:
            return self._view(labels).find(self._index.entries, keys)

    def _view(self, labels: Mapping[Partition, Hashable]) -> View:
        return self._segments.view(labels, [p for p, part in enumerate(self._extent.parts) if part])

    def _decoded(self, slots: Words, out: NDArray[np.float32] | None) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        if out is None:
            out = np.empty((slots.size, self.dim), np.float32)
        elif out.shape != (slots.size, self.dim) or out.dtype != np.float32 or not out.flags.carray:
            raise InvalidInput(f"out is {out.dtype}{list(out.shape)}, need float32[{slots.size}, {self.dim}] in C order")
        found = np.empty(slots.size, np.bool_)
        self._slab.decode(slots, self._codec, out, found)
        return out, found

    def _hashed(self, keys: Keys, slots: Words) -> NDArray[np.uint64]:
        slab, digests = self._slab, np.zeros(self.bucket_count, np.uint64)
        writes.add_hashes(slab.directory, slab.shift, slab.stride, slab.width, slots, frozen(keys), digests)
        return digests

    def _scanned(self, buckets: range) -> tuple[Keys, Words]:
        first, stop = max(buckets.start, self.held.start), min(buckets.stop, self.held.stop)
        return self._index.scan(Span(self.bucket_count, first, stop)) if first < stop else (NO_KEYS, NO_KEYS)

    def _partitions(self, keys: Keys) -> NDArray[np.int32]:
        buckets = buckets_of(frozen(keys), self.bucket_count)
        return partitions_of(buckets, bucket_count=self.bucket_count, partition_count=self.partition_count)
