"""PyTorch's zip format (since 1.6): `<top>/data.pkl`, which describes, and `<top>/data/<key>`, raw storages that are mapped.

    <top>/data.pkl      the saved value, storages by persistent id      <top>/data/<key>   the elements of one storage
    <top>/byteorder     "little" or "big"; little without it            others             versions and ids, not needed

A tensor is a shape and strides over a storage; both are checked to stay inside it before anything is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.pipeline.core.errors import Corrupt, Refused, Unsupported

from .checkpoint import Role, TensorInfo, TensorSource
from .elements import element_bytes, tensor_bytes
from .held import HeldTensor
from .mapped_file import MappedFile
from .pickled_numpy import PickledArray
from .pickled_torch import Leaf, StorageRef, TensorRef, leaves, read_torch_pickle
from .roles import role_of
from .stored_checkpoint import StoredCheckpoint
from .strided import StridedTensor
from .zip_archive import STORED, Member, read_directory, read_member

PICKLE = "data.pkl"
_MAX_EXPANDED_BYTES = 64 << 20
"""Of a tensor whose elements overlap, so that it is larger than its storage: `torch.zeros(1).expand(2**40)` is 4 bytes."""


def open_torch_zip(path: Path) -> StoredCheckpoint:
    """Tensors under the dotted paths that lead to them, as in "model.embeddings.customer.weight"; numbers as scalars."""
    file = MappedFile(path)
    try:
        archive = _Archive.of(file)
        saved = read_torch_pickle(read_member(file, archive.member(PICKLE)), str(file))
        sources = [archive.source(name or path.stem, leaf) for name, leaf in leaves(saved, str(file))]
        return StoredCheckpoint("pytorch", sources, [file])
    except BaseException:
        file.close()
        raise


def top_folder(members: Mapping[str, Member]) -> str | None:
    """The folder that `data.pkl` is in; None when this is no archive of torch."""
    found = [name for name in members if name.count("/") == 1 and name.endswith(f"/{PICKLE}")]
    return found[0].partition("/")[0] if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class _Archive:
    file: MappedFile
    members: Mapping[str, Member]
    top: str
    big_endian: bool

    @classmethod
    def of(cls, file: MappedFile) -> _Archive:
        members = read_directory(file)
        top = top_folder(members)
        if top is None:
            raise Corrupt(f"{file}: no {PICKLE} in one folder of the zip")
        order = members.get(f"{top}/byteorder")
        text = read_member(file, order) if order else b"little"
        if text not in {b"little", b"big"}:
            raise Corrupt(f"{file}: byte order {text[:20]!r}")
        return cls(file, members, top, text == b"big")

    def member(self, name: str) -> Member:
        try:
            return self.members[f"{self.top}/{name}"]
        except KeyError:
            raise Corrupt(f"{self.file}: no zip member {self.top}/{name}") from None

    def source(self, name: str, leaf: Leaf) -> TensorSource:
        if isinstance(leaf, TensorRef):
            return self._strided(name, leaf)
        if isinstance(leaf, PickledArray):
            values, role = leaf.values, role_of(name, leaf.values.shape, leaf.values.dtype.name)
        else:
            if isinstance(leaf, int) and not -(2**63) <= leaf < 2**64:
                # Beyond 64 bits no tensor could hold it; it is the state of a random generator.
                leaf = float(leaf)
            values = np.asarray(leaf)
            values, role = values.astype(values.dtype.newbyteorder("<")), _role_of_number(name)
        info = TensorInfo(name=name, shape=values.shape, dtype=values.dtype.name, role=role, nbytes=values.nbytes)
        return HeldTensor(info, values)

    def _strided(self, name: str, tensor: TensorRef) -> StridedTensor:
        what = f"{self.file}: tensor {name}"
        member = self._storage(tensor.storage, what)
        nbytes = tensor_bytes(tensor.shape, tensor.dtype, what)
        strides = _checked_strides(tensor, member, nbytes, what)
        info = TensorInfo(
            name=name, shape=tensor.shape, dtype=tensor.dtype, nbytes=nbytes, role=role_of(name, tensor.shape, tensor.dtype)
        )
        width = element_bytes(tensor.dtype)
        return StridedTensor(info, self.file, member.offset + tensor.offset * width, strides, self.big_endian and width > 1)

    def _storage(self, storage: StorageRef, what: str) -> Member:
        member = self.member(f"data/{storage.key}")
        if member.method != STORED:
            raise Unsupported(f"{what}: its storage is compressed", hint="save it with torch.save, and do not zip it again")
        if member.nbytes != storage.count * element_bytes(storage.dtype):
            raise Corrupt(f"{what}: storage {storage.key} has {member.nbytes} bytes, not {storage.count} of {storage.dtype}")
        return member


def _checked_strides(tensor: TensorRef, member: Member, nbytes: int, what: str) -> tuple[int, ...] | None:
    """Strides in bytes, None for C order; `Corrupt` when an element leaves the storage."""
    width = element_bytes(tensor.dtype)
    if len(tensor.strides) != len(tensor.shape):
        raise Corrupt(f"{what}: {len(tensor.shape)} dimensions, {len(tensor.strides)} strides")
    if not nbytes:
        return None
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if (last + 1) * width > member.nbytes:
        raise Corrupt(f"{what}: element {last} leaves its storage of {member.nbytes // width}")
    if nbytes > max(member.nbytes, _MAX_EXPANDED_BYTES):
        hint = "save tensor.contiguous(), if it is what it should be"
        raise Refused(f"{what}: {nbytes} bytes over a storage of {member.nbytes}: elements overlap", hint=hint)
    expected = width
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size > 1 and stride * width != expected:
            return tuple(each * width for each in tensor.strides)
        expected *= size
    return None


def _role_of_number(name: str) -> Role:
    guessed = role_of(name, (), "int64")
    return guessed if guessed == "optimizer" else "other"
