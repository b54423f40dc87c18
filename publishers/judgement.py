"""Whether what a publisher has had acknowledged counts. Read from the store alone, after the last acknowledgement: a claim is in
the store before any fence of it, and a term before its opening record, so whatever precedes the records in the log is seen
here. It writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.catalog.catalog import Catalog
from penstock.pipeline.catalog.leases import open_claim, publisher_term
from penstock.pipeline.catalog.replay import replay_around
from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.core.coordination import Claim
from penstock.pipeline.core.errors import CommitConflict, Fenced, PositionGone, Superseded
from penstock.pipeline.core.history import History
from penstock.pipeline.core.ids import Offset, Partition, PublisherId, Term, Timeline
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.ports.log import UpdateLog
from penstock.slicer.ordering import distinct

from .sending import Sender

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.5
"""How long to wait before looking again for the decision of a rollback."""

Rows = dict[str, NDArray[np.int64]]


def standing(catalog: Catalog, timeline: Timeline, terms: Mapping[PublisherId, Term]) -> Claim | None:
    """None when every record that these terms have acknowledged on `timeline` counts; the claim of a rollback when that is not
    decided yet. `Fenced` (its rows are not listed), `Superseded` when they do not."""
    refs = catalog.refs()
    if refs.timeline != timeline:
        raise Fenced(f"model {catalog.model} was rolled back: it is on timeline {refs.timeline}, not {timeline} any more")
    claim = open_claim(catalog, refs)
    check_terms(catalog, terms)
    return claim


def check_terms(catalog: Catalog, terms: Mapping[PublisherId, Term]) -> None:
    """`Superseded` unless each of these is the newest term of its publisher."""
    for publisher, term in terms.items():
        newest = publisher_term(catalog, publisher)
        if newest is None or newest.term != term:
            found = "none" if newest is None else str(newest.term)
            raise Superseded(f"publisher {publisher} has term {found}, not {term} any more")


def judge(
    catalog: Catalog,
    timeline: Timeline,
    terms: Mapping[PublisherId, Term],
    *,
    pause: Callable[[float], object],
    patience_s: float,
) -> None:
    """Returns when everything that these terms have acknowledged on `timeline` counts; see `settled` and `standing`."""
    settled(lambda: standing(catalog, timeline, terms), pause=pause, patience_s=patience_s)


def settled(look: Callable[[], Claim | None], *, pause: Callable[[float], object], patience_s: float) -> None:
    """Returns when `look`, a call of `standing`, finds that everything counts. An undecided rollback is waited for, with
    `pause`, for `patience_s` at most; then `CommitConflict`."""
    waited, step = 0.0, FIRST_PAUSE_S
    while (claim := look()) is not None:
        if waited >= patience_s:
            raise CommitConflict(
                f"the rollback to timeline {claim.timeline}, claimed by {claim.who}, is not decided yet",
                hint="finish it or abandon it, then try again",
            )
        pause(step)
        waited, step = waited + step, min(2 * step, LONGEST_PAUSE_S)


def fenced_rows(catalog: Catalog, log: UpdateLog, publisher: PublisherId, timeline: Timeline) -> Rows:
    """The keys that `publisher` wrote on `timeline` behind the fence that ended it, per table, sorted."""
    history = catalog.history()
    fences = first_fences(history, timeline)
    found: dict[str, list[NDArray[np.int64]]] = {}
    schema, skips = catalog.schema(), read_skips(catalog)
    for p in range(schema.partitions if fences else 0):
        partition = Partition(p)
        start = max(fences[p], log.begin(partition))
        try:
            for _, record, *_ in replay_around(log, schema, partition, start, log.end(partition), skips):
                mine = record.publisher == publisher and record.timeline == timeline
                if mine and record.kind == RecordKind.ROWS:
                    found.setdefault(record.table, []).append(record.keys.copy())
        except PositionGone:
            continue  # retention cut off what is listed here for information only
    return {table: distinct(keys) for table, keys in found.items()}


def first_fences(history: History, timeline: Timeline) -> tuple[Offset, ...]:
    """The offsets at which the first committed rollback past `timeline` ended it; () if none is retained."""
    for manifest in history.rollbacks():
        if manifest.timeline > timeline and manifest.rollback is not None:
            return manifest.rollback.fence
    return ()


def fenced(catalog: Catalog, log: UpdateLog, sender: Sender, why: Fenced, *, waiting: Rows) -> Fenced:
    """`why`, with the rows that do not count: those behind the fence, and those that were `waiting` to be sent."""
    rows = fenced_rows(catalog, log, sender.publisher, sender.timeline)
    for table, keys in waiting.items():
        rows[table] = np.union1d(rows[table], keys) if table in rows else keys
    count = sum(map(len, rows.values()))
    return Fenced(f"{why}; {count} rows that {sender.publisher} wrote behind the fence do not count", rows=dict(rows))
