"""What is durable, computed by brute force: the rows of a version, and what the log has delivered since.

It reads the memory store and the log directly, takes no turn, and uses of the product only what decodes bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from penstock.pipeline.catalog.catalog import Catalog
from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.core.history import table_layers
from penstock.pipeline.core.manifest import DenseInfo, Manifest
from penstock.pipeline.core.records import Record, RecordKind, decode_record
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.slicer.dense import read_dense
from penstock.slicer.layers import Layers
from penstock.slicer.run_layout import TableLayout

from .broker import Broker

MODEL, TABLES = "m", ("a", "b")
EPOCH, SECOND = 1_700_000_000_000_000, 1_000_000
Key = tuple[str, int]
Row = tuple[float, ...]
"""The number of the newest event behind it, a number that no other row has, and zeros."""
Rows = dict[Key, Row]


class Violated(BaseException):
    """An invariant does not hold. Not an Exception, so that no handler of the product hides it."""


def ensure(holds: object, what: str) -> None:
    if not holds:
        raise Violated(what)


def event(number: int) -> int:
    """Event `number` happened then."""
    return EPOCH + number * SECOND


def number_of(moment: int) -> float:
    """The newest event at or before `moment`."""
    return (moment - EPOCH) // SECOND


def rows_in(table: str, keys: Any, rows: Any) -> Rows:
    values = np.ascontiguousarray(rows).view("<f4").reshape(len(keys), -1).tolist() if len(keys) else []
    return {(table, key): tuple(row) for key, row in zip(keys.tolist(), values, strict=True)}


def difference(found: Mapping[Key, Row], expected: Mapping[Key, Row]) -> str:
    keys = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    return ", ".join(f"{key} is {found.get(key)}, should be {expected.get(key)}" for key in keys)


@dataclass
class Delivered:
    """Rows by generation, and the newest dense slice that was announced in every partition, if any was."""

    rows: Rows
    announced: dict[tuple[Any, ...], dict[int, tuple[int, str]]] = field(default_factory=dict)
    """Offset and path of an announcement by partition."""
    partitions: int = 0

    @property
    def dense(self) -> str | None:
        whole = [found for found in self.announced.values() if len(found) == self.partitions]
        return max(whole, key=lambda found: found[0][0])[0][1] if whole else None


class States:
    def __init__(self, store: MemoryStore, log: Broker) -> None:
        self.store, self.log = store, log
        self.catalog = Catalog(store, MODEL)

    def rows(self, version: Manifest) -> Rows:
        """What a newcomer loads, by generation."""
        schema, found = self.catalog.reload_schema(), Rows()
        chain = self.catalog.history().chain(version.version)
        for table in schema.tables:
            with Layers.open(self.store, TableLayout.of(schema, table), table_layers(chain, table)) as layers:
                for keys, rows in layers.merged():
                    found |= rows_in(table, keys, rows)
        return found

    def read(self, version: Manifest, rows: Mapping[Key, Row]) -> Rows:
        """Of rows by generation those that readers of a version see, by table."""
        tables = {
            version.generation(table): table for table in self.catalog.reload_schema().names() if table not in version.retired
        }
        return {(tables[name], key): row for (name, key), row in rows.items() if name in tables}

    def dims(self, version: Manifest) -> dict[str, int]:
        """Of the tables that readers of a version see."""
        schema = self.catalog.reload_schema()
        return {t: schema.tables[version.generation(t)].dim for t in schema.names() if t not in version.retired}

    def dense(self, info: DenseInfo | None) -> Row | None:
        return None if info is None else tuple(read_dense(self.store, info)["w"].tolist())

    def delivered(self, base: Manifest, ends: Iterable[int], *, until: int) -> Delivered:
        """The rows of `base`, and what the log delivered from there up to `ends`, on the path that led to timeline `until`."""
        found = Delivered(self.rows(base), partitions=self.log.partitions)
        passed = [m for m in self.catalog.history().trunk if m.rollback is not None and m.timeline <= until]
        for p, end in enumerate(ends):
            for offset, record, dead in self._taken(base, p, end, passed):
                if record.kind == RecordKind.ROWS and not any(taken.covers(record.table) for taken in dead):
                    found.rows |= rows_in(record.table, record.put_keys, record.rows)
                    for key in record.tombstones.tolist():
                        found.rows.pop((record.table, key), None)
                elif record.kind == RecordKind.DENSE:
                    told = msgspec.json.decode(record.text)
                    name = record.timeline, record.publisher, record.term, told["number"]
                    found.announced.setdefault(name, {})[p] = offset, told["path"]
        return found

    def _taken(self, base: Manifest, p: int, end: int, passed: list[Manifest]) -> Iterator[tuple[int, Record, list[Any]]]:
        """The records of one partition that readers take, each with the rollbacks of tables in whose dead range it lies."""
        position = base.positions.partitions[p]
        timeline, readers, offset = base.timeline, dict(position.readers), int(position.offset)
        while offset < end:
            ahead = [m for m in passed if m.timeline > timeline]
            jump = next((m for m in ahead if m.rollback.tables is None and m.rollback.cut[p] <= offset), None)
            if jump is not None:
                timeline, readers, offset = jump.timeline, {}, max(offset, jump.rollback.fence[p] + 1)
                continue
            dead = [m.rollback for m in ahead if m.rollback.cut[p] <= offset < m.rollback.fence[p]]
            record, at = self._record(p, offset), offset
            offset += 1
            reached = [m.timeline for m in ahead if m.rollback.fence[p] == at]
            timeline, readers = max([timeline, *reached]), {} if reached else readers
            if record is None or record.kind == RecordKind.FENCE or record.timeline != timeline:
                continue
            if (record.term, record.seq) <= tuple(readers.get(record.publisher, (0, 0))):
                continue
            readers[record.publisher] = (record.term, record.seq)
            yield at, record, dead

    def _record(self, partition: int, offset: int) -> Record | None:
        """None for one that was decided to be passed over."""
        if (partition, offset) in self.log.harmed:
            ensure(
                read_skips(self.catalog).has(partition, offset), f"nobody decided to skip partition {partition} offset {offset}"
            )
            return None
        payload = self.log.kept[partition][offset].payload
        return decode_record(payload, model_id=self.catalog.schema().raw_id, partition=partition, name="log")
