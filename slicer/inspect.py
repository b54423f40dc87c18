"""What a checkpoint holds, for people and scripts: `penstock inspect`. Reads, and changes nothing; knows no catalog."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock.pipeline.core.errors import Unsupported

from .proposals import ProposedTable, propose
from .readers import Checkpoint, Role, TensorInfo, open_checkpoint
from .readers.tensors.elements import bytes_of
from .vocabularies import Beside

Count = Callable[[int], object]


class InspectedTensor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`rows` and `dim` of what has one or two dimensions, else None; `sliced_as` says what would become of it. `sha256` is of the
    little-endian C-order bytes; None when no checksums were asked for, or the tensor cannot be read."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    rows: int | None
    dim: int | None
    nbytes: int
    sliced_as: str
    sha256: str | None = None


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """The document that `penstock inspect --json` prints of one checkpoint. `tables` are those that the config could declare; a
    `partial` checkpoint holds only the rows that changed."""

    format: str
    tensors: tuple[InspectedTensor, ...]
    tables: tuple[ProposedTable, ...]
    partial: bool

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


def inspect_checkpoint(path: Path) -> Inspection:
    """Names, shapes and roles, from the headers. Of keys that are texts the first are looked at, to see if they are numbers."""
    with open_checkpoint(path) as checkpoint:
        return _inspection(checkpoint, path)


def inspect_with_checksums(path: Path, count: Count = lambda nbytes: None) -> Inspection:
    """The same, and every byte is read: a block at a time, whatever the size of a tensor. `count` is told the bytes of each."""
    with open_checkpoint(path) as checkpoint:
        found = _inspection(checkpoint, path)
        tensors = (msgspec.structs.replace(each, sha256=_checksum(checkpoint, each.name, count)) for each in found.tensors)
        return msgspec.structs.replace(found, tensors=tuple(tensors))


def sha256_of(checkpoint: Checkpoint, name: str, count: Count = lambda nbytes: None) -> str:
    """Of the little-endian C-order bytes of a tensor; texts are their lengths (uint64) and bytes."""
    whole = hashlib.sha256()
    for block in checkpoint.blocks(name):
        whole.update(bytes_of(block))
        count(block.nbytes)
    return whole.hexdigest()


def _checksum(checkpoint: Checkpoint, name: str, count: Count) -> str | None:
    try:
        return sha256_of(checkpoint, name, count)
    except Unsupported:
        return None


def _inspection(checkpoint: Checkpoint, path: Path) -> Inspection:
    proposal = propose(checkpoint.tensors, Beside(checkpoint, path))
    return Inspection(
        format=checkpoint.format, tables=proposal.tables, partial=checkpoint.partial,
        tensors=tuple(_described(each, proposal.uses[each.name]) for each in checkpoint.tensors),
    )  # fmt: skip


def _described(tensor: TensorInfo, use: str) -> InspectedTensor:
    shape = tensor.shape
    return InspectedTensor(
        name=tensor.name, shape=shape, dtype=tensor.dtype, role=tensor.role, nbytes=tensor.nbytes, sliced_as=use,
        rows=shape[0] if len(shape) in (1, 2) else None, dim=shape[1] if len(shape) == 2 else None,
    )  # fmt: skip
