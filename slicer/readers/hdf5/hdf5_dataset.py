"""One dataset of an HDF5 file as plain data: what h5py says of it, checked against the file. Reads no elements but a few that
lie in the structure itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt, Refused

from ..checkpoint import Array
from ..files.mapped_file import MappedFile
from ..tensors.elements import BITS_ONLY, TEXT, element_bytes, storage_dtype, tensor_bytes
from ..tensors.listed_texts import texts_bytes

FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
MAX_FILTERS = 8
MAX_CHUNK_BYTES = 32 << 20
TEXT_REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])
"""Where a text is: its length in bytes, the address of its heap in the HDF5 file, and its number in that."""
_MAX_CHUNKS = 4_000_000
_FLOATS = {"float16", "float32", "float64", "complex64", "complex128"}
_HINT = "`h5repack -l CONTI -f NONE` writes a file that can be read"


@dataclass(frozen=True, slots=True)
class Region:
    """Where an HDF5 file lies in `file`: all of it, or a stored member of a zip."""

    file: MappedFile
    offset: int
    nbytes: int

    def __str__(self) -> str:
        return str(self.file)

    def place(self, offset: int, nbytes: int, what: str) -> int:
        """Where [offset, offset + nbytes) of the region lies in the file; `Corrupt` when it leaves the region."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise Corrupt(f"{what} at {offset}, {nbytes} bytes, leaves the HDF5 file of {self.nbytes} bytes")
        return self.offset + offset


@dataclass(frozen=True, slots=True)
class Contiguous:
    """`offset` counts from the beginning of the file that the region lies in."""

    offset: int


@dataclass(frozen=True, slots=True)
class Chunked:
    """A grid of chunks of one shape. `offsets` (int64, from the beginning of the file), `sizes` (int64, bytes) and `skipped`
    (uint32, bit i: filter i was not applied) are in C order of the grid. `filters` are numbers, in the order of writing."""

    chunk: tuple[int, ...]
    filters: tuple[int, ...]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    skipped: NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Held:
    """Elements that the structure held itself, as they were stored."""

    values: Array


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of any length: `TEXT_REFERENCE`s in C order, whose heaps have not been looked at. `base` is where addresses count
    from in the region: behind its user block."""

    references: NDArray[np.void]
    base: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Elements that are valid HDF5 and not read by us. `reason` ends the sentence "dataset x …"."""

    reason: str


