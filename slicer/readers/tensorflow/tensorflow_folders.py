"""Where the bundle is that a path means: a SavedModel, a training folder with its `checkpoint` file, or a bare prefix.

TFRA's tables in files of their own are read with the folder's bundle, be it the SavedModel's, the latest or the only one. A
bundle that is named itself comes without: nothing says which save the tables beside it are of.

The `checkpoint` file is text: `model_checkpoint_path: "model.ckpt-100"`, then every checkpoint that is kept. A trainer writes
absolute paths when it was given one; since folders move, such a path counts by its last component, in this folder.
"""

from __future__ import annotations

import re
from pathlib import Path

from penstock.pipeline.core.errors import Corrupt, NotFound, Refused

from ..dumps.tfra_files import is_tfra
from ..files.listing import files_in
from ..files.mapped_file import MappedFile
from ..stored_checkpoint import StoredCheckpoint
from .leveldb_table import is_table
from .tensorflow_bundle import INDEX_ENDING, open_bundle

STATE_FILE = "checkpoint"
_SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")
_VARIABLES = Path("variables", f"variables{INDEX_ENDING}")
_MAX_STATE_BYTES = 1 << 22
_HEAD_BYTES = 4096
_LATEST = re.compile(rb'^[ \t]*model_checkpoint_path[ \t]*:[ \t]*"((?:[^"\\\n]|\\.)*)"', re.MULTILINE)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|[xX][0-9a-fA-F]{1,2}|.)")
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


def is_tensorflow(path: Path, head: bytes) -> bool:
    """An index, or a folder that says by its structure which index is meant."""
    if not path.is_dir():
        return _is_index(path)
    return _is_saved_model(path) or _LATEST.search(_state(path, _HEAD_BYTES)) is not None or _only_index(path) is not None


def open_tensorflow(path: Path) -> StoredCheckpoint:
    """`NotFound`: the checkpoint that the folder calls its latest is not there. `Refused`: it is said to be elsewhere."""
    if not path.is_dir():
        return open_bundle(path)
    if _is_saved_model(path):
        return open_bundle(path / _VARIABLES, tables_of=path)
    return open_bundle(_only_index(path) or latest_index(path), tables_of=path)


def latest_index(folder: Path) -> Path:
    """The index of the checkpoint that the folder's `checkpoint` file names as its latest."""
    where = folder / STATE_FILE
    found = _LATEST.findall(_state(folder, _MAX_STATE_BYTES))
    if not found:
        raise Corrupt(f"{where}: no model_checkpoint_path")
    try:
        named = _ESCAPE.sub(_unescaped, found[-1]).decode("utf-8")
    except UnicodeDecodeError:
        raise Corrupt(f"{where}: the path {found[-1]!r} is not UTF-8") from None
    relative = named.rpartition("/")[2] if named.startswith("/") else named
    parts = relative.split("/")
    index = folder / f"{relative}{INDEX_ENDING}"
    hint = f"name the one that is meant: a path that ends in {INDEX_ENDING}"
    if "\0" in named or parts[-1] in {"", ".", ".."} or ".." in parts or not _stays_inside(index, folder):
        raise Refused(f"{where}: its latest checkpoint {named!r} is not in this folder", hint=hint)
    if not index.is_file():
        raise NotFound(f"{where}: its latest checkpoint {named!r} is not there", hint=hint)
    return index


def by_prefix(path: Path) -> Path:
    """The index for a prefix, as TensorFlow names checkpoints; any other path as it is."""
    if path.name and not path.exists():
        index = path.with_name(path.name + INDEX_ENDING)
        if index.is_file():
            return index
    return path


def _stays_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if code[:1] in b"01234567":
        return bytes([int(code, 8) & 0xFF])
    if len(code) > 1:
        return bytes([int(code[1:], 16)])
    return _LETTERS.get(code, code)


def _is_saved_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _SAVED_MODEL) and _is_index(folder / _VARIABLES)


def _only_index(folder: Path) -> Path | None:
    """The one bundle of a folder that has tables of TFRA."""
    if not is_tfra(folder, b""):
        return None
    found = [folder / name for name in files_in(folder) if name.endswith(INDEX_ENDING) and _is_index(folder / name)]
    return found[0] if len(found) == 1 else None


def _is_index(path: Path) -> bool:
    if not path.is_file():
        return False
    file = MappedFile(path)
    try:
        return is_table(file)
    finally:
        file.close()


def _state(folder: Path, limit: int) -> bytes:
    """At most `limit` bytes of the folder's `checkpoint` file; none where there is none."""
    path = folder / STATE_FILE
    if not path.is_file():
        return b""
    file = MappedFile(path)
    try:
        return file.bytes_at(0, min(limit, file.size), STATE_FILE)
    finally:
        file.close()
