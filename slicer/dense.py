"""The dense slice: a model's tensors that are no embedding table, as one safetensors file. Knows no model and no version.

Equal tensors are equal bytes, so that a digest tells whether anything has changed: the header is canonical JSON without
white space, tensors stand by size of their elements (which keeps them aligned), then by name.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from penstock.pipeline.core.errors import Corrupt, Refused, Unsupported
from penstock.pipeline.core.manifest import DenseInfo
from penstock.pipeline.ports.store import ObjectStore

Tensors = Mapping[str, NDArray[Any]]
_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def write_dense(store: ObjectStore, key: str, tensors: Tensors) -> DenseInfo:
    """`Unsupported` names a tensor whose dtype safetensors and numpy do not share, `Refused` one that is not finite."""
    digest, size = hashlib.blake2b(digest_size=16), 0
    checked = _checked(tensors)
    with store.upload(key, size_hint=sum(tensor.nbytes for _, tensor in checked)) as upload:
        for part in _parts(checked):
            upload.write(part)
            digest.update(part)
            size += len(part)
    return DenseInfo(path=key, bytes=size, digest=digest.hexdigest())


def dense_digest(tensors: Tensors) -> str:
    """The digest that `write_dense` would give; errors as there."""
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(_checked(tensors)):
        digest.update(part)
    return digest.hexdigest()


def read_dense(store: ObjectStore, info: DenseInfo) -> dict[str, NDArray[Any]]:
    """`Corrupt` when the file is not what `info` says."""
    if (size := store.size(info.path)) != info.bytes:
        raise Corrupt(f"{info.path}: {size} bytes, {info.bytes} were written")
    data = store.get(info.path).data
    found = hashlib.blake2b(data, digest_size=16).hexdigest()
    if found != info.digest:
        raise Corrupt(f"{info.path}: digest {found}, {info.digest} was written")
    try:
        return dict(safetensors.numpy.load(data))
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise Corrupt(f"{info.path}: not a safetensors file: {error}") from None


def _checked(tensors: Tensors) -> list[tuple[str, NDArray[Any]]]:
    found = []
    for name, tensor in tensors.items():
        if tensor.dtype.name not in _NAMES:
            raise Unsupported(f"dense tensor {name}: dtype {tensor.dtype} (known: {', '.join(_NAMES)})")
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise Refused(f"dense tensor {name}: holds a NaN or an infinity")
        found.append((name, tensor))
    return sorted(found, key=lambda pair: (-pair[1].itemsize, pair[0]))


def _parts(tensors: list[tuple[str, NDArray[Any]]]) -> Iterator[bytes | memoryview]:
    header, end = {}, 0
    for name, tensor in tensors:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype.name], "shape": tensor.shape, "data_offsets": (start, end)}
    text = msgspec.json.encode(header, order="sorted")
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for _, tensor in tensors:
        if tensor.nbytes:
            little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
            yield np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
