"""Looks for what a proposal asks of a checkpoint: the first texts of a tensor, and files of keys beside it. Never fails: what
cannot be read, or is large, is not proposed. How a vocabulary is read for slicing is not its to know."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from penstock.pipeline.core.errors import PenstockError

from .proposals import Vocabulary, is_text
from .readers import Checkpoint, TensorInfo, open_checkpoint
from .readers.files.listing import files_in
from .sidecar import is_sidecar
from .table_names import says_keys

_FIRST = 64
_MAX_FILES = 1000
_MAX_TEXT_BYTES = 64 << 20
_MAX_JSON_BYTES = 16 << 20
_NUMPY_ENDINGS = {".npy", ".npz"}
_ENDINGS = {".txt", ".vocab", ".json", *_NUMPY_ENDINGS}


class Beside:
    """The `Surroundings` of an opened checkpoint: its own texts, and the files in the folders where it lies."""

    def __init__(self, checkpoint: Checkpoint, path: Path) -> None:
        self._checkpoint, self._path = checkpoint, path

    def first_texts(self, tensor: TensorInfo) -> Sequence[bytes]:
        return _texts(self._checkpoint, tensor)

    def vocabulary(self, fits: Callable[[str], bool], rows: int) -> Vocabulary | None:
        for file, infos in self._files:
            found = _of_tensors(file, infos, fits, rows) if infos else _of_file(file, rows) if fits(file.stem) else None
            if found is not None:
                return found
        return None

    @cached_property
    def _files(self) -> list[tuple[Path, Sequence[TensorInfo]]]:
        """Files that could be vocabularies, with the tensors of those that have any."""
        folders = [self._path, self._path.parent] if self._path.is_dir() else [self._path.parent]
        files = [folder / name for folder in folders for name in files_in(folder)[:_MAX_FILES]]
        kept = [file for file in files if file != self._path and not is_sidecar(file) and file.suffix in _ENDINGS]
        found = [(file, _headers(file) if file.suffix in _NUMPY_ENDINGS else ()) for file in kept]
        return [(file, infos) for file, infos in found if infos or file.suffix not in _NUMPY_ENDINGS]


def _headers(file: Path) -> Sequence[TensorInfo]:
    try:
        with open_checkpoint(file) as opened:
            return opened.tensors
    except (OSError, PenstockError):
        return ()


def _of_tensors(file: Path, infos: Sequence[TensorInfo], fits: Callable[[str], bool], rows: int) -> Vocabulary | None:
    for info in infos:
        text = is_text(info.dtype)
        told = text or (info.dtype.startswith(("int", "uint")) and (says_keys(file.stem) or says_keys(info.name)))
        if info.shape == (rows,) and told and (fits(info.name) or fits(f"{file.stem} {info.name}")):
            name = file.name if file.suffix == ".npy" else f"{file.name}#{info.name}"
            return Vocabulary(name=name, first=_texts_in(file, info) if text else ())
    return None


def _of_file(file: Path, rows: int) -> Vocabulary | None:
    limit = _MAX_JSON_BYTES if file.suffix == ".json" else _MAX_TEXT_BYTES
    try:
        if file.stat().st_size > limit:
            return None
        return _of_json(file, rows) if file.suffix == ".json" else _of_lines(file, rows)
    except OSError:
        return None


def _of_json(file: Path, rows: int) -> Vocabulary | None:
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict):
        numbers = {number for number in found.values() if type(number) is int and 0 <= number < rows}
        if len(numbers) != len(found) or rows - 1 not in numbers:
            return None
        first = list(found)[:_FIRST]
    elif isinstance(found, list) and len(found) == rows:
        first = [each for each in found[:_FIRST] if isinstance(each, str)]
    else:
        return None
    return Vocabulary(name=file.name, first=[each.encode("utf-8", "replace") for each in first])


def _of_lines(file: Path, rows: int) -> Vocabulary | None:
    count, last, first = 0, b"\n", b""
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            first = first or block
            count, last = count + block.count(b"\n"), block[-1:]
    if count + (last != b"\n") != rows:
        return None
    lines = first.split(b"\n")[:-1] or [first]
    return Vocabulary(name=file.name, first=[line.removesuffix(b"\r") for line in lines[:_FIRST]])


def _texts_in(file: Path, tensor: TensorInfo) -> Sequence[bytes]:
    try:
        with open_checkpoint(file) as opened:
            return _texts(opened, tensor)
    except (OSError, PenstockError):
        return ()


def _texts(checkpoint: Checkpoint, tensor: TensorInfo) -> Sequence[bytes]:
    try:
        return [bytes(text) for text in checkpoint.texts(tensor.name, 0, min(_FIRST, tensor.shape[0])).to_pylist()]
    except PenstockError:
        return ()
