"""What a torch pickle describes as sources to read: tensors over storages that lie in a file, and values held in the pickle.

A tensor is a shape and strides over a storage; both are checked to stay inside it before anything is read. Knows no archive:
where the storages are, a function of the format says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from penstock.pipeline.core.errors import Corrupt, Refused

from ..checkpoint import Role, TensorInfo, TensorSource
from ..files.mapped_file import MappedFile
from ..roles import role_of
from ..tensors.elements import element_bytes, tensor_bytes
from ..tensors.held import HeldTensor
from ..tensors.strided import StridedTensor
from .pickled_numpy import PickledArray
from .pickled_torch import Leaf, StorageRef, TensorRef

_MAX_EXPANDED_BYTES = 64 << 20
"""Of a tensor whose elements overlap, so that it is larger than its storage: `torch.zeros(1).expand(2**40)` is 4 bytes."""


@dataclass(frozen=True, slots=True)
class StoragePlace:
    """The elements of a whole storage: [offset, offset + nbytes) of `file`."""

    file: MappedFile
    offset: int
    nbytes: int
    big_endian: bool


Locate = Callable[[StorageRef, str], StoragePlace]
"""The place of a storage; its second argument begins the message of an error."""


def source_of(name: str, leaf: Leaf, locate: Locate, where: str) -> TensorSource:
    """A tensor, array or number as the tensor `name`. `where` names the file."""
    if isinstance(leaf, TensorRef):
        return strided_tensor(name, leaf, locate, where)
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


def strided_tensor(name: str, tensor: TensorRef, locate: Locate, where: str) -> StridedTensor:
    """`Corrupt` when an element leaves the storage, `Refused` when they overlap so much that the tensor is a bomb."""
    what = f"{where}: tensor {name}"
    nbytes = tensor_bytes(tensor.shape, tensor.dtype, what)
    storage = locate(tensor.storage, what)
    unit = element_bytes(tensor.storage.dtype)
    visible = tensor.storage.size * unit
    strides = _checked_strides(tensor, visible, nbytes, what)
    role = role_of(name, tensor.shape, tensor.dtype)
    info = TensorInfo(name=name, shape=tensor.shape, dtype=tensor.dtype, nbytes=nbytes, role=role)
    width = element_bytes(tensor.dtype)
    offset = storage.offset + tensor.storage.first * unit + tensor.offset * width
    return StridedTensor(info, storage.file, offset, strides, storage.big_endian and width > 1)


def _checked_strides(tensor: TensorRef, visible: int, nbytes: int, what: str) -> tuple[int, ...] | None:
    """Strides in bytes, None for C order. `visible`: bytes of the storage that the tensor may use."""
    width = element_bytes(tensor.dtype)
    if len(tensor.strides) != len(tensor.shape):
        raise Corrupt(f"{what}: {len(tensor.shape)} dimensions, {len(tensor.strides)} strides")
    if not nbytes:
        return None
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if (last + 1) * width > visible:
        raise Corrupt(f"{what}: element {last} leaves its storage of {visible // width}")
    if nbytes > max(visible, _MAX_EXPANDED_BYTES):
        hint = "save tensor.contiguous(), if it is what it should be"
        raise Refused(f"{what}: {nbytes} bytes over a storage of {visible}: elements overlap", hint=hint)
    expected = width
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size > 1 and stride * width != expected:
            return tuple(each * width for each in tensor.strides)
        expected *= size
    return None


def _role_of_number(name: str) -> Role:
    guessed = role_of(name, (), "int64")
    return guessed if guessed == "optimizer" else "other"
