"""`.npy` and `.npz`, as numpy.lib.format specifies them. Objects are never unpickled: an array of them is refused.

Stored members of an `.npz` are mapped where they lie; deflated ones are inflated as they are read.
"""

from __future__ import annotations

import io
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from penstock.pipeline.core.errors import Corrupt, Refused, Unsupported

from .checkpoint import TensorInfo, TensorSource
from .files.mapped_file import MappedFile
from .files.zip_archive import DEFLATED, Member, read_directory
from .roles import role_of
from .stored_checkpoint import StoredCheckpoint
from .tensors.deflated import DeflatedTensor, Inflation
from .tensors.elements import tensor_bytes
from .tensors.strided import StridedTensor

MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 4096
"""Room for the header of any array that has no fields."""


def open_npy(path: Path) -> StoredCheckpoint:
    """One array, under the file's name without its ending."""
    file = MappedFile(path)
    try:
        head = file.bytes_at(0, min(_HEADER_BYTES, file.size), "npy header")
        info, length, dtype, fortran = _header(head, file.size, path.stem, f"{file}")
        return StoredCheckpoint("npy", [_strided(info, file, length, dtype, fortran)], [file])
    except BaseException:
        file.close()
        raise


def open_npz(path: Path) -> StoredCheckpoint:
    """Every member, under its name without ".npy"."""
    file = MappedFile(path)
    try:
        return StoredCheckpoint("npz", [_member(file, each) for each in read_directory(file).values()], [file])
    except BaseException:
        file.close()
        raise


def _member(file: MappedFile, member: Member) -> TensorSource:
    name, ending = member.name[:-4], member.name[-4:]
    what = f"{file}: member {member.name!r}"
    if ending != ".npy":
        raise Unsupported(f"{what} is no .npy")
    take = min(_HEADER_BYTES, member.nbytes)
    if member.method == DEFLATED:
        inflation, head = Inflation(file, member), b""
        while len(head) < take:
            head += inflation.take(take - len(head))
        info, length, dtype, fortran = _header(head, member.nbytes, name, what)
        if fortran:
            hint = "write it uncompressed (numpy.savez), or in C order"
            raise Unsupported(f"{what} is deflated and in Fortran order: its rows cannot be streamed", hint=hint)
        return DeflatedTensor(info, file, member, header_bytes=length, big_endian=dtype.byteorder == ">")
    head = file.bytes_at(member.offset, take, what)
    info, length, dtype, fortran = _header(head, member.nbytes, name, what)
    return _strided(info, file, member.offset + length, dtype, fortran)


def _strided(info: TensorInfo, file: MappedFile, offset: int, dtype: np.dtype[Any], fortran: bool) -> StridedTensor:
    strides = None
    if fortran and len(info.shape) > 1:
        steps = [dtype.itemsize]
        for size in info.shape[:-1]:
            steps.append(steps[-1] * size)
        strides = tuple(steps)
    return StridedTensor(info, file, offset, strides, dtype.byteorder == ">")


def _header(head: bytes, nbytes: int, name: str, what: str) -> tuple[TensorInfo, int, np.dtype[Any], bool]:
    """The tensor, the length of its header, its dtype as stored, and whether it is in Fortran order."""
    stream = io.BytesIO(head)
    readers: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]]]
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        version = npy.read_magic(stream)
        if version not in readers:
            raise Unsupported(f"{what}: npy version {version[0]}.{version[1]}; 1.0 and 2.0 can be read")
        shape, fortran, dtype = readers[version](stream)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError, tokenize.TokenError) as error:
        raise Corrupt(f"{what}: npy header: {str(error).partition(chr(10))[0] or type(error).__name__}") from None
    if dtype.hasobject:
        raise Refused(f"{what} holds pickled objects, which could run code")
    if dtype.names or dtype.subdtype or dtype.kind == "V" or not dtype.itemsize:
        raise Unsupported(f"{what} has dtype {dtype}; arrays of numbers and text can be read")
    kind = dtype.name if dtype.kind in "biufc" else dtype.newbyteorder("<").str
    size = tensor_bytes(shape, kind, what)
    if stream.tell() + size != nbytes:
        raise Corrupt(f"{what}: shape {list(shape)} of {kind} needs {stream.tell() + size} bytes, it has {nbytes}")
    return (
        TensorInfo(name=name, shape=shape, dtype=kind, role=role_of(name, shape, kind), nbytes=size),
        stream.tell(),
        dtype,
        fortran,
    )
