"""What an HDF5 file holds: its groups and lists of names, found with h5py, which reads structure here and no elements.

The library is handed bytes of one file and nothing else, so that nothing in them can make it open, lock or write another. No
handle outlives a call: what it said is checked against the file and given back as plain data. Only hard links are followed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.pipeline.core.errors import Corrupt, PenstockError, Refused, Unsupported

from ..files.mapped_file import MAX_HEADER_BYTES
from ..stored_checkpoint import MAX_TENSORS
from ..tensors.elements import tensor_bytes
from .hdf5_dataset import Dataset, Region, read_dataset

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_DEPTH, MAX_PATH = 64, 4096


@dataclass(frozen=True, slots=True)
class Structure:
    """`layers` and `weights` map the path of a group ("" for the root) to the names in it that Keras wrote down, in order."""

    datasets: tuple[Dataset, ...]
    layers: Mapping[str, tuple[str, ...]]
    weights: Mapping[str, tuple[str, ...]]


def read_structure(region: Region) -> Structure:
    """`Corrupt` for what h5py cannot read and what leaves the file; `Refused` for links and data in other files, groups that
    are reached twice, elements that were never written, and chunks too large. Types and filters that are not read are listed
    as `Unreadable`."""
    with _opened(region) as root:
        return _Walk(region, root).run()


class _Window(io.RawIOBase):
    """A region as a file that can be read."""

    def __init__(self, region: Region) -> None:
        self._region, self._at = region, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + (0, self._at, self._region.nbytes)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, out: Any, /) -> int:
        wanted = memoryview(out)
        place = self._region.place(self._at, len(wanted), f"{self._region}: what its structure points to")
        self._region.file.read_into(place, wanted, "HDF5 structure")
        self._at += len(wanted)
        return len(wanted)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise Unsupported("HDF5 needs h5py, which is not installed", hint="pip install 'penstock[keras]'") from None
    return h5py


@contextmanager
def _opened(region: Region) -> Iterator[Any]:
    """The id of the root group. Whatever the library finds wrong is `Corrupt`."""
    h5py = _h5py()
    try:
        with h5py.File(_Window(region), "r") as file:
            yield file["/"].id
    except PenstockError:
        raise
    except (OSError, LookupError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise Corrupt(f"{region}: no HDF5 file that can be read: {text}") from None


class _Walk:
    """Visits every group once. A group is opened again by its path, of which every step was found to be a hard link."""

    def __init__(self, region: Region, root: Any) -> None:
        self._region, self._root, self._h5py = region, root, _h5py()
        self._datasets: list[Dataset] = []
        self._layers: dict[str, tuple[str, ...]] = {}
        self._weights: dict[str, tuple[str, ...]] = {}
        self._links = 0

    def run(self) -> Structure:
        # Not h5o.get_info, which walks indexes of chunks to size them up, and crashes in damaged ones.
        look = self._h5py.h5g.get_objinfo
        seen = {look(self._root, b".").objno}
        waiting = [("", 0)]
        while waiting:
            path, depth = waiting.pop()
            group = self._h5py.h5g.open(self._root, path.encode() or b"/")
            for listed, name in ((self._layers, b"layer_names"), (self._weights, b"weight_names")):
                if (names := self._read_list(path, group, name)) is not None:
                    listed[path] = names
            groups = []
            for link in self._links_of(path, group):
                inner, info = f"{path}/{link}" if path else link, look(group, link.encode())
                if info.type == self._h5py.h5g.DATASET:
                    dataset = self._h5py.h5d.open(group, link.encode())
                    self._datasets.append(read_dataset(self._h5py, self._region, inner, dataset))
                elif info.type == self._h5py.h5g.GROUP:
                    if info.objno in seen or depth >= MAX_DEPTH:
                        raise Refused(f"{self._region}: group {inner!r} is reached twice, or deeper than {MAX_DEPTH} groups")
                    seen.add(info.objno)
                    groups.append((inner, depth + 1))
            waiting += reversed(groups)
        return Structure(tuple(self._datasets), self._layers, self._weights)

    def _links_of(self, path: str, group: Any) -> list[str]:
        """What the hard links of a group are called. A soft link is another name for what has one already."""
        h5l = self._h5py.h5l
        found: list[tuple[bytes, int]] = []

        def take(name: bytes, info: Any) -> bool | None:
            self._links += 1
            found.append((name, info.type))
            return True if self._links > MAX_TENSORS else None

        group.links.iterate(take, info=True)
        if self._links > MAX_TENSORS:
            raise Corrupt(f"{self._region}: more than {MAX_TENSORS} links")
        names = []
        for raw, kind in found:
            what = f"{self._region}: link {raw.decode('utf-8', 'replace')[:100]!r} in group {path!r}"
            if kind == h5l.TYPE_SOFT:
                continue
            if kind != h5l.TYPE_HARD:
                raise Refused(f"{what} leads to another file", hint="copy what it leads to into this file (h5repack, h5copy)")
            if b"/" in raw or raw in {b"", b".", b".."} or len(path) + len(raw) > MAX_PATH:
                raise Corrupt(f"{what} has a name that is none, or is too long")
            try:
                names.append(raw.decode("utf-8"))
            except UnicodeDecodeError:
                raise Corrupt(f"{what} has a name that is no UTF-8") from None
        return names

    def _read_list(self, path: str, group: Any, name: bytes) -> tuple[str, ...] | None:
        """Keras splits a list that is larger than an attribute may be: `layer_names0`, `layer_names1`, …"""
        exists = self._h5py.h5a.exists
        if exists(group, name):
            return self._read_part(path, group, name)
        found: list[str] = []
        number = 0
        while exists(group, part := name + b"%d" % number):
            texts = self._read_part(path, group, part)
            if texts is None:
                return None
            found += texts
            number += 1
        return tuple(found) if number else None

    def _read_part(self, path: str, group: Any, name: bytes) -> tuple[str, ...] | None:
        """Texts of one length. None for texts of any length, as h5py 3 writes them for Keras: the library would follow them
        into heaps, where damage can keep it for ever; what they name is found without them."""
        what = f"{self._region}: attribute {name.decode()} of group {path!r}"
        attribute = self._h5py.h5a.open(group, name)
        shape, dtype = attribute.shape, attribute.dtype
        if shape == (0,):
            return ()
        if dtype.kind != "S" or len(shape) != 1:
            return None
        nbytes = tensor_bytes(shape, dtype.str, what)
        if nbytes > min(self._region.nbytes, MAX_HEADER_BYTES):
            raise Corrupt(f"{what} claims {nbytes} bytes in a file of {self._region.nbytes}")
        found = np.empty(shape, dtype)
        attribute.read(found)
        return tuple(text.decode("utf-8", "replace") for text in found.tolist())
