"""Which reader a path is for, found by content and never by name. A new format is a module and a line in `FORMATS`."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from penstock.pipeline.core.errors import NotFound, Refused, Unreachable, Unsupported

from ..sidecar import is_sidecar
from .checkpoint import Checkpoint
from .dumps.dynamicemb_dumps import is_dynamicemb, open_dynamicemb
from .dumps.hugectr_dumps import is_hugectr, open_hugectr
from .dumps.sok_dumps import is_sok, open_sok
from .dumps.tfra_files import is_tfra, open_tfra
from .dumps.torcheasyrec_delta import is_torcheasyrec_delta, open_torcheasyrec_delta
from .files.mapped_file import MAX_HEADER_BYTES, MappedFile
from .files.zip_archive import MAGIC as ZIP_MAGIC
from .files.zip_archive import Member, read_directory
from .hdf5.keras_hdf5 import is_hdf5, is_keras_zip, open_hdf5, open_keras_zip
from .numpy_files import MAGIC as NPY_MAGIC
from .numpy_files import open_npy, open_npz
from .onnx.onnx_files import is_onnx, open_onnx
from .safetensors_files import INDEX_ENDING, open_safetensors, open_safetensors_set
from .tensorflow.tensorflow_bundle import is_data_file
from .tensorflow.tensorflow_folders import by_prefix, is_tensorflow, open_tensorflow
from .torch.torch_distributed import is_torch_distributed, open_torch_distributed
from .torch.torch_legacy import is_torch_legacy, is_torch_tar, open_torch_legacy, refuse_torch_tar
from .torch.torch_zip import open_torch_zip, top_folder
from .torch.torcheasyrec_folder import is_torcheasyrec, open_torcheasyrec
from .words.text_tables import is_text_table, open_text_table
from .words.word2vec_files import is_word2vec_binary, open_word2vec_binary

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
    path = by_prefix(path)
    format_of = recognised(path)
    if format_of is not None:
        return format_of.open(path)
    if not path.is_dir():
        raise Unsupported(f"{path}: no checkpoint of a known format ({', '.join(each.name for each in FORMATS)})")
    found = [(each, form) for each in candidates_in(path) if (form := recognised(each)) is not None]
    if len(found) > 1:
        names = ", ".join(each.name for each, _ in found[:3])
        raise Refused(f"{path}: a folder of {len(found)} checkpoints ({names}, …)", hint="name the one that is meant")
    if not found:
        raise Unsupported(f"{path}: a folder without a checkpoint of a known format")
    return found[0][1].open(found[0][0])


def candidates_in(folder: Path) -> list[Path]:
    """The files of a folder that could be checkpoints; what belongs to one is none."""
    return [each for each in _files_in(folder) if not is_sidecar(each) and not is_data_file(each) and each.name[0] != "."]


def recognised(path: Path) -> Format | None:
    """The format of what is at `path`, which for a folder means the folder itself; None for no known one. Errors as of
    `open_checkpoint`."""
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


def _is_keras_zip(path: Path, head: bytes) -> bool:
    return head.startswith(ZIP_MAGIC) and is_keras_zip(dict(_zip_members(path)))


def _is_npz(path: Path, head: bytes) -> bool:
    return head.startswith(ZIP_MAGIC) and any(name.endswith(".npy") for name, _ in _zip_members(path))


def _is_npy(path: Path, head: bytes) -> bool:
    return head.startswith(NPY_MAGIC)


def _is_safetensors(path: Path, head: bytes) -> bool:
    # A raw file may have a brace there by chance: then its first bytes are hardly the length of a header as well.
    return head[8:9] == b"{" and (int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES or head[9:10] == b'"')


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
    Format(name="tensorflow", recognises=is_tensorflow, open=open_tensorflow),
    Format(name="tfra", recognises=is_tfra, open=open_tfra),
    Format(name="torcheasyrec", recognises=is_torcheasyrec, open=open_torcheasyrec),
    Format(name="dynamicemb", recognises=is_dynamicemb, open=open_dynamicemb),
    Format(name="hugectr", recognises=is_hugectr, open=open_hugectr),
    Format(name="sok", recognises=is_sok, open=open_sok),
    Format(name="torcheasyrec delta", recognises=is_torcheasyrec_delta, open=open_torcheasyrec_delta),
    Format(name="pytorch distributed", recognises=is_torch_distributed, open=open_torch_distributed),
    Format(name="keras", recognises=_is_keras_zip, open=open_keras_zip),
    Format(name="pytorch legacy", recognises=is_torch_legacy, open=open_torch_legacy),
    Format(name="pytorch tar", recognises=is_torch_tar, open=refuse_torch_tar),
    Format(name="pytorch", recognises=_is_torch_zip, open=open_torch_zip),
    Format(name="npz", recognises=_is_npz, open=open_npz),
    Format(name="npy", recognises=_is_npy, open=open_npy),
    Format(name="hdf5", recognises=is_hdf5, open=open_hdf5),
    Format(name="safetensors", recognises=_is_safetensors, open=open_safetensors),
    Format(name="onnx", recognises=is_onnx, open=open_onnx),
    Format(name="text table", recognises=is_text_table, open=open_text_table),
    Format(name="word2vec", recognises=is_word2vec_binary, open=open_word2vec_binary),
)
