"""Writes what torch writes, without torch, from the opcodes of `torch_pickles`: archives in bytes, legacy files, and the folders
of distributed checkpoints with any grid of chunks."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch_pickles import call, instance, mapping, name, number, numbers, storage, tensor, text, tuple_of, write_archive

STORAGES = {
    "float32": "Float", "float64": "Double", "float16": "Half", "int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char",
    "uint8": "Byte", "bool": "Bool",
}  # fmt: skip
METADATA = "torch.distributed.checkpoint.metadata"


def saved_tensor(values: np.ndarray, key: str = "0") -> bytes:
    """A tensor in C order over a storage of its own."""
    strides = tuple(step // values.itemsize for step in np.empty(values.shape, values.dtype).strides)
    return tensor(storage(f"{STORAGES[values.dtype.name]}Storage", key, values.size), 0, values.shape, strides)


def archive(body: bytes, storages: Mapping[str, bytes] | None = None) -> bytes:
    """What torch.save gives."""
    out = io.BytesIO()
    write_archive(out, body, dict(storages or {}))
    return out.getvalue()


def tensor_archive(values: np.ndarray) -> bytes:
    return archive(saved_tensor(values), {"0": values.tobytes()})


def legacy_file(
    body: bytes,
    storages: Mapping[str, np.ndarray],
    *,
    magic: bytes = number(0x1950A86A20F9469CFC6C),
    protocol: bytes = number(1001),
    keys: Sequence[str] | None = None,
) -> bytes:
    """A file from before 1.6. `storages` are written in the order of the keys."""
    info = mapping({"protocol_version": number(1001), "little_endian": b"\x88"})
    listed = b"](" + b"".join(map(text, storages if keys is None else keys)) + b"e"
    pickles = b"".join(b"\x80\x02" + each + b"." for each in (magic, protocol, info, body, listed))
    counted = (values.size.to_bytes(8, "little") + values.tobytes() for values in storages.values())
    return pickles + b"".join(counted)


@dataclass
class DistributedFolder:
    """A distributed checkpoint in the making: pieces go to files in the order in which they come."""

    folder: Path
    entries: dict[str, bytes] = field(default_factory=dict)
    places: list[bytes] = field(default_factory=list)
    files: dict[str, bytearray] = field(default_factory=dict)

    def chunks(
        self, fqn: str, whole: np.ndarray, boxes: Iterable[tuple[tuple[int, ...], tuple[int, ...]]], ranks: int = 2
    ) -> None:
        """A tensor in boxes of (offsets, sizes), dealt to the files of the ranks in turn."""
        listed = list(boxes)
        for i, (offsets, sizes) in enumerate(listed):
            part = whole[tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))].copy()
            if part.size:
                self.piece(fqn, offsets, tensor_archive(part), f"__{i % ranks}_0.distcp")
        self.entries[fqn] = tensor_entry(whole.dtype.name, whole.shape, listed)

    def whole(self, fqn: str, values: np.ndarray) -> None:
        self.chunks(fqn, values, [((0,) * values.ndim, values.shape)])

    def object(self, fqn: str, body: bytes, storages: Mapping[str, bytes] | None = None) -> None:
        self.piece(fqn, None, archive(body, storages), "__0_0.distcp")
        self.entries[fqn] = name(METADATA, "BytesStorageMetadata") + b")\x81"

    def piece(self, fqn: str, offsets: tuple[int, ...] | None, data: bytes, path: str) -> None:
        file = self.files.setdefault(path, bytearray())
        self.places.append(index(fqn, offsets) + place(path, len(file), len(data)))
        file += data

    def write(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, data in self.files.items():
            (self.folder / path).write_bytes(data)
        (self.folder / ".metadata").write_bytes(self.metadata())
        return self.folder

    def metadata(self, **more: bytes) -> bytes:
        directory = call(name("pathlib", "PosixPath"), text("/"), text("tmp"))
        state = {
            "state_dict_metadata": mapping(self.entries),
            "planner_data": mapping({fqn: tuple_of(text(fqn)) for fqn in self.entries}),
            "storage_data": b"}(" + b"".join(self.places) + b"u",
            "storage_meta": instance(METADATA, "StorageMeta", mapping({"checkpoint_id": directory, "load_id": b"N"})),
            **more,
        }
        return b"\x80\x04" + instance(METADATA, "Metadata", mapping(state)) + b"."


def size(values: tuple[int, ...]) -> bytes:
    return call(name("torch", "Size"), numbers(values))


def index(fqn: str, offsets: tuple[int, ...] | None) -> bytes:
    state = {"fqn": text(fqn)} if offsets is None else {"fqn": text(fqn), "offset": size(offsets), "index": number(0)}
    return instance(METADATA, "MetadataIndex", mapping(state))


def place(path: str, offset: int, length: int, **more: bytes) -> bytes:
    state = {"relative_path": text(path), "offset": number(offset), "length": number(length), **more}
    return instance("torch.distributed.checkpoint.filesystem", "_StorageInfo", mapping(state))


def tensor_entry(dtype: str, shape: tuple[int, ...], boxes: Iterable[tuple[tuple[int, ...], tuple[int, ...]]]) -> bytes:
    layout = call(name("torch.serialization", "_get_layout"), text("torch.strided"))
    memory = call(name(METADATA, "_MEM_FORMAT_ENCODING"), number(0))
    properties = instance(METADATA, "TensorProperties", tuple_of(name("torch", dtype), layout, b"\x89", memory, b"\x89"))
    chunks = b"".join(
        instance(METADATA, "ChunkStorageMetadata", mapping({"offsets": size(offsets), "sizes": size(sizes)}))
        for offsets, sizes in boxes
    )
    state = {"properties": properties, "size": size(shape), "chunks": b"](" + chunks + b"e"}
    return instance(METADATA, "TensorStorageMetadata", mapping(state))
