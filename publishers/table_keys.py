"""Keys of a table as a checkpoint has them: numbers, texts that are numbers, or texts that are hashed and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa

from penstock.pipeline.core.errors import Refused
from penstock.pipeline.core.text_keys import hash_texts
from penstock.slicer.readers import Checkpoint, TensorInfo
from penstock.slicer.readers.tensors.elements import is_text
from penstock.slicer.row_source import Keys

KeyType = Literal["int64", "string"]


class KeySource(Protocol):
    """The keys of rows [start, stop): int64[n]; and the texts that they are hashes of, None where keys are numbers."""

    @property
    def rows(self) -> int: ...

    def keys(self, start: int, stop: int) -> Keys: ...

    def names(self, start: int, stop: int) -> pa.LargeBinaryArray | None: ...


@dataclass(frozen=True, slots=True)
class NumberKeys:
    """Keys in 1-D tensors of integers, one after the other. Those of 64 bits without a sign keep their bits."""

    checkpoint: Checkpoint
    infos: Sequence[TensorInfo]

    @property
    def rows(self) -> int:
        return sum(info.shape[0] for info in self.infos)

    def keys(self, start: int, stop: int) -> Keys:
        found = [
            self.checkpoint.rows(name, low, high).astype(np.int64, copy=False)
            for name, low, high in pieces(self.infos, start, stop)
        ]
        return np.ascontiguousarray(found[0] if len(found) == 1 else np.concatenate([np.empty(0, np.int64), *found]))

    def names(self, start: int, stop: int) -> None:
        return None


@dataclass(frozen=True, slots=True)
class TextKeys:
    """Keys in 1-D tensors of texts, one after the other."""

    checkpoint: Checkpoint
    infos: Sequence[TensorInfo]
    taken_as: KeyType
    table: str

    @property
    def rows(self) -> int:
        return sum(info.shape[0] for info in self.infos)

    def keys(self, start: int, stop: int) -> Keys:
        return keys_of_texts(self._texts(start, stop), self.taken_as, self.table)

    def names(self, start: int, stop: int) -> pa.LargeBinaryArray | None:
        return self._texts(start, stop) if self.taken_as == "string" else None

    def _texts(self, start: int, stop: int) -> pa.LargeBinaryArray:
        found = [self.checkpoint.texts(name, low, high) for name, low, high in pieces(self.infos, start, stop)]
        return found[0] if len(found) == 1 else pa.concat_arrays([pa.array([], pa.large_binary()), *found])


@dataclass(frozen=True, slots=True)
class ListedKeys:
    """Keys in memory."""

    values: Keys
    texts: pa.LargeBinaryArray | None = None

    @property
    def rows(self) -> int:
        return len(self.values)

    def keys(self, start: int, stop: int) -> Keys:
        return self.values[start:stop]

    def names(self, start: int, stop: int) -> pa.LargeBinaryArray | None:
        return None if self.texts is None else self.texts.slice(start, stop - start)


def keys_in(
    checkpoint: Checkpoint, infos: Sequence[TensorInfo], key_type: KeyType | None, table: str, where: str
) -> NumberKeys | TextKeys:
    """The keys of a table in these tensors. `Refused` names one that holds neither integers nor texts in one dimension."""
    texts = [is_text(info.dtype) for info in infos]
    for info, text in zip(infos, texts, strict=True):
        if len(info.shape) != 1 or not (text or info.dtype.startswith(("int", "uint"))) or text != texts[0]:
            raise Refused(
                f"{where}: keys {info.name} of table {table} are {info.dtype}{list(info.shape)}; "
                "keys are integers or texts in one dimension"
            )
    if texts[0]:
        return TextKeys(checkpoint, infos, key_type or "string", table)
    check_numbers(key_type, table, where)
    return NumberKeys(checkpoint, infos)


def check_numbers(key_type: KeyType | None, table: str, where: str) -> None:
    if key_type == "string":
        raise Refused(f"{where}: the keys of table {table} are numbers, and its key_type says that they are strings")


def keys_of_texts(texts: pa.LargeBinaryArray, taken_as: KeyType, table: str) -> Keys:
    """int64[n]; `Refused` names a text that should be a number and is none."""
    if taken_as == "string":
        return hash_texts(texts)
    try:
        found: Keys = texts.cast(pa.large_string()).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise Refused(
            f"table {table}: a key is no integer of 64 bits: {error}", hint='key_type = "string" hashes texts, and keeps them'
        ) from None
    return found


def pieces(infos: Sequence[TensorInfo], start: int, stop: int) -> list[tuple[str, int, int]]:
    """Which rows of which tensors rows [start, stop) of all of them are."""
    found, at = [], 0
    for info in infos:
        low, high = max(start - at, 0), min(stop - at, info.shape[0])
        if low < high:
            found.append((info.name, low, high))
        at += info.shape[0]
    return found
