"""A shop whose tables change their shape: sources with a dim for each table, configs that retire or encode otherwise."""

from __future__ import annotations

import msgspec
import numpy as np
from shop import SECOND, Shop, rows_of, source_of
from trainer_world import CONFIG, NOW

from penstock.pipeline.config import ModelConfig, TableConfig
from penstock.publishers.sources import Source


class Shaping(Shop):
    """`dims` are those of the trainer's tables; two where nothing is said."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.dims: dict[str, int] = {}

    def source(self) -> Source:
        found = {
            name: table
            for name, rows in self.tables.items()
            for table in source_of({name: rows}, dim=self.dims.get(name, 2)).tables.values()
        }
        return Source("the arrays given", found, source_of({}, self.dense).dense)

    def configure(self, **tables: dict) -> None:
        """Tables of the config; where nothing is said of them, keys and rows in float32."""
        declared = {
            name: TableConfig(**({} if settings.get("retired") else {"keys": "k", "rows": "r"}), **settings)
            for name, settings in ({table: {} for table in self.tables} | tables).items()
        }
        self.config = msgspec.structs.replace(CONFIG, models={"retail": ModelConfig(tables=declared)})

    def send(self, table: str, puts: dict[int, float], deletes: tuple[int, ...] = ()) -> None:
        """As `train`, in the dim that the table has by now."""
        self.train(table, puts, deletes, send=False)
        self.world.now = NOW + self.seconds * SECOND
        if self.updates is None:
            self.updates = self.world.open()
        dim = self.dims.get(table, 2)
        if puts:
            rows = np.repeat(np.array(list(puts.values()), np.float32), dim).reshape(len(puts), dim)
            self.updates.put(table, np.array(list(puts), np.int64), rows, trained_through=self.through)
        if deletes:
            self.updates.delete(table, np.array(deletes, np.int64), trained_through=self.through)

    def widen(self, table: str = "item", dim: int = 3) -> None:
        """The trainer begins anew with another dim, and another row for every key."""
        self.dims[table] = dim
        self.tables[table] = {key: value + 100 * dim for key, value in self.tables[table].items()}
        self.seconds += 1


def served(env, version) -> dict[str, dict[int, float]]:
    """What readers of a version see, by the names that they know."""
    found = rows_of(env, version)
    names = [name for name, table in env.schema.tables.items() if table.generation_of is None]
    return {name: found[version.generation(name)] for name in names if name not in version.retired}
