"""Reads an opened checkpoint in every way that its protocol has, a little of everything, and compares the ways with each other.

An `AssertionError` means that two ways differ, or that a promise of the protocol is broken. Knows no format.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path

import msgspec
import numpy as np
from fuzz.guard import is_one_line

from penstock.pipeline.core.errors import InvalidInput, PenstockError, Unsupported
from penstock.slicer.proposals import propose
from penstock.slicer.proposed_config import toml_of
from penstock.slicer.readers import Checkpoint, TensorInfo, open_checkpoint, storage_dtype
from penstock.slicer.readers.tensors.elements import TEXT, bytes_of
from penstock.slicer.vocabularies import Beside

MAX_TENSORS = 24
LIMIT_BYTES, MAX_BYTES = 1000, 1 << 20
ROWS = 3


def read_checkpoint(path: Path, own: Callable[[Path], Checkpoint], format_name: str) -> None:
    """Opens it as anyone would, and as its own format when it was not taken for that; the last error comes out."""
    try:
        with open_checkpoint(path) as checkpoint:
            walk(checkpoint)
            _propose(checkpoint, path)
            if checkpoint.format == format_name:
                return
    except PenstockError:
        pass
    with own(path) as checkpoint:
        walk(checkpoint)


def walk(checkpoint: Checkpoint) -> None:
    """The first tensors and the last ones; an error that one of them gives is its own."""
    tensors = checkpoint.tensors
    assert isinstance(checkpoint.format, str)
    assert len({each.name for each in tensors}) == len(tensors)
    some = tensors if len(tensors) <= MAX_TENSORS else (*tensors[: MAX_TENSORS - 4], *tensors[-4:])
    msgspec.json.encode([(each.name, each.shape, each.dtype, each.role, each.nbytes) for each in some])
    for each in some:
        assert checkpoint.info(each.name) == each
        assert all(type(size) is int and size >= 0 for size in each.shape)
        try:
            if each.dtype == TEXT:
                _read_texts(checkpoint, each)
            elif _is_readable(each.dtype):
                _read_numbers(checkpoint, each)
            else:
                assert _refuses(partial(checkpoint.read, each.name), Unsupported)
        except PenstockError as error:
            check_message(error)


def _propose(checkpoint: Checkpoint, path: Path) -> None:
    """What `penstock inspect` makes of it is JSON, and TOML, whatever tensors are called."""
    found = propose(checkpoint.tensors, Beside(checkpoint, path))
    msgspec.json.encode(found.tables)
    assert found.uses.keys() == {each.name for each in checkpoint.tensors}
    tables = tomllib.loads(toml_of("m", found.tables)).get("models", {"m": {"tables": {}}})["m"]["tables"]
    assert tables.keys() == {each.name for each in found.tables}


def _read_numbers(checkpoint: Checkpoint, info: TensorInfo) -> None:
    dtype = storage_dtype(info.dtype)
    found = bytearray()
    for block in checkpoint.blocks(info.name, limit_bytes=LIMIT_BYTES):
        assert block.dtype == dtype
        assert block.ndim == 1
        assert block.nbytes <= max(LIMIT_BYTES, dtype.itemsize)
        found += bytes_of(block)
        if len(found) > MAX_BYTES:
            break
    else:
        assert len(found) == info.nbytes
    assert info.nbytes == prod(info.shape) * dtype.itemsize, info
    if info.nbytes <= MAX_BYTES:
        whole = checkpoint.read(info.name)
        assert (whole.shape, whole.dtype) == (info.shape, dtype)
        assert whole.tobytes() == found
    if not info.shape:
        return
    each = prod(info.shape[1:]) * dtype.itemsize
    assert _refuses(partial(checkpoint.rows, info.name, 0, info.shape[0] + 1))
    assert _refuses(partial(checkpoint.rows, info.name, -1, 0))
    if each > MAX_BYTES:
        return
    stop = min(ROWS, info.shape[0])
    head = checkpoint.rows(info.name, 0, stop)
    assert (head.shape, head.dtype) == ((stop, *info.shape[1:]), dtype)
    assert head.tobytes() == found[: stop * each][: head.nbytes]
    buffer = np.empty(head.shape, dtype)
    checkpoint.read_rows_into(info.name, 0, buffer)
    assert buffer.tobytes() == head.tobytes()
    checkpoint.rows(info.name, info.shape[0] - stop, info.shape[0])


def _read_texts(checkpoint: Checkpoint, info: TensorInfo) -> None:
    found = b"".join(bytes_of(block) for block in islice(checkpoint.blocks(info.name, limit_bytes=LIMIT_BYTES), 20))
    if len(info.shape) != 1:
        assert _refuses(partial(checkpoint.texts, info.name, 0, 0))
        return
    count = info.shape[0]
    stop = min(ROWS, count)
    head = checkpoint.texts(info.name, 0, stop)
    head.validate(full=True)
    assert len(head) == stop
    assert head.null_count == 0
    assert _refuses(partial(checkpoint.texts, info.name, 0, count + 1))
    expected = b"".join(len(text).to_bytes(8, "little") + text for text in head.to_pylist())
    shared = min(len(found), len(expected))
    assert found[:shared] == expected[:shared]
    checkpoint.texts(info.name, count - stop, count)


def check_message(error: PenstockError) -> None:
    if not is_one_line(error):
        raise AssertionError(f"no message for people: {str(error)[:300]!r}") from error


def _is_readable(dtype: str) -> bool:
    """Whether it is an element type at all, and not a format's own word for one that is listed and refused."""
    try:
        return storage_dtype(dtype).kind != "V"
    except TypeError:
        return False


def _refuses(call: Callable[[], object], kind: type[PenstockError] = InvalidInput) -> bool:
    try:
        call()
    except kind:
        return True
    return False
