"""A checkpoint's markers: who takes part, one marker a partition, and where a reader of the checkpoint goes on.

From the flush of each publisher to the last marker none of them appends a record: positions carry each one's sequence number, and
a record in between would be a hole to whoever starts there.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.pipeline.catalog.catalog import Catalog
from penstock.pipeline.catalog.leases import publisher_terms
from penstock.pipeline.core.checkpoint import Touched
from penstock.pipeline.core.documents import Document
from penstock.pipeline.core.errors import InvalidInput, Refused
from penstock.pipeline.core.ids import Marker, Offset, Position, Positions, PublisherId, Reader, Seq, State, Term, Timeline
from penstock.pipeline.core.manifest import DenseInfo, RunInfo
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.times import EventTime, WallTime

from .key_runs import write_keys
from .sending import Sender
from .touched import TouchedKeys


class Receipt(Document, frozen=True, kw_only=True):
    """One publisher's part in a checkpoint that another one marks: everything that it sent up to `seqs` (per partition) is
    acknowledged, and it sends no more until it is released."""

    publisher: PublisherId
    term: Term
    timeline: Timeline
    seqs: tuple[Seq, ...]
    through: EventTime
    touched: Touched
    dense: DenseInfo | None = None


def check_participants(catalog: Catalog, timeline: Timeline, publisher: PublisherId, others: Sequence[Receipt]) -> None:
    """Every publisher of the timeline takes part, each once; else `Refused` names those that are missing, or `InvalidInput` the
    receipt that does not fit."""
    named = [publisher, *(receipt.publisher for receipt in others)]
    if len(set(named)) != len(named):
        raise InvalidInput(f"a checkpoint of {', '.join(named)}: each publisher takes part once")
    for receipt in others:
        if receipt.timeline != timeline:
            raise InvalidInput(f"publisher {receipt.publisher} is on timeline {receipt.timeline}, {publisher} on {timeline}")
    if missing := active_publishers(catalog, timeline) - set(named):
        raise Refused(
            f"a checkpoint of {', '.join(named)} would miss what {', '.join(sorted(missing))} publishes",
            hint="hold() each of them and give the receipts to mark(others=...); resume one that crashed first",
        )


def active_publishers(catalog: Catalog, timeline: Timeline) -> set[PublisherId]:
    """Those with a term on the timeline, but for offline publishing, whose records end with its own marker."""
    return {found.publisher for found in publisher_terms(catalog) if found.timeline == timeline and found.publisher != OFFLINE}


OFFLINE = PublisherId("offline")
"""The publisher of checkpoints that no publisher of the realtime tier has marked."""


def send_markers(
    sender: Sender, state: State, others: Sequence[Receipt], *, through: EventTime, now: WallTime, timeout_s: float
) -> Positions | None:
    """A marker of `state` in every partition; the positions just past them once all are acknowledged. None when the fate of
    one is not known: this state is given up then, and another may be tried in a new term."""
    markers = sender.send_everywhere(RecordKind.MARKER, through, now=now, text=str(state))
    seqs = [Seq(seq) for seq in sender.seqs]
    while sender.broken is None and not sender.idle:
        sender.wait(timeout_s)
    if sender.broken is not None:
        return None
    partitions = []
    for p, marker in enumerate(markers):
        readers = {receipt.publisher: Reader(receipt.term, receipt.seqs[p]) for receipt in others}
        readers[sender.publisher] = Reader(sender.term, seqs[p])
        partitions.append(Position(Offset(marker.pending.result(0.0) + 1), readers))
    return Positions(sender.log.identity, tuple(partitions))


def touched_folder(model: str, marker: Marker) -> str:
    """Where the lists of touched keys of checkpoint `marker` stand."""
    return f"{model}/touched/{marker:010d}"


def write_touched(catalog: Catalog, keys: TouchedKeys, *, marker: Marker, publisher: PublisherId) -> Touched:
    """Stores what was touched, for the checkpoint `marker` or one that soon follows it."""
    runs: dict[str, RunInfo] = {}
    schema = catalog.schema()
    prefix = f"{touched_folder(catalog.model, marker)}/{publisher}-{catalog.new_id()}"
    for table in sorted(keys.tables - keys.whole):
        runs[table] = write_keys(catalog.store, schema, table, keys.keys(table), prefix)
    return Touched(keys=runs, whole=tuple(sorted(keys.whole)), unsent=keys.unsent, owes_dense=keys.owes_dense)
