"""What a checkpoint holds, for people and scripts: `penstock inspect`. Reads, and changes nothing; knows no catalog."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from .readers import Checkpoint, Role, TensorInfo, open_checkpoint
from .readers.elements import bytes_of


class InspectedTensor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`sha256` is of the little-endian C-order bytes; None when no checksums were asked for."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    sha256: str | None = None


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """The document that `penstock inspect --json` prints."""

    format: str
    tensors: tuple[InspectedTensor, ...]

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


def inspect_checkpoint(path: Path) -> Inspection:
    """Names, shapes and roles, from the headers alone."""
    with open_checkpoint(path) as checkpoint:
        return Inspection(format=checkpoint.format, tensors=tuple(map(_described, checkpoint.tensors)))


def inspect_with_checksums(path: Path) -> Inspection:
    """The same, and every byte is read: a block at a time, whatever the size of a tensor."""
    with open_checkpoint(path) as checkpoint:
        tensors = (
            msgspec.structs.replace(_described(each), sha256=sha256_of(checkpoint, each.name)) for each in checkpoint.tensors
        )
        return Inspection(format=checkpoint.format, tensors=tuple(tensors))


def sha256_of(checkpoint: Checkpoint, name: str) -> str:
    """Of the little-endian C-order bytes of a tensor."""
    whole = hashlib.sha256()
    for block in checkpoint.blocks(name):
        whole.update(bytes_of(block))
    return whole.hexdigest()


def proposed_tables(model: str, tensors: Iterable[TensorInfo | InspectedTensor]) -> str:
    """TOML for the config: one table per tensor that looks like an embedding, for people to check; "" without any."""
    lines: list[str] = []
    taken: set[str] = set()
    for tensor in tensors:
        if tensor.role != "embedding":
            continue
        name = _table_name(tensor.name)
        while name in taken:
            name = f"{name}_"
        taken.add(name)
        rows, columns = tensor.shape
        lines += [
            f"[models.{_quoted_key(model)}.tables.{_quoted_key(name)}]",
            f"tensor = {json.dumps(tensor.name)}  # {rows} x {columns}",
        ]
    return "\n".join(lines) + "\n" if lines else ""


_PLAIN = {"weight", "weights", "embedding", "embeddings", "embedding_bags", "emb", "kernel", "table", "model"}


def _table_name(tensor: str) -> str:
    """The last part of the tensor's name that says more than "weight"."""
    parts = [re.sub(r"[^A-Za-z0-9_-]", "_", part).lstrip("_-") for part in re.split(r"[./:]", tensor)]
    telling = (
        [part for part in parts if part and not part.isdigit() and part not in _PLAIN]
        or [part for part in parts if part]
        or ["table"]
    )
    return telling[-1][:100]


def _quoted_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _described(tensor: TensorInfo) -> InspectedTensor:
    return InspectedTensor(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype, role=tensor.role)
