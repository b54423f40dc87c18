"""The `.metadata` of PyTorch's distributed checkpoints: a pickle that says which tensors were saved, and where each piece is.

Metadata(state_dict_metadata: {fqn: TensorStorageMetadata | BytesStorageMetadata},
         storage_data: {MetadataIndex(fqn, offset, index): _StorageInfo(relative_path, offset, length, transform_descriptors)},
         planner_data, storage_meta, version)
TensorStorageMetadata(properties: TensorProperties, size, chunks: [ChunkStorageMetadata(offsets, sizes)])

Opens no other file: that the places it names exist, and are in the folder, is for whoever reads them to check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from penstock.pipeline.core.errors import Corrupt, Unsupported

from ..tensors.elements import LARGEST
from .pickle_machine import Constructor, Global, PickleMachine, Record, Value, records
from .pickled_torch import TENSOR_DTYPES, TORCH_GLOBALS, counts, no_text

_METADATA = "torch.distributed.checkpoint.metadata"
_SHARDED = "torch.distributed._shard.sharded_tensor.metadata"
_ALLOWED: Mapping[str, Constructor | None] = {
    **TORCH_GLOBALS,
    **records(
        _METADATA, "Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "BytesStorageMetadata",
        "ChunkStorageMetadata", "TensorProperties",
    ),
    **records("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    **records(_SHARDED, "TensorProperties"),
    **dict.fromkeys((f"{_METADATA}._MEM_FORMAT_ENCODING", f"{_SHARDED}.MEM_FORMAT_ENCODING"), no_text),
    **dict.fromkeys(
        (f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows", "PurePosix")),
        no_text,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """[offset, offset + nbytes) of a file that is named relative to the folder."""

    path: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedChunk:
    """The box of a tensor that begins at `offsets`; it is not empty."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[SavedChunk, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedObject:
    """Anything but a tensor, such as a number of steps."""

    name: str
    place: Place


Saved = SavedTensor | SavedObject


def read_metadata(data: bytes, where: str) -> list[Saved]:
    """What was saved, in the order of the metadata. `where` names the file; see `PickleMachine.run` for errors."""
    metadata = PickleMachine(where, _ALLOWED, _no_storage).run(data)
    state = _attributes(metadata, "Metadata", where)
    entries, storage = state.get("state_dict_metadata"), state.get("storage_data")
    if not isinstance(entries, dict) or not isinstance(storage, dict):
        raise Corrupt(f"{where}: no state_dict_metadata, or no storage_data")
    places = _places(storage, where)
    return [_saved(name, entry, places, where) for name, entry in entries.items()]


def _no_storage(identity: Value) -> NoReturn:
    raise ValueError("a persistent id where a plain value belongs")


_Index = tuple[str, tuple[int, ...] | None]


def _places(storage: dict[Value, Value], where: str) -> dict[_Index, Place]:
    places: dict[_Index, Place] = {}
    for index, info in storage.items():
        key = _attributes(index, "MetadataIndex", where)
        name, offsets = key.get("fqn"), key.get("offset")
        if not isinstance(name, str):
            raise Corrupt(f"{where}: an index of storage_data without a name")
        at = (name, None if offsets is None else _counts(offsets, f"{where}: {name}: its offset"))
        if at in places:
            raise Corrupt(f"{where}: {name}: two places for the piece at {_shown(at[1])}")
        places[at] = _place(info, name, where)
    _check_overlap(places.values(), where)
    return places


def _check_overlap(places: Iterable[Place], where: str) -> None:
    """A few bytes that many names share would be read as often as there are names."""
    path, end = "", 0
    for place in sorted(places, key=lambda each: (each.path, each.offset, each.nbytes)):
        end = end if place.path == path else 0
        if place.nbytes and place.offset < end:
            raise Corrupt(f"{where}: two pieces overlap in {place.path[:200]!r} at {place.offset}")
        path, end = place.path, max(end, place.offset + place.nbytes)


def _place(info: Value, name: str, where: str) -> Place:
    attributes = _attributes(info, "_StorageInfo", where)
    if transforms := attributes.get("transform_descriptors"):
        found = transforms if isinstance(transforms, list | tuple) else ()
        shown = ", ".join(each for each in found if isinstance(each, str)) or "an extension"
        hint = "save it without stream transforms, such as compression"
        raise Unsupported(f"{where}: {name} was written through {shown}", hint=hint)
    match (attributes.get("relative_path"), attributes.get("offset"), attributes.get("length")):
        case (str(path), int(offset), int(nbytes)) if 0 <= offset <= LARGEST and 0 <= nbytes <= LARGEST:
            return Place(path=path, offset=offset, nbytes=nbytes)
    raise Corrupt(f"{where}: {name}: its place is no path, offset and length")


def _saved(name: Value, entry: Value, places: Mapping[_Index, Place], where: str) -> Saved:
    if not isinstance(name, str):
        raise Corrupt(f"{where}: an entry whose name is no text")
    if isinstance(entry, Record) and entry.kind == "BytesStorageMetadata":
        return SavedObject(name=name, place=_found(places, (name, None), where))
    attributes = _attributes(entry, "TensorStorageMetadata", where)
    shape = _counts(attributes.get("size"), f"{where}: {name}: its size")
    chunks = attributes.get("chunks")
    if not isinstance(chunks, list):
        raise Corrupt(f"{where}: {name}: no list of chunks")
    found = []
    for chunk in chunks:
        box = _attributes(chunk, "ChunkStorageMetadata", where)
        offsets = _counts(box.get("offsets"), f"{where}: {name}: the offsets of a chunk")
        sizes = _counts(box.get("sizes"), f"{where}: {name}: the sizes of a chunk")
        if 0 not in sizes:
            found.append(SavedChunk(offsets=offsets, sizes=sizes, place=_found(places, (name, offsets), where)))
    dtype = _dtype(attributes.get("properties"), f"{where}: {name}")
    return SavedTensor(name=name, dtype=dtype, shape=shape, chunks=tuple(found))


def _dtype(properties: Value, what: str) -> str:
    """TensorProperties state: (dtype, layout, requires_grad, memory format, pin_memory)."""
    state = properties.state if isinstance(properties, Record) and properties.kind == "TensorProperties" else None
    match state:
        case (Global(name=name), *_) if name in TENSOR_DTYPES:
            return TENSOR_DTYPES[name]
    raise Corrupt(f"{what}: properties without a dtype")


def _found(places: Mapping[_Index, Place], index: _Index, where: str) -> Place:
    try:
        return places[index]
    except KeyError:
        raise Corrupt(f"{where}: {index[0]}: storage_data has no place for the piece at {_shown(index[1])}") from None


def _shown(offsets: tuple[int, ...] | None) -> str:
    return "no offset" if offsets is None else str(list(offsets))


def _attributes(value: Value, kind: str, where: str) -> Mapping[Value, Value]:
    if not isinstance(value, Record) or value.kind != kind or not isinstance(value.state, dict):
        found = value.kind if isinstance(value, Record) else type(value).__name__
        raise Corrupt(f"{where}: a {found} where a {kind} with attributes belongs")
    return value.state


def _counts(value: Value, what: str) -> tuple[int, ...]:
    try:
        return counts(value)
    except (ValueError, TypeError) as error:
        raise Corrupt(f"{what}: {error}") from None
