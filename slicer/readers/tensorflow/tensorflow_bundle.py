"""TensorFlow V2 checkpoint bundles: `<prefix>.index`, and the tensors in `<prefix>.data-0000i-of-0000n`, each in C order.

The names are the bundle's own, object graph paths (`…/.ATTRIBUTES/VARIABLE_VALUE`) and hash tables included: TFRA's
`<table>-keys` and `-values`, DeepRec's `<variable>-keys`, `-values`, `-freqs`, `-versions`, behind `/part_i` when partitioned.

An incremental checkpoint of DeepRec holds what changed since the one before: `<variable>-sparse_incr_keys` and
`-sparse_incr_values`, here `<variable>/keys` and `<variable>/rows`. It has no word for a key that was evicted: that one is
in no later incremental checkpoint, and gone from the next full one. Keys of a variable that is no hash table are row numbers in
its own partition.

The CRC-32C of a tensor is verified as `ChecksummedTensor` and `TextTensor` say; where a writer left it out, nothing is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from penstock.pipeline.core.errors import Corrupt, Unsupported

from ..checkpoint import Checkpoint, Role, TensorInfo, TensorSource, TextSource
from ..dumps.tfra_files import tfra_sources
from ..files.mapped_file import MappedFile
from ..roles import role_of
from ..stored_checkpoint import StoredCheckpoint
from ..tensors.checksummed import ChecksummedTensor
from ..tensors.elements import TEXT, tensor_bytes
from ..tensors.joined import Piece, tiled
from ..tensors.strided import StridedTensor
from ..tensors.unreadable import UnreadableTensor
from .leveldb_table import unmasked
from .tensorflow_index import FULL, Entry, Index, Slice, read_index, slice_key
from .tensorflow_texts import TextTensor

INDEX_ENDING = ".index"
_TEXT_TYPE = 7
_DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", _TEXT_TYPE: TEXT, 8: "complex64", 9: "int64",
    10: "bool", 11: "int8", 12: "uint8", 13: "int32", 14: "bfloat16", 15: "int16", 16: "uint16", 17: "uint16", 18: "complex128",
    19: "float16", 22: "uint32", 23: "uint64", 24: "float8_e5m2", 25: "float8_e4m3fn", 26: "float8_e4m3fnuz",
    28: "float8_e5m2fnuz",
}  # fmt: skip
"""`core/framework/types.proto`; the quantised types as the integers that they are stored as."""
_OTHER_TYPES = {20: "resource", 21: "variant", 27: "float8_e4m3b11fnuz", 29: "int4", 30: "uint4", 31: "int2", 32: "uint2"}
_INCREMENT = re.compile(r"-sparse_incr_(keys|values|versions|freqs)$")
_INCREMENT_NAMES = {"keys": "/keys", "values": "/rows", "versions": "/versions", "freqs": "/freqs"}
_VALUES = re.compile(r"(-|-sparse_incr_)values$")
_METRIC = re.compile(r"(^|/)keras_api/metrics/")
_STEPS = re.compile(r"^global_step$|^(optimizer/(iter|_iterations)|save_counter)/\.ATTRIBUTES/VARIABLE_VALUE$")

Source = TensorSource | TextSource


def open_bundle(path: Path, *, tables_of: Path | None = None) -> StoredCheckpoint:
    """The bundle whose index is at `path`, with the hash tables that TFRA saved to files of their own in the folder `tables_of`.
    `NotFound`: a data file is missing."""
    file = MappedFile(path)
    try:
        index = read_index(file)
    finally:
        file.close()
    if path.suffix != INDEX_ENDING:
        hint = f"rename it to end in {INDEX_ENDING}, beside its data files"
        raise Unsupported(f"{path}: the index of a TensorFlow bundle is called <prefix>{INDEX_ENDING}", hint=hint)
    files: dict[int, MappedFile] = {}
    opened: list[MappedFile] = []
    try:
        stored = [each for each in (*index.tensors.values(), *index.pieces.values()) if each.holds_elements]
        for shard in sorted({each.shard for each in stored} or {0}):
            files[shard] = MappedFile(data_file(path, shard, index.shards))
            opened.append(files[shard])
        _check_places(path, stored, files)
        bundle = _Bundle(path, index, files, dict(index.pieces))
        sources: list[Source] = [bundle.source(name, entry) for name, entry in index.tensors.items()]
        if bundle.left:
            raise Corrupt(f"{path}: {len(bundle.left)} slices that no tensor has, such as {min(bundle.left)[:80]!r}")
        tables, more = tfra_sources(tables_of) if tables_of else ([], [])
        opened += more
        partial = any(_INCREMENT.search(name) for name in index.tensors)
        return StoredCheckpoint("tensorflow", [*sources, *tables], opened, partial=partial)
    except BaseException:
        for each in opened:
            each.close()
        raise


def data_file(index: Path, shard: int, shards: int) -> Path:
    return index.with_name(f"{index.name.removesuffix(INDEX_ENDING)}.data-{shard:05d}-of-{shards:05d}")


def is_data_file(path: Path) -> bool:
    """By its name: it has no content of its own to be told by."""
    return re.search(r"\.data-\d{5}-of-\d{5}$", path.name) is not None


def step_of(checkpoint: Checkpoint) -> int | None:
    """The training step that a bundle was saved at: its global step, else the optimizer's count, else the number of the save."""
    found = {match[0]: info for info in checkpoint.tensors if (match := _STEPS.match(info.name)) and not info.shape}
    for prefix in ("global_step", "optimizer/", "save_counter"):
        for name, info in found.items():
            if name.startswith(prefix) and info.dtype in {"int64", "int32"}:
                return int(checkpoint.read(name))
    return None


