"""Writes what HugeCTR, SparseOperationKit, TFRA and dynamicemb dump: raw files of keys and rows, in as many parts as asked."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Part:
    """What one rank, or one device of it, holds of a table."""

    keys: NDArray[np.int64]
    rows: NDArray[Any]
    scores: NDArray[np.uint64] | None = None
    optimizer: NDArray[np.float32] | None = None


def parts_of(keys: NDArray[np.int64], rows: NDArray[Any], cuts: Sequence[int]) -> list[Part]:
    """The table, cut before these rows."""
    return [Part(*each) for each in zip(np.split(keys, cuts), np.split(rows, cuts), strict=True)]


def write_table_folder(folder: Path, part: Part, *, slots: NDArray[np.uint64] | None = None) -> None:
    """HugeCTR's folder of one table."""
    folder.mkdir(parents=True, exist_ok=True)
    part.keys.astype("<i8").tofile(folder / "key")
    part.rows.astype("<f4").tofile(folder / "emb_vector")
    if slots is not None:
        slots.astype("<u8").tofile(folder / "slot_id")


def write_collection(folder: Path, tables: dict[int, Part], *, key_type: int = 1, value_type: int = 0) -> None:
    """HugeCTR's embedding collection; key types {0: uint32, 1: int64}, value types {0: float32, 1: float16}."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(tables)
    sizes = [len(part.keys) for part in tables.values()]
    widths = [part.rows.shape[1] for part in tables.values()]
    head = struct.pack("<5i", count, key_type, value_type, 0, 0)
    (folder / "meta_data").write_bytes(head + struct.pack(f"<{count}i{count}Q{count}i", *tables, *sizes, *widths))
    for table, part in tables.items():
        keys = part.keys.astype(("<u4", "<i8")[key_type]).tobytes()
        rows = part.rows.astype(("<f4", "<f2")[value_type]).tobytes()
        (folder / f"key{table}").write_bytes(struct.pack("<2i120x", 1, table) + keys)
        (folder / f"weight{table}").write_bytes(struct.pack("<2i120x", 2, table) + rows)


SOK_TYPES = {"int32": 0, "int64": 1, "uint32": 2, "uint64": 3, "float16": 4, "float32": 5, "float64": 6}


def sok_file(values: NDArray[Any], *, kind: int, slot: str = "", name: str = "") -> bytes:
    """A file of `sok.dump`; kinds {0: keys, 1: rows, 2: slot}."""
    head = struct.pack(">256sI32sI", name.rjust(256).encode(), kind, slot.rjust(32).encode(), SOK_TYPES[values.dtype.name])
    return head + values.astype(values.dtype.newbyteorder("<")).tobytes()


def write_sok(folder: Path, variable: str, keys: NDArray[Any], rows: NDArray[Any], **slots: NDArray[Any]) -> None:
    """What `sok.dump` writes of a variable; `slots` are those of Adam."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{variable}-key").write_bytes(sok_file(keys, kind=0))
    (folder / f"{variable}-weight").write_bytes(sok_file(rows, kind=1))
    for slot, values in slots.items():
        (folder / f"{variable}-Adam-{slot}").write_bytes(sok_file(values, kind=2, slot=slot))


def write_tfra(folder: Path, table: str, ranks: Sequence[Sequence[Part]]) -> None:
    """TFRA's files: for each rank the parts of its devices."""
    folder.mkdir(parents=True, exist_ok=True)
    for rank, parts in enumerate(ranks):
        for at, part in enumerate(parts):
            name = f"{table}_mht_{at + 1}of{len(parts)}_rank{rank}_size{len(ranks)}"
            part.keys.astype("<i8").tofile(folder / f"{name}-keys")
            part.rows.astype("<f4").tofile(folder / f"{name}-values")
            if part.scores is not None:
                part.scores.astype("<u8").tofile(folder / f"{name}-scores")


def write_dynamicemb(folder: Path, table: str, parts: Sequence[Part], *, optimizer: str = "opt_values") -> None:
    """dynamicemb's files of each rank; `optimizer`: what the column of the optimizer's state is called."""
    folder.mkdir(parents=True, exist_ok=True)
    for rank, part in enumerate(parts):
        ending = f"rank_{rank}.world_size_{len(parts)}"
        part.keys.astype("<i8").tofile(folder / f"{table}_emb_keys.{ending}")
        part.rows.astype("<f4").tofile(folder / f"{table}_emb_values.{ending}")
        if part.scores is not None:
            part.scores.astype("<u8").tofile(folder / f"{table}_emb_scores.{ending}")
        if part.optimizer is not None:
            part.optimizer.astype("<f4").tofile(folder / f"{table}_{optimizer}.{ending}")
