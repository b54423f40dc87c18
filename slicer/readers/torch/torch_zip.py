"""PyTorch's zip format (since 1.6): `<top>/data.pkl`, which describes, and `<top>/data/<key>`, raw storages that are mapped.

    <top>/data.pkl      the saved value, storages by persistent id      <top>/data/<key>   the elements of one storage
    <top>/byteorder     "little" or "big"; little without it            others             versions and ids, not needed

The checksums of the small members are verified; those of storages are not, since storages are mapped and read by range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from penstock.pipeline.core.errors import Corrupt, Unsupported

from ..checkpoint import TensorSource
from ..files.mapped_file import MappedFile
from ..files.zip_archive import STORED, Member, read_directory, read_member
from ..stored_checkpoint import StoredCheckpoint
from ..tensors.elements import element_bytes
from .pickle_machine import Value
from .pickled_torch import StorageRef, leaves, read_torch_pickle
from .torch_storages import StoragePlace, source_of

PICKLE = "data.pkl"


def open_torch_zip(path: Path) -> StoredCheckpoint:
    """Tensors under the dotted paths that lead to them, as in "model.embeddings.customer.weight"; numbers as scalars."""
    file = MappedFile(path)
    try:
        return StoredCheckpoint("pytorch", TorchArchive.of(file).sources(path.stem), [file])
    except BaseException:
        file.close()
        raise


def top_folder(members: Mapping[str, Member]) -> str | None:
    """The folder that `data.pkl` is in; None when this is no archive of torch."""
    found = [name for name in members if name.count("/") == 1 and name.endswith(f"/{PICKLE}")]
    return found[0].partition("/")[0] if len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class TorchArchive:
    """What one `torch.save` wrote, in a file of its own or in a window of one."""

    file: MappedFile
    members: Mapping[str, Member]
    top: str
    big_endian: bool

    @classmethod
    def of(cls, file: MappedFile) -> TorchArchive:
        members = read_directory(file)
        top = top_folder(members)
        if top is None:
            raise Corrupt(f"{file}: no {PICKLE} in one folder of the zip")
        order = members.get(f"{top}/byteorder")
        text = read_member(file, order) if order else b"little"
        if text not in {b"little", b"big"}:
            raise Corrupt(f"{file}: byte order {text[:20]!r}")
        return cls(file, members, top, text == b"big")

    def saved(self) -> Value:
        """The value that was saved, as `read_torch_pickle` gives it."""
        return read_torch_pickle(read_member(self.file, self._member(PICKLE)), str(self.file))

    def sources(self, name: str, *, prefix: str = "") -> list[TensorSource]:
        """Every tensor and number in the value, its path behind `prefix`; `name` is that of a value which is one itself."""
        where, before = str(self.file), f"{prefix}." if prefix else ""
        found = leaves(self.saved(), where)
        return [source_of(f"{before}{path}" if path else name, leaf, self.locate, where) for path, leaf in found]

    def locate(self, storage: StorageRef, what: str) -> StoragePlace:
        member = self._member(f"data/{storage.key}")
        if member.method != STORED:
            raise Unsupported(f"{what}: its storage is compressed", hint="save it with torch.save, and do not zip it again")
        if member.nbytes != storage.count * element_bytes(storage.dtype):
            raise Corrupt(f"{what}: storage {storage.key} has {member.nbytes} bytes, not {storage.count} of {storage.dtype}")
        return StoragePlace(self.file, member.offset, member.nbytes, self.big_endian)

    def _member(self, name: str) -> Member:
        try:
            return self.members[f"{self.top}/{name}"]
        except KeyError:
            raise Corrupt(f"{self.file}: no zip member {self.top}/{name}") from None
