"""How a replica begins: the chain of its ref's version into tables, and a position to follow from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from penstock.pipeline.catalog import leases
from penstock.pipeline.config import microseconds
from penstock.pipeline.core.hashing import bucket_range
from penstock.pipeline.core.history import History, table_layers
from penstock.pipeline.core.ids import Partition, Version
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.refs import Ref, Refs
from penstock.pipeline.core.schema import ModelSchema, TableSchema
from penstock.pipeline.core.times import WallTime
from penstock.pipeline.environment import Environment
from penstock.slicer.layers import Layers
from penstock.slicer.run_layout import TableLayout

from .adoption import Adoption
from .follower import Follower
from .partition import PartitionState
from .table import Table

LEASE_US = 6 * 3_600_000_000
"""How long a bootstrap may take before retention stops waiting for it."""


@contextmanager
def leased(env: Environment, name: str, version: Version) -> Iterator[None]:
    """Keeps what a bootstrap reads."""
    pin = f"bootstrap-{name}"
    until = WallTime(env.clock() + LEASE_US)
    leases.put_pin(env.catalog, pin, version, actor=env.actor("bootstrap"), until=until)
    try:
        yield
    finally:
        leases.remove_pin(env.catalog, pin)


def new_table(schema: ModelSchema, table: TableSchema, buckets: range, image_bytes: int) -> Table:
    return Table(
        codec=table.codec, dim=table.dim, width=table.width, bucket_count=schema.buckets, partition_count=schema.partitions,
        held=buckets, image_bytes=image_bytes,
    )  # fmt: skip


FIXED = "@"
"""The ref of a replica that serves one version for ever; no real ref has this name."""


def refs_for(env: Environment, at: Version | None) -> Refs:
    """The refs as they are, with one more for a replica that serves exactly version `at`."""
    refs = env.catalog.refs()
    if at is None:
        return refs
    return msgspec.structs.replace(refs, refs={**refs.refs, FIXED: Ref(version=at, follow="versions")})


def bootstrap(env: Environment, *, ref: str, buckets: range, name: str, at: Version | None = None) -> tuple[Follower, Adoption]:
    """Tables as the ref's version has them (with `at`, as that version), verified against the digests that it states, and a
    follower that stands there."""
    ref = ref if at is None else FIXED
    refs = refs_for(env, at)
    with leased(env, name, refs.ref(ref).version):
        refs = refs_for(env, at)  # read after the lease: what it names now is kept
        history = env.catalog.history(refs)
        schema = env.catalog.reload_schema()
        version = history.version(refs.ref(ref).version)
        tables = {
            table: new_table(schema, found, buckets, env.config.replica.before_image_bytes // max(1, len(schema.tables)))
            for table, found in schema.tables.items()
        }
        chain = history.chain(version.version)
        for table_name, table in tables.items():
            layout = TableLayout.of(schema, table_name)
            with Layers.open(env.catalog.store, layout, table_layers(chain, table_name)) as layers:
                table.reserve(layers.count())
                for keys, rows in layers.merged(buckets):
                    table.load(keys, rows)
        return _standing(env, schema, tables, buckets, history, refs, ref, version)


def _standing(
    env: Environment,
    schema: ModelSchema,
    tables: dict[str, Table],
    buckets: range,
    history: History,
    refs: Refs,
    ref: str,
    version: Manifest,
) -> tuple[Follower, Adoption]:
    follower = Follower(schema, tables, buckets, {}, history, refs, ref, env.config.replica.markers)
    adoption = Adoption(env.catalog.store, follower)
    for p in followed(schema, buckets):
        position = version.positions.partitions[p]
        state = PartitionState(p, position.offset, dict(position.readers), version.timeline, version.version, {})
        follower.partitions[p] = state
        adoption.stand_at(state, version, position.offset)
        adoption.check_loaded(state, version)
    return follower, adoption


def followed(schema: ModelSchema, buckets: range) -> list[Partition]:
    """The partitions that a holder of these buckets follows."""
    found = []
    for p in range(schema.partitions):
        own = bucket_range(p, bucket_count=schema.buckets, partition_count=schema.partitions)
        if own.start < buckets.stop and buckets.start < own.stop:
            found.append(Partition(p))
    return found


def lease_us(env: Environment) -> int:
    return microseconds(env.config.replica.lease)
