"""Weights that Keras saved as HDF5, and HDF5 of anybody else: every dataset under the path that leads to it.

    weights, Keras 1 and 2        /<layer>/<weight>, attributes `layer_names` of the root and `weight_names` of each layer
    a whole model, Keras 1 and 2  the same in /model_weights, and /optimizer_weights with `weight_names`
    weights, Keras 3              /layers/<layer>/vars/<n>, /optimizer/vars/<n>
    a whole model, Keras 3        a zip that holds those as `model.weights.h5`, stored

A tensor of /model_weights is called as if the weights had been saved alone. The lists of names, where they are texts of one
length (before h5py 3), give the order, and what they name has to be there. What is stored in one piece is mapped; chunks are
read as they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from penstock.pipeline.core.errors import Corrupt, Unsupported

from ..checkpoint import Role, TensorInfo, TensorSource, TextSource
from ..files.mapped_file import MappedFile
from ..files.zip_archive import STORED, Member, read_directory
from ..roles import role_of
from ..stored_checkpoint import StoredCheckpoint
from ..tensors.held import HeldTensor
from ..tensors.listed_texts import ListedTexts
from ..tensors.strided import StridedTensor
from ..tensors.unreadable import UnreadableTensor
from .hdf5_chunks import ChunkedTensor, RecentChunks
from .hdf5_dataset import Chunked, Contiguous, Dataset, Held, Region, Texts, Unreadable
from .hdf5_heaps import HeapTexts
from .hdf5_structure import MAGIC, Structure, read_structure

MEMBER = "model.weights.h5"
_MODEL = "model_weights/"
_OPTIMIZER = ("optimizer_weights/", "optimizer/")
_FIRST_USER_BLOCK = 512


def open_hdf5(path: Path) -> StoredCheckpoint:
    file = MappedFile(path)
    try:
        return StoredCheckpoint("hdf5", _sources(Region(file, 0, file.size)), [file])
    except BaseException:
        file.close()
        raise


def open_keras_zip(path: Path) -> StoredCheckpoint:
    """`Unsupported` when the weights were compressed: their rows could not be reached but from the beginning."""
    file = MappedFile(path)
    try:
        member = read_directory(file).get(MEMBER)
        if member is None:
            raise Corrupt(f"{file}: no zip member {MEMBER}")
        if member.method != STORED:
            hint = f"save it with Keras, which does not compress, or unpack {MEMBER} and name that"
            raise Unsupported(f"{file}: zip member {MEMBER} is compressed", hint=hint)
        return StoredCheckpoint("keras", _sources(Region(file, member.offset, member.nbytes)), [file])
    except BaseException:
        file.close()
        raise


def is_keras_zip(members: Mapping[str, Member]) -> bool:
    return {"config.json", MEMBER} <= members.keys()


def is_hdf5(path: Path, head: bytes) -> bool:
    """The signature is at 0, or behind a user block of 512, 1024, 2048, … bytes."""
    if head.startswith(MAGIC) or not head:
        return bool(head)
    file = MappedFile(path)
    try:
        at = _FIRST_USER_BLOCK
        while at + len(MAGIC) <= file.size:
            if file.bytes_at(at, len(MAGIC), "HDF5 signature") == MAGIC:
                return True
            at *= 2
        return False
    finally:
        file.close()


def _sources(region: Region) -> list[TensorSource | TextSource]:
    structure = read_structure(region)
    order = _order(structure, f"{region}")
    recent = RecentChunks()
    datasets = sorted(structure.datasets, key=lambda each: order.get(each.path, len(order)))
    return [_source(region, each, recent) for each in datasets]


def _order(structure: Structure, where: str) -> dict[str, int]:
    """The paths of the weights that Keras wrote down, numbered in its order; `Corrupt` when one is not there."""
    layers = [_joined(group, name) for group, names in structure.layers.items() for name in names]
    for layer in layers:
        if layer not in structure.weights:
            raise Corrupt(f"{where}: layer {layer!r} is in layer_names, and has no weight_names")
    groups = dict.fromkeys((*layers, *structure.weights))
    paths = [_joined(group, name) for group in groups for name in structure.weights[group]]
    missing = set(paths) - {each.path for each in structure.datasets}
    if missing:
        raise Corrupt(f"{where}: {min(missing)!r} is in weight_names, and there is no such dataset")
    return {path: index for index, path in enumerate(paths)}


def _joined(group: str, name: str) -> str:
    return f"{group}/{name}" if group else name


def _source(region: Region, dataset: Dataset, recent: RecentChunks) -> TensorSource | TextSource:
    name, layout = dataset.path.removeprefix(_MODEL), dataset.layout
    role: Role = "other"
    if dataset.path.startswith(_OPTIMIZER):
        role = "optimizer"
    elif not isinstance(layout, Unreadable):
        role = role_of(name, dataset.shape, dataset.dtype)
    info = TensorInfo(name=name, shape=dataset.shape, dtype=dataset.dtype, role=role, nbytes=dataset.nbytes)
    match layout:
        case Contiguous():
            return StridedTensor(info, region.file, layout.offset, None, dataset.big_endian)
        case Chunked():
            return ChunkedTensor(info, region.file, layout, dataset.big_endian, recent)
        case Held():
            return HeldTensor(info, layout.values)
        case Texts():
            return ListedTexts(info, layout.references["length"], HeapTexts(region, dataset.path, layout).fetch)
        case Unreadable():
            return UnreadableTensor(info, layout.reason)
