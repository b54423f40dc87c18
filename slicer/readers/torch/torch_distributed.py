"""PyTorch's distributed checkpoints: a folder of `__<rank>_<n>.distcp` files and `.metadata`, which is written last.

Each piece of a tensor, and each other object, is what `torch.save` writes, at an offset of one of the files. A piece is
opened when one of its rows is asked for first: a folder of thousands opens at the cost of its metadata. Names are those that
`state_dict_metadata` spells.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from penstock.pipeline.core.errors import Corrupt, NotFound, Refused, Unsupported

from ..checkpoint import Array, TensorInfo, TensorSource
from ..files.listing import files_in
from ..files.mapped_file import FileWindow, MappedFile
from ..files.zip_archive import MAGIC as ZIP_MAGIC
from ..roles import role_of
from ..stored_checkpoint import StoredCheckpoint
from ..tensors.elements import tensor_bytes
from ..tensors.joined import Piece, tiled
from ..tensors.strided import StridedTensor
from .distributed_metadata import Place, SavedObject, SavedTensor, read_metadata
from .pickled_torch import TensorRef
from .torch_storages import strided_tensor
from .torch_zip import TorchArchive

METADATA, ENDING = ".metadata", ".distcp"
MAX_FILES = 65_536
_PICKLE = b"\x80"
_MODULE = b"torch.distributed.checkpoint.metadata"
_HEAD_BYTES = 4096


def is_torch_distributed(path: Path, head: bytes) -> bool:
    """A folder with data files or with metadata that names torch's classes; or one of those files itself."""
    if path.name == METADATA:
        return head.startswith(_PICKLE) and _MODULE in _head(path)
    if path.name.endswith(ENDING):
        return head.startswith(ZIP_MAGIC)
    names = files_in(path)
    return any(name.endswith(ENDING) for name in names) or (METADATA in names and _MODULE in _head(path / METADATA))


def open_torch_distributed(path: Path) -> StoredCheckpoint:
    """`Corrupt`: the save did not finish, or metadata and files do not agree. `NotFound`: a rank's file is missing.
    `Refused`: the metadata names a file outside the folder."""
    if path.name.endswith(ENDING) and path.is_file():
        raise Unsupported(f"{path}: what one rank saved of a distributed checkpoint", hint=f"name its folder: {path.parent}")
    sources, files = distributed_sources(path.parent if path.name == METADATA else path)
    return StoredCheckpoint("pytorch distributed", sources, files)


def distributed_sources(folder: Path, *, prefix: str = "") -> tuple[list[TensorSource], list[MappedFile]]:
    """What was saved in `folder`, each name behind `prefix`, and the files that it is read from, the caller's to close. Errors
    as of `open_torch_distributed`."""
    metadata = _metadata(folder)
    files = _Files(folder)
    try:
        sources: list[TensorSource] = []
        for saved in read_metadata(metadata.bytes_at(0, metadata.size, "metadata"), str(metadata)):
            named = replace(saved, name=f"{prefix}{saved.name}")
            if isinstance(named, SavedTensor):
                sources.append(_tensor(named, files))
            else:
                sources += _object(named, files)
    except BaseException:
        for file in (metadata, *files.opened.values()):
            file.close()
        raise
    return sources, [metadata, *files.opened.values()]


