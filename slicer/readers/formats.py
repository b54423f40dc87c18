"""Which reader a path is for, found by content and never by name. A new format is a module and a line in `FORMATS`."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from penstock.pipeline.core.errors import NotFound, Refused, Unreachable, Unsupported

from ..sidecar import is_sidecar
from .checkpoint import Checkpoint
from .mapped_file import MappedFile
from .numpy_files import MAGIC as NPY_MAGIC
from .numpy_files import open_npy, open_npz
from .safetensors_files import INDEX_ENDING, open_safetensors, open_safetensors_set
from .torch_zip import open_torch_zip, top_folder
from .zip_archive import MAGIC as ZIP_MAGIC
from .zip_archive import Member, read_directory

_HEAD_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """`recognises` looks at a path and the first bytes of what is there (none for a folder); the first format that does opens
    it. It may raise what `open` would, when it is sure of the format and the file is broken."""

    name: str
    recognises: Callable[[Path, bytes], bool]
    open: Callable[[Path], Checkpoint]


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path`: a file, or a folder that is one or that holds just one.

    `NotFound`: nothing there. `Unsupported`: no known format. `Corrupt`, `Refused`: broken, or not safe to read."""
    format_of = _recognised(path)
    if format_of is not None:
        return format_of.open(path)
    if not path.is_dir():
        raise Unsupported(f"{path}: no checkpoint of a known format ({', '.join(each.name for each in FORMATS)})")
    inside = [each for each in _files_in(path) if not is_sidecar(each) and each.name[0] != "."]
    found = [(each, form) for each in inside if (form := _recognised(each)) is not None]
    if len(found) > 1:
        names = ", ".join(each.name for each, _ in found[:3])
        raise Refused(f"{path}: a folder of {len(found)} checkpoints ({names}, …)", hint="name the one that is meant")
    if not found:
        raise Unsupported(f"{path}: a folder without a checkpoint of a known format")
    return found[0][1].open(found[0][0])


def _recognised(path: Path) -> Format | None:
    head = _head(path)
    return next((each for each in FORMATS if each.recognises(path, head)), None)


def _head(path: Path) -> bytes:
    """The first bytes of a file; none of a folder. What is neither is refused before it can block."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no checkpoint at {path}") from None
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        return b""
    if not stat.S_ISREG(mode):
        raise Unsupported(f"{path} is neither a file nor a folder")
    file = MappedFile(path)
    try:
        return file.bytes_at(0, min(_HEAD_BYTES, file.size), "head")
    finally:
        file.close()


def _files_in(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_file())


def _zip_members(path: Path) -> list[tuple[str, Member]]:
    file = MappedFile(path)
    try:
        return list(read_directory(file).items())
    finally:
        file.close()


def _is_torch_zip(path: Path, head: bytes) -> bool:
    return head.startswith(ZIP_MAGIC) and top_folder(dict(_zip_members(path))) is not None


def _is_npz(path: Path, head: bytes) -> bool:
    return head.startswith(ZIP_MAGIC) and any(name.endswith(".npy") for name, _ in _zip_members(path))


def _is_npy(path: Path, head: bytes) -> bool:
    return head.startswith(NPY_MAGIC)


def _is_safetensors(path: Path, head: bytes) -> bool:
    return head[8:9] == b"{"


def _index_in(path: Path) -> Path | None:
    """The index of a sharded set: the path itself, or the one that its folder holds."""
    if path.name.endswith(INDEX_ENDING):
        return path
    found = [each for each in _files_in(path) if each.name.endswith(INDEX_ENDING)] if path.is_dir() else []
    return found[0] if len(found) == 1 else None


def _is_safetensors_set(path: Path, head: bytes) -> bool:
    return _index_in(path) is not None


def _open_set(path: Path) -> Checkpoint:
    return open_safetensors_set(_index_in(path) or path)


FORMATS = (
    Format(name="safetensors set", recognises=_is_safetensors_set, open=_open_set),
    Format(name="pytorch", recognises=_is_torch_zip, open=open_torch_zip),
    Format(name="npz", recognises=_is_npz, open=open_npz),
    Format(name="npy", recognises=_is_npy, open=open_npy),
    Format(name="safetensors", recognises=_is_safetensors, open=open_safetensors),
)
