"""The keys of a table's rows, kept beside its tensor: a list in the order of the rows, or a map from key to row.

    words.txt        a key a line                       ids.npz#customer   a tensor of another file, integers or texts
    words.json       a list, or a map from key to row   vocabulary         a 1-D tensor of the checkpoint itself

Rows that a map does not name have no key, as padding has none: they are left out, and counted in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import pyarrow as pa

from penstock.pipeline.core.errors import Corrupt, NotFound, Refused
from penstock.slicer.readers import Checkpoint, TensorInfo, open_checkpoint
from penstock.slicer.row_source import Keys

from .table_keys import KeySource, KeyType, ListedKeys, check_numbers, keys_in, keys_of_texts
from .table_rows import Selected, Values

log = logging.getLogger(__name__)
NEWLINE = 10
Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


@dataclass(frozen=True, slots=True)
class Listing:
    """Keys, numbers or texts, and the row of each (int64[n]); None where they are in the order of the rows."""

    keys: Keys | pa.LargeBinaryArray
    rows: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None


def with_vocabulary(
    checkpoint: Checkpoint, folders: Sequence[Path], values: Values, vocabulary: str, key_type: KeyType | None, table: str
) -> tuple[Values, KeySource]:
    """The rows that have a key, and their keys. A file is looked for in `folders`, in turn.

    `NotFound`: neither a tensor nor a file of that name. `Refused`: a key without a row, a row with two keys, or another number
    of keys than of rows."""
    inside = {info.name: info for info in checkpoint.tensors}
    if vocabulary in inside:
        found: KeySource = keys_in(checkpoint, [inside[vocabulary]], key_type, table, vocabulary)
        _check_count(found.rows, values, table, vocabulary)
        return values, found
    listing = read_listing(folders, vocabulary)
    if listing.rows is None:
        _check_count(len(listing.keys), values, table, vocabulary)
        return values, _listed(listing.keys, key_type, table, vocabulary)
    order = np.argsort(listing.rows)
    rows = listing.rows[order]
    outside = np.flatnonzero((rows < 0) | (rows >= values.rows))
    if len(outside):
        raise Refused(f"{vocabulary}: a key is at row {rows[outside[0]]}, table {table} has {values.rows} rows")
    twice = np.flatnonzero(rows[1:] == rows[:-1])
    if len(twice):
        raise Refused(f"{vocabulary}: two keys are at row {rows[twice[0]]} of table {table}")
    keys = listing.keys.take(pa.array(order)) if isinstance(listing.keys, pa.Array) else listing.keys[order]
    if len(rows) == values.rows:
        return values, _listed(keys, key_type, table, vocabulary)
    log.warning("table %s: %d rows have no key in %s, and are left out", table, values.rows - len(rows), vocabulary)
    return Selected(values, rows), _listed(keys, key_type, table, vocabulary)


def read_listing(folders: Sequence[Path], vocabulary: str) -> Listing:
    """A file of keys, `NAME` or `NAME#TENSOR`. It is held in memory as a whole."""
    name, _, tensor = vocabulary.partition("#")
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        places = " or ".join(map(str, folders))
        raise NotFound(f"no tensor {name!r}, and no such file in {places}, which the config names as a vocabulary")
    if tensor:
        return Listing(_tensor(path, tensor))
    if path.suffix in {".npy", ".npz"}:
        return Listing(_tensor(path, None))
    if path.suffix == ".json":
        return _json(path)
    return Listing(lines(path.read_bytes()))


def lines(data: bytes) -> pa.LargeBinaryArray:
    r"""The lines of a text, without their ends ("\n" or "\r\n"); an empty last one counts as none."""
    values = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(values == NEWLINE)
    if len(values) and values[-1] != NEWLINE:
        ends = np.append(ends, len(values))
    kept = values != NEWLINE
    if len(ends):
        before = ends - 1
        kept[before[(before >= 0) & (values[before] == ord("\r"))]] = False
    counted = np.append(0, np.cumsum(kept))
    offsets = np.append(0, counted[np.minimum(ends, len(values))])
    buffers = [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(values[kept].tobytes())]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(ends), buffers)


def _json(path: Path) -> Listing:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, Integer] | list[Integer | str])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Corrupt(f"{path}: neither a list of keys nor a map from key to row: {error}") from None
    if isinstance(found, Mapping):
        return Listing(_texts(list(found)), np.fromiter(found.values(), np.int64, len(found)))
    if all(isinstance(each, int) for each in found):
        return Listing(np.array(found, np.int64))
    if all(isinstance(each, str) for each in found):
        return Listing(_texts(found))
    raise Corrupt(f"{path}: a list of both numbers and texts")


def _texts(found: list[str] | list[int | str]) -> pa.LargeBinaryArray:
    return pa.array(found, pa.large_string()).cast(pa.large_binary())


def _tensor(path: Path, name: str | None) -> Keys | pa.LargeBinaryArray:
    with open_checkpoint(path) as opened:
        if name is None and len(opened.tensors) != 1:
            hint = f'name one, as in "{path.name}#{opened.tensors[0].name}"' if opened.tensors else ""
            raise Refused(f"{path} has {len(opened.tensors)} tensors, a vocabulary is one", hint=hint)
        info: TensorInfo = opened.tensors[0] if name is None else opened.info(name)
        found = keys_in(opened, [info], None, info.name, str(path))
        names = found.names(0, found.rows)
        return found.keys(0, found.rows) if names is None else names


def _listed(keys: Keys | pa.LargeBinaryArray, key_type: KeyType | None, table: str, where: str) -> ListedKeys:
    if isinstance(keys, np.ndarray):
        check_numbers(key_type, table, where)
        return ListedKeys(keys)
    taken_as = key_type or "string"
    return ListedKeys(keys_of_texts(keys, taken_as, table), keys if taken_as == "string" else None)


def _check_count(count: int, values: Values, table: str, where: str) -> None:
    if count != values.rows:
        raise Refused(
            f"{where} has {count} keys, table {table} has {values.rows} rows",
            hint="a .json map from key to row may leave rows out, such as padding",
        )