@dataclass(frozen=True, slots=True)
class _Bundle:
    """What sources are made from: the data files by shard, and the slices that no tensor has taken yet."""

    path: Path
    index: Index
    files: Mapping[int, MappedFile]
    left: dict[bytes, Entry]

    def source(self, name: str, entry: Entry) -> Source:
        dtype = _DTYPES.get(entry.dtype)
        pieces = [] if entry.holds_elements else [self._piece(name, part, entry) for part in entry.slices]
        if dtype is None or (dtype == TEXT and pieces):
            kind = dtype or _OTHER_TYPES.get(entry.dtype, f"type {entry.dtype}")
            info = TensorInfo(name=name, shape=entry.shape, dtype=kind, role="other", nbytes=entry.size)
            return UnreadableTensor(info, f"of {self.path} is {kind}{' in slices' if pieces else ''}, which is not read")
        role = self._role(name, entry.shape, dtype)
        shown = _INCREMENT.sub(lambda match: _INCREMENT_NAMES[match[1]], name)
        if dtype == TEXT:
            info = TensorInfo(name=shown, shape=entry.shape, dtype=TEXT, role=role, nbytes=entry.size)
            file, swapped = self.files[entry.shard], self.index.big_endian
            return TextTensor(info, file, entry.offset, entry.size, stated=entry.checksum, big_endian=swapped)
        nbytes = tensor_bytes(entry.shape, dtype, f"{self.path}: tensor {name}")
        info = TensorInfo(name=shown, shape=entry.shape, dtype=dtype, role=role, nbytes=nbytes)
        if not pieces:
            return self._stored(info, entry)
        joined = [Piece(offsets, self._stored(self._part(info, offsets, part), part)) for offsets, part in pieces]
        return tiled(info, joined, str(self.path))

    def _stored(self, info: TensorInfo, entry: Entry) -> TensorSource:
        if entry.size != info.nbytes:
            shape = f"shape {list(info.shape)} of {info.dtype}"
            raise Corrupt(f"{self.path}: tensor {info.name}: {shape} has {info.nbytes} bytes, its entry says {entry.size}")
        tensor = StridedTensor(info, self.files[entry.shard], entry.offset, None, self.index.big_endian)
        return tensor if entry.checksum is None else ChecksummedTensor(tensor, unmasked(entry.checksum))

    def _piece(self, name: str, part: Slice, whole: Entry) -> tuple[tuple[int, ...], Entry]:
        """Where a slice of a tensor begins, and its entry."""
        what = f"{self.path}: tensor {name}: slice {list(part)}"
        entry = self.left.pop(slice_key(name, part), None)
        if entry is None:
            raise Corrupt(f"{what} has no entry")
        same_rank = len(part) == len(whole.shape)
        sizes = tuple(size if length == FULL else length for (_, length), size in zip(part, whole.shape, strict=same_rank))
        if not same_rank or entry.shape != sizes or entry.dtype != whole.dtype or entry.slices:
            raise Corrupt(f"{what} of {list(whole.shape)}, type {whole.dtype}, is {list(entry.shape)}, type {entry.dtype}")
        return tuple(start for start, _ in part), entry

    def _part(self, info: TensorInfo, offsets: tuple[int, ...], entry: Entry) -> TensorInfo:
        name = f"{info.name} from {list(offsets)}"
        nbytes = tensor_bytes(entry.shape, info.dtype, f"{self.path}: tensor {name}")
        return replace(info, name=name, shape=entry.shape, nbytes=nbytes)

    def _role(self, name: str, shape: tuple[int, ...], dtype: str) -> Role:
        if _METRIC.search(name):
            return "other"
        guessed = role_of(name, shape, dtype)
        keys = _VALUES.sub(r"\1keys", name)
        is_table = keys != name and keys in self.index.tensors and len(shape) == 2
        return "embedding" if is_table and guessed == "dense" else guessed


def _check_places(path: Path, stored: list[Entry], files: Mapping[int, MappedFile]) -> None:
    """Elements lie in their files and in no others' place."""
    end, shard = 0, -1
    for each in sorted(stored, key=lambda one: (one.shard, one.offset, one.size)):
        files[each.shard].check(each.offset, each.size, "a tensor")
        end = end if each.shard == shard else 0
        if each.offset < end and each.size:
            raise Corrupt(f"{path}: the tensor at {each.offset} of shard {each.shard} overlaps the one that ends at {end}")
        end, shard = max(end, each.offset + each.size), each.shard
