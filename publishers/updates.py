"""The realtime tier as a trainer sees it: rows go in, a checkpoint's sidecar comes out. Every call is checked here, and done
elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.pipeline.core.checkpoint import Sidecar
from penstock.pipeline.core.errors import PenstockError
from penstock.pipeline.core.ids import Positions, PublisherId, State, Term, Timeline
from penstock.pipeline.core.manifest import DenseInfo
from penstock.pipeline.core.times import NEVER, EventTime, event_time
from penstock.pipeline.environment import Environment
from penstock.slicer.dense import write_dense

from .batches import checked_counts, checked_keys, checked_rows, delete_batch, put_batch
from .checkpointing import Checkpointing
from .driving import Driver
from .errors_counted import ErrorCounts, counted
from .generations import Generations
from .marking import Receipt
from .resuming import Resumed
from .settings import RealtimeSettings
from .stream import Stream
from .touched import TouchedKeys

Moment = EventTime | datetime | str


class Acknowledged(NamedTuple):
    """Records, rows and deletions in them, and bytes of all that; and how many terms were opened for it."""

    records: int
    rows: int
    nbytes: int
    terms: int


RowsOf = Callable[[str, NDArray[np.int64]], tuple[NDArray[np.float32], NDArray[np.bool_]]]


class Updates:
    """One publisher's realtime tier, from a resume on. Any number of threads may call it; the calls of one keep their order.

    `trained_through` is the newest event that the trainer has learned from so far, as microseconds, an aware datetime or RFC
    3339 text; it only grows, and None leaves it as it is. Every call raises, from the moment it is known, `Fenced` (the model
    was rolled back: `rows` lists what does not count) and `Superseded` (another process publishes under this id)."""

    def __init__(self, environment: Environment, resumed: Resumed, settings: RealtimeSettings) -> None:
        self._environment, self._settings, self._resumed = environment, settings, resumed
        self._stream = Stream(
            catalog=environment.catalog,
            sender=resumed.sender,
            settings=settings,
            resumed_from=resumed.state,
            through=resumed.through,
        )
        self._driver = Driver(environment, self._stream, resumed.touched, settings)
        self._checkpoints = Checkpointing(self._driver)
        self._own_dirty = resumed.own_dirty
        self._generations = Generations(environment, self._stream)
        self.errors = ErrorCounts()
        """How often a call raised what, by the names of both."""

    # ---- what it is ------------------------------------------------------------------------------------------------------

    @property
    def publisher(self) -> PublisherId:
        return self._stream.sender.publisher

    @property
    def term(self) -> Term:
        """The newest: sends whose outcome was unknown open new ones."""
        return self._stream.sender.term

    @property
    def timeline(self) -> Timeline:
        return self._stream.sender.timeline

    @property
    def resumed_from(self) -> State:
        return self._resumed.state

    @property
    def trained_through(self) -> EventTime:
        return self._stream.through

    @property
    def rows_put(self) -> int:
        """Rows and deletions that were put, shed ones included."""
        return self._driver.rows_put

    @property
    def rows_shed(self) -> int:
        """Those that were not sent for want of room; the next delta has them."""
        return self._driver.rows_shed

    @property
    def rows_acknowledged(self) -> int:
        """Rows and deletions that the log has acknowledged, each touch of a key folded away not counted."""
        return self._stream.sender.rows

    @property
    def queued_bytes(self) -> int:
        """What waits to be sent or acknowledged."""
        return self._stream.queued_bytes

    @property
    def marked(self) -> bool:
        """Whether nothing was put, deleted or touched since the last checkpoint, or since the resume."""
        return self._checkpoints.changes_marked == self._driver.changes

    @property
    def failure(self) -> PenstockError | None:
        """What has ended this publisher."""
        return self._driver.failure

    @property
    def acknowledged(self) -> Acknowledged:
        """What the log has acknowledged, in all terms."""
        sender = self._stream.sender
        return Acknowledged(sender.records, sender.rows, sender.acknowledged_bytes, self._stream.terms_opened)

    @property
    def unsent(self) -> int:
        """Touched keys whose row the log does not hold: shed, touched only, or dirty from a resume."""
        return self._driver.touched.unsent

    # ---- rows ------------------------------------------------------------------------------------------------------------

    @counted
    def put(self, table: str, keys: ArrayLike, rows: ArrayLike, *, trained_through: Moment | None = None) -> None:
        """Rows of `table` as they are from now on: int64[n], float32[n, dim], copied; of a key given twice the last counts.
        A table that the config declares is born with its first rows. `Refused`: a row that the table cannot hold, as one of
        another dim before a snapshot has brought that, or a retired table; and `InvalidInput`: nothing has changed then.
        `Unreachable` when the log has not kept up for `flush_timeout`: some of the rows may have been taken; they may be put
        again."""
        self._driver.check()
        checked = checked_keys(table, keys)
        values = checked_rows(table, checked, rows)
        name, schema = self._generations.of_rows(table, dim=values.shape[1])
        batch = put_batch(name, schema, checked, values, NEVER)
        self.advance(trained_through)
        if name not in self._stream.schema.tables:
            self._stream.adopt_schema(self._environment.catalog.add_tables({table: schema}))
        if len(checked):
            self._driver.accept(batch)

    @counted
    def delete(self, table: str, keys: ArrayLike, *, trained_through: Moment | None = None) -> None:
        """These keys are gone from now on, on every tier. Where a snapshot is yet to bring the shape that the table has in the
        trainer, they are gone from what it brings with the delta after it. Errors as `put`; `NotFound` for a table without any
        row yet."""
        self._driver.check()
        checked = checked_keys(table, keys)
        generations = self._generations.of_keys(table)
        self.advance(trained_through)
        for name in generations if len(checked) else ():
            self._driver.accept(delete_batch(name, checked, NEVER))

    @counted
    def touch(self, table: str, keys: ArrayLike) -> None:
        """These keys changed, but only the next delta carries their rows."""
        self._driver.check()
        checked = checked_keys(table, keys)
        for name in self._generations.of_keys(table):
            self._driver.keep_back(name, checked)

    def traffic(self, table: str, keys: ArrayLike, counts: ArrayLike) -> None:
        """How often these keys were asked for of late, float[n], relative to each other: where `overflow` is "priority", rows of
        keys that are asked for more often go first. What is not told anew stays; keys that were never told count as the mean.
        `NotFound` and `InvalidInput` as `delete`."""
        self._driver.check()
        checked = checked_keys(table, keys)
        weights = checked_counts(table, checked, counts)
        for name in self._generations.of_keys(table):
            self._stream.weigh(name, checked, weights)

    @counted
    def advance(self, trained_through: Moment | None) -> None:
        """Events up to `trained_through` may be learned from, once this returns. Where publishers share a model, call it before
        training on them: it waits until this is reserved in every partition. `InvalidInput` when it lies too far ahead."""
        self._driver.check()
        if trained_through is not None:
            self._driver.advance(event_time(trained_through))

    @counted
    def put_dense(self, tensors: Mapping[str, NDArray[np.generic]], *, trained_through: Moment | None = None) -> DenseInfo:
        """The dense slice as it is from now on. It is in the store when this returns; `flush` says when it is announced."""
        self.advance(trained_through)
        catalog = self._environment.catalog
        path = f"{catalog.model}/announced/{self.publisher}/{catalog.new_id()}.safetensors"
        dense = write_dense(catalog.store, path, tensors)
        self._driver.announce(dense)
        return dense

    @counted
    def flush(self) -> Positions:
        """Returns once everything put so far is acknowledged and counts: the positions just past it. `OutcomeUnknown` when it is
        not within `flush_timeout`, `CommitConflict` while a rollback is undecided; `Fenced` and `Superseded` when it does not,
        and `PositionGone`, as nobody reads a log that was made anew."""
        with self._stream.line:
            self._driver.drain()
            positions = self._stream.sender.positions()
        self._driver.judge({})
        return positions

    @counted
    def undo(self, rows_of: RowsOf) -> int:
        """Takes back at once what this publisher's dead terms wrote past the state that it resumed from. `rows_of(table, keys)`
        gives the trainer's rows (float32[n, dim]) and which of the keys it has (bool[n]). Returns how many keys that were. Where
        the rows have another dim by now, the snapshot that brings it does."""
        count, own = 0, self._own_dirty
        dirty: dict[str, NDArray[np.int64]] = {}
        for name in sorted(own.tables - own.whole):
            table, keys = self._generations.table_of(name), own.keys(name)
            unsent = np.intersect1d(keys, self._driver.touched.unsent_keys(name))
            dirty[table] = np.union1d(dirty.get(table, unsent), unsent)
        for table, keys in dirty.items():
            if len(keys):
                rows, found = rows_of(table, keys)
                if self._generations.takes(table, dim=np.shape(rows)[1]):
                    self.put(table, keys[found], np.asarray(rows)[found])
                    self.delete(table, keys[~found])
                    count += len(keys)
        self._own_dirty = TouchedKeys(self._settings.touched_keys)
        return count

    # ---- checkpoints -----------------------------------------------------------------------------------------------------

    @counted
    def mark(self, *, step: int = 0, others: Sequence[Receipt] = ()) -> Sidecar:
        """Marks a checkpoint of what was put so far. Save the sidecar beside the trainer's checkpoint: `penstock.json` in its
        folder, or `<file>.penstock.json`. `others` are the receipts of the model's other publishers, which are held; `Refused`
        names those that are missing. Errors as `flush`; what was touched stays touched then."""
        return self._checkpoints.mark(step=step, others=others)

    @counted
    def hold(self) -> Receipt:
        """Flushes, and lets every put wait from now on: this publisher's part in a checkpoint that another one marks. Give the
        receipt (it can be pickled, or sent as JSON) to its `mark(others=...)`, then call `release`. Errors as `flush`."""
        return self._checkpoints.hold()

    def release(self, sidecar: Sidecar | None) -> None:
        """Ends a hold, with the sidecar of the checkpoint; None says that it failed, and what was touched stays touched."""
        self._checkpoints.release(sidecar)

    def close(self) -> None:
        """Ends the thread. What is not acknowledged may be lost: `flush` or `mark` before."""
        self._driver.close()
