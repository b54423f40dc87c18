"""Texts of any length in the global heaps of an HDF5 file, which the library is not trusted with: damage can keep it for ever.

collection   "GCOL" · version 1 · 3 reserved · size of the collection (u64) · objects …
object       number (u16) · references (u16) · 4 reserved · size (u64) · data, padded to 8 bytes; number 0 is free space
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from penstock.pipeline.core.errors import Corrupt

from .hdf5_dataset import Region, Texts

_COLLECTION = struct.Struct("<4sB3xQ")
_OBJECT = struct.Struct("<HH4xQ")
_MAGIC, _VERSION, _ALIGNMENT = b"GCOL", 1, 8


@dataclass(frozen=True, slots=True)
class HeapTexts:
    """The texts of one dataset."""

    region: Region
    name: str
    layout: Texts

    def fetch(self, start: int, stop: int) -> list[bytes]:
        """Texts [start, stop), in C order; `Corrupt` when a heap does not hold one. Of one heap at a time it is known where its
        objects lie."""
        references = self.layout.references[start:stop]
        found = [b""] * len(references)
        at, heap = -1, dict[int, tuple[int, int]]()
        for index in np.argsort(references["heap"], kind="stable").tolist():
            length, address, number = references[index].item()
            if not length:
                continue
            if address != at:
                at, heap = address, self._objects(address)
            place, size = heap.get(number, (0, 0))
            if size != length:
                raise Corrupt(f"{self._what}: object {number} of the heap at {address} has {size} bytes, not {length}")
            found[index] = self.region.file.bytes_at(place, length, self._what)
        return found

    def _objects(self, address: int) -> dict[int, tuple[int, int]]:
        """Where in the file the objects of a collection lie, by number, and their sizes."""
        file, base = self.region.file, self.layout.base
        start = self.region.place(base + address, _COLLECTION.size, self._what)
        magic, version, size = _COLLECTION.unpack(file.bytes_at(start, _COLLECTION.size, self._what))
        if magic != _MAGIC or version != _VERSION:
            raise Corrupt(f"{self._what}: no heap at {address}")
        self.region.place(base + address, size, f"{self._what}: a heap")
        found: dict[int, tuple[int, int]] = {}
        at, end = start + _COLLECTION.size, start + size
        while at + _OBJECT.size <= end:
            number, _, nbytes = _OBJECT.unpack(file.bytes_at(at, _OBJECT.size, self._what))
            if number == 0:
                break
            at += _OBJECT.size
            if at + nbytes > end or number in found:
                raise Corrupt(f"{self._what}: object {number} of the heap at {address} leaves it, or is there twice")
            found[number] = (at, nbytes)
            at += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        return found

    @property
    def _what(self) -> str:
        return f"{self.region}: dataset {self.name!r}"
