"""A model in memory, written by hand: records of any publisher and term, checkpoints, deltas, snapshots.

Events are minutes: event `n` happened at `at(n)`, and the clock of the world stands there unless a test moves it. Every row says
what its writer had learned from: it is (newest event, serial), so that a row tells poison by itself. What is served is computed
here a second time, by brute force, from everything that ever happened.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from types import SimpleNamespace

import msgspec
import numpy as np

from penstock.pipeline.catalog import keys, leases
from penstock.pipeline.catalog.catalog import Actor, Catalog
from penstock.pipeline.catalog.checkpoints import finish_checkpoint, open_checkpoint
from penstock.pipeline.config import Config, LogConfig, ModelConfig, RealtimeConfig, RetentionConfig, StoreConfig
from penstock.pipeline.core.checkpoint import Checkpoint, Touched
from penstock.pipeline.core.coordination import DenseAnnouncement, PartitionPresence, Presence
from penstock.pipeline.core.documents import DigestVector
from penstock.pipeline.core.hashing import buckets_of, partitions_of
from penstock.pipeline.core.history import table_layers
from penstock.pipeline.core.ids import Position, Positions, Reader, State
from penstock.pipeline.core.manifest import DenseInfo, Manifest, TableChange, TableFull
from penstock.pipeline.core.records import Record, RecordKind, decode_record, encode_record
from penstock.pipeline.core.schema import TableSchema
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.memory_log import MemoryLog
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.pipeline.ports.store import Overwrite
from penstock.slicer.blocks import Buffers
from penstock.slicer.layers import Layers
from penstock.slicer.ordering import ordered
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.run_writing import write_tombstones
from penstock.slicer.slicing import slice_rows

MODEL, TABLES = "retail", ("item", "user")
EPOCH, MINUTE = 1_700_000_000_000_000, 60_000_000
CONFIG = Config(
    store=StoreConfig(url="file:///nowhere"), log=LogConfig(url="file:///nowhere"), models={MODEL: ModelConfig()},
    realtime=RealtimeConfig(max_event_skew="10m"), retention=RetentionConfig(publish_deadline="60m"),
)  # fmt: skip


def at(event: float) -> int:
    """Event and wall time of minute `event`."""
    return EPOCH + round(event * MINUTE)


def encoded(rows) -> np.ndarray:
    return np.array(rows, "<f4").reshape(len(rows), 2).view(np.uint8).reshape(len(rows), 8)


@dataclass
class Writer:
    """One term of a publisher. Nothing stops it from writing when it must not: a zombie is one that is still used."""

    world: World
    name: str
    term: int
    timeline: int
    seqs: list[int]
    learned: float = -1
    touched: dict[str, set[int]] = field(default_factory=dict)
    unsent: int = 0
    dense: DenseInfo | None = None
    announced: int = 0

    def _append(self, kind, partition, *, through=None, **fields):
        self.seqs[partition] += kind != RecordKind.OPEN
        record = Record(
            kind=kind, timeline=self.timeline, partition=partition, publisher=self.name, term=self.term, seq=self.seqs[partition],
            trained_through=at(self.learned) if through is None else through, written_at=self.world.now, **fields,
        )  # fmt: skip
        return self.world.append(record)

    def everywhere(self, kind, **fields):
        return [self._append(kind, p, **fields) for p in range(self.world.partitions)]

    def put(self, table, event, *put, deleted=()):
        """Rows of `put`, after learning from `event`; one record a partition. Returns what was written."""
        self._learn(event)
        rows = {key: (max(0, self.learned), self.world.serial()) for key in put}
        for p in range(self.world.partitions):
            mine = [key for key in put if self.world.partition_of(key) == p]
            gone = [key for key in deleted if self.world.partition_of(key) == p]
            if mine or gone:
                data = encoded([rows[key] for key in mine]) if mine else np.empty((0, 0), np.uint8)
                self._append(RecordKind.ROWS, p, text=table, keys=np.array(mine + gone, np.int64), rows=data)
        self._remember(table, rows, deleted)
        return rows

    def keep(self, table, event, *put):
        """Rows that only the next checkpoint carries."""
        self._learn(event)
        self._remember(table, {key: (max(0, self.learned), self.world.serial()) for key in put}, ())
        self.unsent += len(put)

    def _learn(self, event):
        self.learned = max(self.learned, event)
        self.world.now = max(self.world.now, at(event))

    def _remember(self, table, rows, deleted):
        self.touched.setdefault(table, set()).update(rows, deleted)
        model = self.world.model[table]
        model.update(rows)
        for key in deleted:
            model.pop(key, None)

    def beat(self, reserve=None):
        self.everywhere(RecordKind.BEAT, through=None if reserve is None else at(reserve))

    def put_dense(self, event, name):
        self._learn(event)
        path = f"{MODEL}/announced/{self.name}/{name}.safetensors"
        self.world.store.put(path, name.encode(), Overwrite())
        self.dense = DenseInfo(path=path, bytes=len(name), digest=name)
        self.announced += 1
        text = msgspec.json.encode(DenseAnnouncement(number=self.announced, path=path, bytes=len(name), digest=name)).decode()
        return [lambda p=p: self._append(RecordKind.DENSE, p, text=text) for p in range(self.world.partitions)]


class World:
    """`model` is what the trainer has: table -> {key: (event, serial)}. `states` are the models of the checkpoints."""

    def __init__(self, *, partitions=2, buckets=8, start=0.0, config=CONFIG):
        self.partitions, self.buckets, self.now, self.config = partitions, buckets, at(start), config
        self.store = MemoryStore()
        self.log = MemoryLog(partitions, identity="log-1", clock=lambda: self.now)
        born = Positions("log-1", tuple(Position(0, {}) for _ in range(partitions)))
        self.ids = 0
        self.catalog = Catalog.create(
            self.store, MODEL, buckets=buckets, positions=born, actor=Actor(who="me", now=self.now), new_id=self.new_id
        )
        self.catalog.add_tables({table: TableSchema(dim=2, codec="float32", width=8) for table in TABLES})
        self.model = {table: {} for table in TABLES}
        self.states: dict[State, SimpleNamespace] = {}
        self.serials = 0

    def new_id(self):
        self.ids += 1
        return f"id-{self.ids}"

    def serial(self):
        self.serials += 1
        return self.serials

    def copy(self) -> World:
        """The same world, in which something else may happen."""
        other = copy.copy(self)
        other.store, other.log = MemoryStore(), MemoryLog(self.partitions, identity="log-1", clock=lambda: other.now)
        other.store._objects = dict(self.store._objects)
        other.log._records, other.log._begins = [list(records) for records in self.log._records], list(self.log._begins)
        other.catalog = Catalog(other.store, MODEL, other.new_id)
        other.model, other.states = copy.deepcopy(self.model), dict(self.states)
        return other

    def environment(self, *, store=None, log=None, who="me") -> Environment:
        catalog = Catalog(store or self.store, MODEL, self.new_id)
        return Environment(config=self.config, catalog=catalog, log=log or self.log, clock=lambda: self.now, who=who)

    @property
    def schema(self):
        return self.catalog.schema()

    def partition_of(self, key):
        buckets = buckets_of(np.array([key], np.int64), self.buckets)
        return int(partitions_of(buckets, bucket_count=self.buckets, partition_count=self.partitions)[0])

    def keys_in(self, partition, count, *, first=0):
        """The first `count` keys from `first` on that live in a partition."""
        return [key for key in range(first, first + 100 * count) if self.partition_of(key) == partition][:count]

    # ---- the log -------------------------------------------------------------------------------------------------------

    def append(self, record):
        return self.log.append(record.partition, encode_record(record, self.schema.raw_id)).result(0)

    def ends(self):
        return [self.log.end(p) for p in range(self.partitions)]

    def records(self, partition):
        """(offset, record) of all that the log still holds."""
        entries = self.log.poll({partition: self.log.begin(partition)}, timeout_s=0, max_bytes=1 << 30).get(partition, ())
        for offset, _, payload in entries:
            yield offset, decode_record(payload, model_id=self.schema.raw_id, partition=partition, name="test")

    def writer(self, name="trainer", *, resume=None, reserve=0) -> Writer:
        """A new term of a publisher, opened in every partition; with `resume`, the model goes back to that state's."""
        if resume is not None:
            self.model = copy.deepcopy(self.states[resume].model)
        timeline = self.catalog.refs().timeline
        taken = leases.take_term(
            self.catalog, name, timeline=timeline, resumed_from=resume or State(1, 0), reserve_us=reserve * MINUTE, now=self.now
        )
        learned = self.states[resume].learned if resume is not None else -1
        writer = Writer(self, name, taken.term, timeline, [0] * self.partitions, learned)
        writer.everywhere(RecordKind.OPEN)
        return writer

    # ---- checkpoints and versions ----------------------------------------------------------------------------------------

    def mark(self, writer: Writer, *others: Writer) -> State:
        """A finished checkpoint of the model as it is."""
        publishers = {w.name: w.term for w in (writer, *others)}
        opened = open_checkpoint(self.catalog, timeline=writer.timeline, publishers=publishers, now=self.now)
        markers = writer.everywhere(RecordKind.MARKER, text=str(opened.state))
        positions = Positions(
            "log-1",
            tuple(Position(m + 1, {w.name: Reader(w.term, w.seqs[p]) for w in (writer, *others)}) for p, m in enumerate(markers)),
        )
        learned = max(w.learned for w in (writer, *others))
        touched = {w.name: self._touched(w, opened) for w in (writer, *others)}
        finish_checkpoint(
            self.catalog, opened, positions=positions, trained_through=at(learned), touched=touched, dense=writer.dense
        )
        since = {}
        for w in (writer, *others):
            for table, some in w.touched.items():
                since.setdefault(table, set()).update(some)
            w.touched, w.unsent = {}, 0
        self.states[opened.state] = SimpleNamespace(
            model=copy.deepcopy(self.model), learned=learned, touched=since, dense=writer.dense, positions=positions
        )
        return opened.state

    def _touched(self, writer: Writer, opened: Checkpoint) -> Touched:
        runs = {}
        for table, some in writer.touched.items():
            layout, digests = TableLayout.of(self.schema, table), np.zeros(self.buckets, np.uint64)
            found = ordered(np.array(sorted(some), np.int64), self.buckets, name=table)
            folder = f"{MODEL}/touched/{opened.state.marker:010d}/{writer.name}"
            runs[table] = write_tombstones(self.store, folder, 0, layout, found, digests=digests, buffers=Buffers())
        return Touched(keys=runs, unsent=writer.unsent)

    def commit(self, state: State, *, promote=("live",), snapshot=False) -> Manifest:
        """The delta of a checkpoint, or the snapshot that begins the chain."""
        return self.committed(self.drafted(state, snapshot=snapshot), promote=promote)

    def committed(self, draft: Manifest, *, promote=("live",)) -> Manifest:
        def guard(refs):
            leases.check_upload(self.catalog, draft.upload)

        return self.catalog.commit(draft, promote=promote, guard=guard, actor=self.actor())

    def drafted(self, state: State, *, snapshot=False) -> Manifest:
        """All of it is written, and nothing committed."""
        found, history = self.states[state], self.catalog.history()
        base = history.newest
        touched = {table: set() for table in TABLES}
        for other, facts in self.states.items():
            if base.state.marker < other.marker <= state.marker:
                for table, some in facts.touched.items():
                    touched[table] |= some
        upload = leases.open_upload(self.catalog, purpose=f"delta of {state}", actor=self.actor())
        changes, full = {}, {}
        for table, some in touched.items():
            rows = found.model[table]
            puts = sorted(rows if snapshot else set(some) & set(rows))
            gone = [] if snapshot else sorted(set(some) - set(rows))
            if puts or gone:
                changes[table] = self.change(upload, table, {key: rows[key] for key in puts}, gone)
                full[table] = TableFull(runs=changes[table].runs, state=changes[table].interval)
        return Manifest(
            model=MODEL, version=0, kind="snapshot" if snapshot else "delta", state=state, previous=base.version,
            base=base.version, positions=found.positions, trained_through=at(found.learned), created_at=self.now,
            publisher="trainer", term=1, upload=upload.id, changes=changes, full=full if snapshot else None,
            dense=found.dense or base.dense,
        )  # fmt: skip

    def base(self, version: Manifest) -> Manifest:
        """The state of a version as a whole, beside the chain."""
        upload = leases.open_upload(self.catalog, purpose="compaction", actor=self.actor())
        full = {}
        for table, rows in self.rows(version).items():
            change = self.change(upload, table, rows, [])
            full[table] = TableFull(runs=change.runs, state=change.interval)
        draft = msgspec.structs.replace(
            version, version=0, kind="compaction", previous=None, base=None, changes={}, full=full, rollback=None, digests=None,
            upload=upload.id, created_at=self.now,
        )  # fmt: skip
        return self.catalog.add_base(draft, guard=lambda refs: leases.check_upload(self.catalog, upload.id), actor=self.actor())

    def change(self, upload, table, rows, gone) -> TableChange:
        layout, folder = TableLayout.of(self.schema, table), keys.data(MODEL, upload.id)
        data = encoded(list(rows.values())) if rows else np.empty((0, 8), np.uint8)
        sliced = slice_rows(np.array(list(rows), np.int64), data, np.array(gone, np.int64), layout, self.store, folder)
        return TableChange(runs=sliced.runs, interval=DigestVector.of(sliced.interval))

    def actor(self):
        return Actor(who="me", now=self.now, why="test")

    def presence(self, replica, version: Manifest, offsets, *, ref="live", digests=None, until=None):
        partitions = tuple(
            PartitionPresence(
                partition=p, offset=offset, end=offset, version=version.version, timeline=version.timeline, lag_ms=0.0,
                trained_through=version.trained_through,
            )
            for p, offset in enumerate(offsets)
        )  # fmt: skip
        until = self.now + MINUTE if until is None else until
        presence = Presence(
            id=self.new_id(), replica=replica, address="", ref=ref, buckets=(0, self.buckets), version=version.version,
            state=version.state, digest="d", digests=digests or {}, rows={}, bytes=0, partitions=partitions, ready=True,
            at=until - MINUTE, until=until,
        )  # fmt: skip
        leases.report_presence(self.catalog, presence)
        return presence

    # ---- what is served --------------------------------------------------------------------------------------------------

    def rows(self, version: Manifest) -> dict[str, dict[int, tuple[float, float]]]:
        """What a newcomer loads for a version."""
        return {table: self.table(version, table) for table in TABLES}

    def table(self, version: Manifest, table):
        runs = table_layers(Catalog(self.store, MODEL).history().chain(version.version), table)
        found = {}
        with Layers.open(self.store, TableLayout.of(self.schema, table), runs) as layers:
            for some, data in layers.merged():
                values = np.ascontiguousarray(data).view("<f4").tolist()
                found |= {key: tuple(row) for key, row in zip(some.tolist(), values, strict=True)}
        return found

    def digests(self, version: Manifest):
        """uint64[buckets] per table of what a newcomer loads."""
        found = {}
        for table in TABLES:
            runs = table_layers(Catalog(self.store, MODEL).history().chain(version.version), table)
            with Layers.open(self.store, TableLayout.of(self.schema, table), runs) as layers:
                found[table] = layers.digests()
        return found

    def delivered(self, base: Manifest, ends) -> dict[str, dict[int, tuple[float, float]]]:
        """The rows of `base` with what the log delivered from its positions up to `ends`, while no rollback had followed it: by
        brute force, from the sequence numbers alone."""
        found = self.rows(base)
        for p, position in enumerate(base.positions.partitions):
            newest = dict(position.readers)
            for offset, record in self.records(p):
                named = record.kind != RecordKind.FENCE and record.timeline == base.timeline
                if not position.offset <= offset < ends[p] or not named:
                    continue
                if (record.term, record.seq) <= newest.get(record.publisher, (0, 0)):
                    continue
                newest[record.publisher] = (record.term, record.seq)
                if record.kind == RecordKind.ROWS:
                    apply(found[record.table], record)
        return found


def apply(rows, record):
    values = record.rows.view("<f4").tolist() if len(record.rows) else []
    rows.update({key: tuple(row) for key, row in zip(record.put_keys.tolist(), values, strict=True)})
    for key in record.tombstones.tolist():
        rows.pop(key, None)


def undone(world: World, rows, manifest: Manifest):
    """What a reader that has `rows` serves after the undo of a rollback."""
    found = {table: dict(some) for table, some in rows.items()}
    for table, change in manifest.rollback.undo.items():
        layout = TableLayout.of(world.schema, table)
        with Layers.open(world.store, layout, [change.runs]) as layers:
            for run in layers.runs:
                for number, key in enumerate(run.keys().tolist()):
                    if run.info.kind == "rows":
                        found[table][key] = tuple(np.array(run.rows_at(number, number + 1)).view("<f4")[0].tolist())
                    else:
                        found[table].pop(key, None)
    return found