Layout = Contiguous | Chunked | Held | Texts | Unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """`dtype` is numpy's name for its elements, "bfloat16", "string" for `Texts`, or a word of HDF5's for `Unreadable`."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    big_endian: bool
    nbytes: int
    layout: Layout


def read_dataset(h5py: Any, region: Region, path: str, dataset: Any) -> Dataset:
    """See `hdf5_structure.read_structure` for errors."""
    what = f"{region}: dataset {path!r}"
    plist = dataset.get_create_plist()
    if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise Refused(f"{what} lies in other files", hint="h5repack writes a file that holds all of it")
    # The empty dataspace: a dataset without elements, not even of a scalar.
    shape = (0,) if dataset.shape is None else tuple(int(size) for size in dataset.shape)
    name, big_endian, nbytes = "unknown", False, 0
    layout: Layout
    try:
        name, big_endian = _dtype(h5py, dataset)
        if name == TEXT:
            layout = _texts(h5py, region, dataset, shape, what)
            nbytes = texts_bytes(layout.references["length"])
        else:
            nbytes = tensor_bytes(shape, name, what)
            layout = _numbers(h5py, region, dataset, shape, name, nbytes, what)
    except _NotRead as error:
        layout = Unreadable(str(error))
    return Dataset(path=path, shape=shape, dtype=name, big_endian=big_endian, nbytes=nbytes, layout=layout)


class _NotRead(Exception):
    """The reason of an `Unreadable`."""


def _numbers(
    h5py: Any, region: Region, dataset: Any, shape: tuple[int, ...], dtype: str, nbytes: int, what: str
) -> Contiguous | Chunked | Held:
    if not nbytes:
        return Contiguous(region.offset)
    plist = dataset.get_create_plist()
    if plist.get_layout() == h5py.h5d.CHUNKED:
        return _chunked(region, dataset, plist, shape, element_bytes(dtype), what)
    stored = dataset.get_storage_size()
    if not stored:
        raise Refused(f"{what}: its elements were never written")
    if stored != nbytes:
        raise Corrupt(f"{what} has {nbytes} bytes, {stored} are stored")
    if plist.get_layout() == h5py.h5d.COMPACT:
        values = np.empty(shape, dataset.dtype)
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
        bare = values.view(storage_dtype(dtype)) if dtype in BITS_ONLY else values
        return Held(bare.astype(storage_dtype(dtype)))
    return Contiguous(_placed(region, dataset.get_offset(), nbytes, what))


def _placed(region: Region, offset: int | None, nbytes: int, what: str) -> int:
    if offset is None:
        raise Corrupt(f"{what}: it does not say where its elements are")
    return region.place(offset, nbytes, what)


def _dtype(h5py: Any, dataset: Any) -> tuple[str, bool]:
    """Its name, and whether it is stored big-endian."""
    stored = dataset.get_type()
    try:
        dtype: np.dtype[Any] = stored.dtype
    except TypeError as error:
        raise _NotRead(f"cannot be read: {error}") from None
    text = h5py.check_string_dtype(dtype)
    if text is not None and text.length is None:
        return TEXT, False
    # Keras 3 stores bfloat16 as two bytes of no type, and says so in an attribute, which nobody else does.
    if dtype.str == "|V2" and dtype.names is None and h5py.h5a.exists(dataset, b"dtype"):
        return "bfloat16", False
    # Types that numpy can hold but spells otherwise (floats of other widths, padded texts) would need converting.
    plain = dtype.kind in "biufcS" and dtype.itemsize > 0 and stored.equal(h5py.h5t.py_create(dtype, logical=True))
    if not plain or (dtype.kind in "fc" and dtype.name not in _FLOATS):
        raise _NotRead(f"has elements of {_kind(dtype)}; numbers and texts can be read")
    return (dtype.str if dtype.kind == "S" else dtype.name), dtype.byteorder == ">"


def _kind(dtype: np.dtype[Any]) -> str:
    return "references or lists" if dtype.hasobject else f"type {str(dtype)[:100]}"


def _texts(h5py: Any, region: Region, dataset: Any, shape: tuple[int, ...], what: str) -> Texts:
    count = tensor_bytes(shape, "uint8", what)
    if not count:
        return Texts(np.zeros(0, TEXT_REFERENCE), 0)
    if dataset.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
        raise _NotRead("holds texts in chunks; `h5repack -l CONTI` puts them in one piece")
    stored = dataset.get_storage_size()
    if not stored:
        raise Refused(f"{what}: its elements were never written")
    if stored != count * TEXT_REFERENCE.itemsize:
        raise _NotRead(f"has {count} texts in {stored} bytes, which are no addresses of 64 bits")
    place = _placed(region, dataset.get_offset(), stored, what)
    base = int(h5py.h5i.get_file_id(dataset).get_create_plist().get_userblock())
    references = region.file.view(place, TEXT_REFERENCE, (count,)).copy()
    total = int(references["length"].sum(dtype=np.uint64))
    if total > region.nbytes:
        raise Corrupt(f"{what} claims texts of {total} bytes in a file of {region.nbytes}")
    return Texts(references, base)


def _chunked(region: Region, dataset: Any, plist: Any, shape: tuple[int, ...], width: int, what: str) -> Chunked:
    chunk = tuple(int(size) for size in plist.get_chunk())
    chunk_bytes = tensor_bytes(chunk, "uint8", what) * width
    if not 0 < chunk_bytes <= MAX_CHUNK_BYTES:
        raise Refused(f"{what} has chunks of {chunk_bytes} bytes, at most {MAX_CHUNK_BYTES} are read", hint=_HINT)
    filters = tuple(plist.get_filter(index)[0] for index in range(min(plist.get_nfilters(), MAX_FILTERS + 1)))
    if len(filters) > MAX_FILTERS or not all(each in FILTERS for each in filters):
        names = ", ".join(FILTERS.values())
        raise _NotRead(f"is stored with the filters {filters[:MAX_FILTERS]}; {names} can be read. {_HINT}")
    grid = tuple(-(-size // each) for size, each in zip(shape, chunk, strict=True))
    count = math.prod(grid)
    if count > _MAX_CHUNKS or dataset.get_num_chunks() != count:
        found = dataset.get_num_chunks()
        raise Refused(f"{what}: {found} chunks of {count} were written, and at most {_MAX_CHUNKS} are read", hint=_HINT)
    index = Chunked(
        chunk, filters, np.full(count, -1, np.int64), np.zeros(count, np.int64), np.zeros(count, np.uint32)
    )  # fmt: skip

    def take(found: Any) -> None:
        at = 0
        for start, each, size in zip(found.chunk_offset, chunk, grid, strict=True):
            if start % each or start // each >= size:
                raise Corrupt(f"{what}: a chunk at {found.chunk_offset}, outside its grid")
            at = at * size + start // each
        if found.size > 2 * MAX_CHUNK_BYTES or (not filters and found.size != chunk_bytes):
            raise Corrupt(f"{what}: a chunk of {found.size} bytes where {chunk_bytes} belong")
        index.offsets[at] = _placed(region, found.byte_offset, found.size, what)
        index.sizes[at], index.skipped[at] = found.size, found.filter_mask

    dataset.chunk_iter(take)
    if count and index.offsets.min() < 0:
        raise Corrupt(f"{what}: a chunk is there twice, another is missing")
    return index
