"""PyTorch's format before 1.6 (`_use_new_zipfile_serialization=False` since): pickles one behind the other, then the storages.

    pickle    0x1950a86a20f9469cfc6c
    pickle    1001
    pickle    a dict about the writer's machine, not needed: elements are little-endian, whatever it says
    pickle    the saved value, storages by persistent id
    pickle    a list of the keys of all storages
    storages  in the order of the list: int64 number of elements, then the elements

Pickles do not say how long they are: one ends where its STOP is. The tar files before that (0.1) are recognised and refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

from penstock.pipeline.core.errors import Corrupt, Unsupported

from ..files.mapped_file import MappedFile
from ..stored_checkpoint import StoredCheckpoint
from ..tensors.elements import element_bytes
from .pickle_machine import PickleMachine, Value
from .pickle_stream import PickleStream
from .pickled_torch import StorageRef, leaves, read_torch_pickle, storage_of
from .torch_storages import StoragePlace, source_of

MAGIC_NUMBER, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MAGIC = re.compile(rb"\x80[\x02-\x05](\x95.{8})?\x8a\x0al\xfc\x9c", re.DOTALL)
_TAR_MEMBERS = (b"sys_info\0", b"pickle\0", b"tensors\0", b"storages\0")
_TAR_MAGIC_AT, _TAR_HEADER_BYTES = 257, 512
_COUNT_BYTES = 8


def is_torch_legacy(path: Path, head: bytes) -> bool:
    """Whether a file begins with the pickled magic number. `head`: its first 16 bytes."""
    return _MAGIC.match(head) is not None


def is_torch_tar(path: Path, head: bytes) -> bool:
    if not head.startswith(_TAR_MEMBERS):
        return False
    file = MappedFile(path)
    try:
        header = file.bytes_at(0, min(_TAR_HEADER_BYTES, file.size), "tar header")
    finally:
        file.close()
    return header.startswith(b"ustar", _TAR_MAGIC_AT)


def refuse_torch_tar(path: Path) -> NoReturn:
    hint = "load it with torch.load and save it again with torch.save"
    raise Unsupported(f"{path}: a tar file of PyTorch 0.1; files since 0.1.10 can be read", hint=hint)


def open_torch_legacy(path: Path) -> StoredCheckpoint:
    """Names as `open_torch_zip`. `Corrupt` when the storages and the file's end do not meet exactly."""
    file = MappedFile(path)
    try:
        where = str(file)
        stream = PickleStream(file)
        for wanted, what in ((MAGIC_NUMBER, "magic number"), (PROTOCOL, "protocol")):
            if (found := _plain(stream, where)) != wanted:
                raise Corrupt(f"{where}: {what} {found if type(found) is int else type(found).__name__}, not {wanted}")
        _plain(stream, where)
        stored: dict[str, StorageRef] = {}

        def storage(identity: Value) -> StorageRef:
            found = storage_of(identity)
            first = stored.setdefault(found.key, found)
            if (first.dtype, first.count) != (found.dtype, found.count):
                raise ValueError(f"storage {found.key} has two types or two sizes")
            return found

        saved = read_torch_pickle(stream, where, storage)
        keys = _plain(stream, where)
        places = _places(file, stream.tell(), keys, stored)
        sources = [
            source_of(name or path.stem, leaf, lambda ref, _: places[ref.key], where) for name, leaf in leaves(saved, where)
        ]
        return StoredCheckpoint("pytorch legacy", sources, [file])
    except BaseException:
        file.close()
        raise


def _plain(stream: PickleStream, where: str) -> Value:
    """A pickle of plain values, which names no global."""
    return PickleMachine(where, {}, _no_storage).run(stream)


def _no_storage(identity: Value) -> NoReturn:
    raise ValueError("a persistent id where a plain value belongs")


def _places(file: MappedFile, at: int, keys: Value, stored: dict[str, StorageRef]) -> dict[str, StoragePlace]:
    """Where each storage lies; `at` is the end of the pickles. All are checked to lie in the file."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len({*keys}) != len(keys):
        raise Corrupt(f"{file}: the keys of its storages are no list of different texts")
    if {*keys} != {*stored}:
        odd = min({*keys} ^ {*stored})
        raise Corrupt(f"{file}: storage {odd[:100]!r} is in {'the list of keys' if odd in keys else 'the saved value'} only")
    places = {}
    for key in keys:
        what, storage = f"storage {key}", stored[key]
        count = int.from_bytes(file.bytes_at(at, _COUNT_BYTES, what), "little", signed=True)
        if count != storage.count:
            raise Corrupt(f"{file}: {what} at {at} has {count} elements, its tensors say {storage.count}")
        nbytes = count * element_bytes(storage.dtype)
        file.check(at + _COUNT_BYTES, nbytes, what)
        places[key] = StoragePlace(file, at + _COUNT_BYTES, nbytes, big_endian=False)
        at += _COUNT_BYTES + nbytes
    if at != file.size:
        raise Corrupt(f"{file}: the storages end at {at}, the file at {file.size}")
    return places