class _Files:
    """The data files of a folder, each opened once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._real = folder, os.path.realpath(folder)
        self.opened: dict[str, MappedFile] = {}

    def window(self, place: Place, name: str) -> FileWindow:
        """Where `name`, or a piece of it, was saved."""
        file = self.opened.get(place.path)
        if file is None:
            path = self._inside(place.path, name)
            if len(self.opened) == MAX_FILES:
                raise Refused(f"{self.folder}: more than {MAX_FILES} files", hint="save with single_file_per_rank=True")
            file = self.opened[place.path] = MappedFile(path)
        return FileWindow(file, place.offset, place.nbytes, f"what was saved of {name}")

    def _inside(self, relative: str, name: str) -> Path:
        said = f"{self.folder}: {name} is said to be in {relative!r}"
        if "\\" in relative or not relative.isprintable() or {"", ".", ".."} & {*relative.split("/")}:
            raise Refused(f"{said}, which is no file of this folder")
        path = self.folder / relative
        if not Path(os.path.realpath(path)).is_relative_to(self._real):
            raise Refused(f"{said}, a link that leaves the folder")
        if not os.path.isfile(path):
            raise NotFound(f"{said}, which is missing or no file", hint="copy the files of every rank into the folder")
        return path


class _SavedPiece:
    """One piece of a tensor. Its archive is read when its elements are asked for first, and must hold what `info` says."""

    __slots__ = ("_found", "_window", "info")

    def __init__(self, info: TensorInfo, window: FileWindow) -> None:
        self.info, self._window = info, window
        self._found: StridedTensor | None = None

    def rows(self, start: int, stop: int) -> Array:
        return self._stored().rows(start, stop)

    def read(self) -> Array:
        return self._stored().read()

    def read_into(self, start: int, out: Array) -> None:
        self._stored().read_into(start, out)

    def blocks(self, limit_bytes: int) -> Iterator[Array]:
        return self._stored().blocks(limit_bytes)

    def _stored(self) -> StridedTensor:
        if self._found is None:
            archive = _archive(self._window, self.info.name)
            saved, where = archive.saved(), str(self._window)
            if not isinstance(saved, TensorRef):
                raise Corrupt(f"{where}: a {type(saved).__name__} where a piece of tensor {self.info.name} belongs")
            if saved.shape != self.info.shape or saved.dtype != self.info.dtype:
                stored, wanted = f"{saved.dtype}{list(saved.shape)}", f"{self.info.dtype}{list(self.info.shape)}"
                raise Corrupt(f"{where}: a piece of tensor {self.info.name} is {stored}, the metadata says {wanted}")
            self._found = strided_tensor(self.info.name, saved, archive.locate, where)
        return self._found


def _tensor(saved: SavedTensor, files: _Files) -> TensorSource:
    where = str(files.folder)
    what, role = f"{where}: tensor {saved.name}", role_of(saved.name, saved.shape, saved.dtype)

    def info_of(shape: tuple[int, ...]) -> TensorInfo:
        nbytes = tensor_bytes(shape, saved.dtype, what)
        return TensorInfo(name=saved.name, shape=shape, dtype=saved.dtype, role=role, nbytes=nbytes)

    pieces = (
        Piece(chunk.offsets, _SavedPiece(info_of(chunk.sizes), files.window(chunk.place, saved.name))) for chunk in saved.chunks
    )
    return tiled(info_of(saved.shape), pieces, where)


def _object(saved: SavedObject, files: _Files) -> list[TensorSource]:
    """The numbers and tensors in an object that is none itself; text and the like are passed over."""
    return _archive(files.window(saved.place, saved.name), saved.name).sources(saved.name, prefix=saved.name)


def _archive(window: FileWindow, name: str) -> TorchArchive:
    head = window.bytes_at(0, min(len(ZIP_MAGIC), window.size), f"what was saved of {name}")
    if head != ZIP_MAGIC:
        hint = "save it in torch's own format: SerializationFormat.TORCH_SAVE"
        raise Unsupported(f"{window}: what was saved of {name} is no archive of torch.save", hint=hint)
    return TorchArchive.of(window)


def _metadata(folder: Path) -> MappedFile:
    names = files_in(folder)
    if METADATA not in names:
        of_ranks = [name for name in names if name.startswith("__") and name.endswith(METADATA)]
        if of_ranks:
            hint = "save with use_collectives=True, which writes one .metadata"
            raise Unsupported(f"{folder}: every rank has metadata of its own ({of_ranks[0]}, …)", hint=hint)
        hint = "wait until it has, or take the checkpoint before"
        raise Corrupt(f"{folder}: {ENDING} files without {METADATA}, which is written last: the save did not finish", hint=hint)
    return MappedFile(folder / METADATA)


def _head(path: Path) -> bytes:
    file = MappedFile(path)
    try:
        return file.bytes_at(0, min(_HEAD_BYTES, file.size), "metadata")
    finally:
        file.close()
