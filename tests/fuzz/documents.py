"""Every document that is stored or sent, with one that is right: for a fuzzer to start from. Knows no fuzzer."""

from __future__ import annotations

import numpy as np

from penstock.pipeline.core.checkpoint import Checkpoint, Touched
from penstock.pipeline.core.coordination import (
    Care,
    Claim,
    DenseAnnouncement,
    PartitionPresence,
    Pin,
    Presence,
    PublisherTerm,
    Upload,
)
from penstock.pipeline.core.documents import DigestVector, Document
from penstock.pipeline.core.ids import (
    Marker,
    Offset,
    Position,
    Positions,
    PublisherId,
    Reader,
    Seq,
    State,
    Term,
    Timeline,
    Version,
)
from penstock.pipeline.core.manifest import Archive, DenseInfo, Manifest, Rollback, RunInfo, TableChange, TableFull, Target
from penstock.pipeline.core.refs import Move, Ref, Refs
from penstock.pipeline.core.schema import ModelSchema, TableSchema
from penstock.pipeline.core.times import EventTime, WallTime
from penstock.publishers.fanout import PartDocument, TablePart
from penstock.rollback.inventory import Notes

BUCKETS = 2
_NOW = WallTime(10**15)
_DIGESTS = DigestVector.of(np.arange(BUCKETS, dtype=np.uint64))
_RUN = RunInfo(path="m/data/1/t-0.rows.arrow", kind="rows", rows=3, bytes=900, digest="00" * 8)
_CHANGE = TableChange(runs=(_RUN,), interval=_DIGESTS)
_DENSE = DenseInfo(path="m/data/1/dense.safetensors", bytes=100, digest="00" * 16)
_TARGET = Target(kind="before_event", time=10**15)
_POSITIONS = Positions("log", (Position(Offset(3), {PublisherId("p"): Reader(Term(1), Seq(2))}),))
_TABLE = TableSchema(dim=2, codec="float32", width=8, absent=(0.0, 1.0))

EXAMPLES: tuple[Document, ...] = (
    Manifest(
        model="m", version=Version(2), kind="rollback", state=State(Timeline(1), Marker(4)), previous=Version(1), base=Version(1),
        positions=_POSITIONS, trained_through=EventTime(10**15), created_at=_NOW, publisher=PublisherId("p"), term=Term(1),
        upload="u", changes={"t": _CHANGE}, full={"t": TableFull(runs=(_RUN,), state=_DIGESTS)}, digests={"t": _DIGESTS},
        dense=_DENSE, checkpoint=Archive(path="m/c", name="c", packing="tar", bytes=3, digest="00"), source="undo",
        rollback=Rollback(target=_TARGET, tables=("t",), cut=(Offset(1),), fence=(Offset(2),), undo={"t": _CHANGE}, lost_rows=2),
    ),
    Refs(
        generation=3, trunk=Version(2), timeline=Timeline(1), refs={"live": Ref(version=Version(2), frozen=(Offset(1),))},
        abandoned=(Timeline(2),), bases=(Version(1),), move=Move(id="a", who="me", at=_NOW, why="w", what="x"),
    ),
    ModelSchema(model="m", id="00" * 16, buckets=BUCKETS, partitions=1, log="l", tables={"t": _TABLE}, created_at=_NOW),
    Checkpoint(
        id="a", state=State(Timeline(1), Marker(4)), status="marked", created_at=_NOW, publishers={PublisherId("p"): Term(1)},
        positions=_POSITIONS, dense=_DENSE,
        touched={PublisherId("p"): Touched(keys={"t": _RUN}, whole=("u",), unsent=1, owes_dense=True)},
    ),
    Care(id="a", work="verify", ok=False, found="x", who="me", at=_NOW),
    Claim(
        id="a", timeline=Timeline(2), parent=Timeline(1), target=_TARGET, of=Timeline(1), base=Version(1), tables=("t",),
        cuts=(Offset(1),), who="me", at=_NOW, why="w",
    ),
    PublisherTerm(
        id="a", publisher=PublisherId("p"), term=Term(1), timeline=Timeline(1), resumed_from=State(Timeline(1), Marker(0)),
        reserve_us=5, opened_at=_NOW,
    ),
    Upload(id="a", purpose="delta", who="me", status="open", created_at=_NOW),
    Pin(id="a", name="keep", version=Version(3), who="me", at=_NOW, why="audit", until=_NOW),
    Presence(
        id="a", replica="r", address="grpc://h:1", ref="live", buckets=(0, BUCKETS), version=Version(2),
        state=State(Timeline(1), Marker(4)), digest="00", digests={"t": _DIGESTS}, rows={"t": 3}, bytes=9, ready=True, at=_NOW,
        until=_NOW, partitions=(
            PartitionPresence(
                partition=0, offset=Offset(1), end=Offset(2), version=Version(2), timeline=Timeline(1), lag_ms=1.5,
                trained_through=EventTime(10**15), alarm="gap",
            ),
        ),
    ),
    DenseAnnouncement(number=1, path="m/d", bytes=3, digest="00" * 16),
    PartDocument(
        run="a", part=1, of=2, state="1-4", trained_through=EventTime(10**15), dense=_DENSE,
        tables={"t": TablePart(schema=_TABLE, total=9, start=0, stop=3, numbered=True, runs=(_RUN,), digests=_DIGESTS)},
    ),
    Notes(unnamed={"m/d": _NOW}, oldest=Version(1), bases=(Version(0),)),
)  # fmt: skip
