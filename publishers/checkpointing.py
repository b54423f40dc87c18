"""Cutting a checkpoint: flush, take its number, put a marker into every partition, and count it if no rollback and no other
process came in between. Works on a `Driver`; knows no thread of its own."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.pipeline.catalog.checkpoints import finish_checkpoint, last_marker, open_checkpoint, read_checkpoint
from penstock.pipeline.core.checkpoint import Checkpoint, Sidecar, Touched, sidecar_of
from penstock.pipeline.core.errors import InvalidInput, OutcomeUnknown
from penstock.pipeline.core.ids import Marker, Positions, Seq, State
from penstock.pipeline.core.manifest import DenseInfo
from penstock.pipeline.core.times import EventTime

from .driving import Driver
from .marking import Receipt, check_participants, send_markers, write_touched
from .touched import TouchedKeys

MARK_ATTEMPTS = 3
"""How many marker numbers a checkpoint tries when the fate of a marker is not known."""


class Checkpointing:
    """One publisher's checkpoints. `_lent` is what the one under way has taken from the touched keys; it comes back unless that
    checkpoint counts."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._catalog = driver.environment.catalog
        self._lent: TouchedKeys | None = None
        self._changes_lent = 0
        self._dense_lent: DenseInfo | None = None
        self._dense_marked: DenseInfo | None = None
        self.changes_marked = 0
        """How many changes the last checkpoint has."""

    def mark(self, *, step: int, others: Sequence[Receipt]) -> Sidecar:
        driver, sender = self._driver, self._driver.stream.sender
        driver.check()
        check_participants(self._catalog, sender.timeline, sender.publisher, others)
        driver.hold()
        try:
            with driver.stream.line:
                opened, positions = self._send(others)
                through, dense = driver.stream.sent_through, self._new_dense()
            driver.judge({receipt.publisher: receipt.term for receipt in others})
            self._lend()
        finally:
            driver.release()
        try:
            marked = self._finish(opened, positions, others, max([through, *(receipt.through for receipt in others)]), dense)
        except BaseException:
            self._settle(counted=False)
            raise
        self._settle(counted=True)
        return sidecar_of(marked, model=self._catalog.model, step=step)

    def hold(self) -> Receipt:
        driver, sender = self._driver, self._driver.stream.sender
        driver.hold()
        self._lend()
        try:
            touched = self._touched_document(Marker(last_marker(self._catalog) + 1))
        except BaseException:
            self.release(None)
            raise
        return Receipt(
            publisher=sender.publisher, term=sender.term, timeline=sender.timeline, seqs=tuple(map(Seq, sender.seqs)),
            through=driver.stream.sent_through, touched=touched, dense=self._new_dense(),
        )  # fmt: skip

    def release(self, sidecar: Sidecar | None) -> None:
        if not self._driver.held:
            raise InvalidInput(f"publisher {self._driver.stream.sender.publisher} is not held")
        counted = False
        try:
            if sidecar is not None:
                found, _ = read_checkpoint(self._catalog, State.parse(sidecar.state).marker)
                sender = self._driver.stream.sender
                counted = found.status == "marked" and found.publishers.get(sender.publisher) == sender.term
        finally:
            self._settle(counted=counted)
            self._driver.release()

    def _send(self, others: Sequence[Receipt]) -> tuple[Checkpoint, Positions]:
        driver, stream = self._driver, self._driver.stream
        for _ in range(MARK_ATTEMPTS):
            driver.drain()
            terms = {receipt.publisher: receipt.term for receipt in others} | {stream.sender.publisher: stream.sender.term}
            opened = open_checkpoint(self._catalog, timeline=stream.sender.timeline, publishers=terms, now=driver.now())
            positions = send_markers(
                stream.sender, opened.state, others, through=stream.sent_through, now=driver.now(),
                timeout_s=driver.settings.flush_timeout_s,
            )  # fmt: skip
            if positions is not None:
                return opened, positions
        raise OutcomeUnknown(f"the markers of {MARK_ATTEMPTS} checkpoints in a row were not acknowledged: {stream.sender.broken}")

    def _finish(
        self, opened: Checkpoint, positions: Positions, others: Sequence[Receipt], through: int, dense: DenseInfo | None
    ) -> Checkpoint:
        touched = {receipt.publisher: receipt.touched for receipt in others}
        touched[self._driver.stream.sender.publisher] = self._touched_document(opened.state.marker)
        return finish_checkpoint(
            self._catalog, opened, positions=positions, touched=touched, trained_through=EventTime(through),
            # The dense slice has one owner among the publishers of a model.
            dense=dense or next((receipt.dense for receipt in others if receipt.dense is not None), None),
        )  # fmt: skip

    def _touched_document(self, marker: Marker) -> Touched:
        assert self._lent is not None
        return write_touched(self._catalog, self._lent, marker=marker, publisher=self._driver.stream.sender.publisher)

    def _new_dense(self) -> DenseInfo | None:
        """The newest dense slice announced, unless the last checkpoint that counted has it."""
        newest = self._driver.stream.dense
        return None if newest == self._dense_marked else newest

    def _lend(self) -> None:
        with self._driver.stream.gate:
            self._lent, self._driver.touched = self._driver.touched, TouchedKeys(self._driver.settings.touched_keys)
            self._changes_lent, self._dense_lent = self._driver.changes, self._driver.stream.dense

    def _settle(self, *, counted: bool) -> None:
        with self._driver.stream.gate:
            lent, self._lent = self._lent, None
            if counted:
                self.changes_marked, self._dense_marked = self._changes_lent, self._dense_lent
            elif lent is not None:
                self._driver.touched.merge(lent)
