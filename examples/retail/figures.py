"""The figures that the demo ends with: as one document for machines, and as lines for its table and its report."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from rich.table import Table

from .live import size
from .recording import Figure, TierBytes


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """AUC of what the replicas served, in the sliding window. `before`: the last window that the poison does not touch;
    `poisoned`: the last one before the rollback; `again`: the same, scored once more right after it; `recovered`: the mean over
    the windows that lie wholly behind the stretch; `unhealed` and `control` the same of a trainer that was not rolled back, and
    of one that was never poisoned, both without delivery; `end`: the last window."""

    before: float
    poisoned: float
    again: float
    recovered: float
    unhealed: float
    control: float
    end: float


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    p50: float
    p99: float
    samples: int


class TierFigures(msgspec.Struct, frozen=True, kw_only=True):
    bytes: int
    writes: int
    rows: int


class RollbackFigures(msgspec.Struct, frozen=True, kw_only=True):
    """`replicas_s`: from the start of the command to the moment when every replica serves the new timeline, `fenced_s`: to that
    moment from when the log was fenced; `command_s`: to the end of the command, which waits until they have all confirmed it."""

    version: int
    timeline: int
    before: str
    replicas_s: float
    fenced_s: float
    command_s: float
    rows_lost: int
    rows_restored: int
    tombstones: int


class ProofFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Digests that are all one, or the demo would have failed. `remembered`: of the trainer's own rows from before the poison;
    `verified`: of the version as it is stored; by replica `stated`, what it reports, and `served`, over all the rows that it
    served when it was asked, after the late messages."""

    remembered: str
    verified: str
    stated: dict[str, str]
    served: dict[str, str]
    fenced: str
    fenced_rows: int
    late_records: int
    late_ignored: dict[str, int]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    seconds: float
    purchases: int
    store: str
    log: str
    auc: Quality
    lag_ms: Spread
    behind_batches: Spread
    adopted_s: Spread
    tiers: dict[str, TierFigures]
    rollback: RollbackFigures
    proof: ProofFigures
    final_digests: dict[str, str]
    page: str
    picture: str


def spread(values: Sequence[float] | Sequence[int]) -> Spread:
    """nan where there are no values."""
    if not values:
        return Spread(p50=float("nan"), p99=float("nan"), samples=0)
    p50, p99 = np.percentile(values, [50, 99])
    return Spread(p50=float(p50), p99=float(p99), samples=len(values))


def tier_figures(tiers: Sequence[TierBytes]) -> dict[str, TierFigures]:
    return {tier.tier: TierFigures(bytes=tier.bytes, writes=tier.writes, rows=tier.rows) for tier in tiers}


def lines(found: Figures) -> tuple[Figure, ...]:
    """For people: what, how much, and how it was measured."""
    auc, lag, back, proof = found.auc, found.lag_ms, found.rollback, found.proof
    served = ", ".join(sorted(proof.served))
    took_back = (
        f"from the start of the command to timeline {back.timeline} on all replicas, {back.fenced_s:.2f} s of it from the fences "
        f"on; {back.command_s:.2f} s to the last confirmation; {back.rows_lost:,} rows lost, {back.rows_restored:,} restored, "
        f"{back.tombstones:,} taken away"
    )
    proved = f"digest of the trainer's memory, of version {back.version} in the store, and of all rows that {served} serve"
    late = f"sent again behind the rollback; besides, {proof.fenced_rows:,} rows of the heedless trainer were fenced"
    told = [
        ("AUC before the poison", f"{auc.before:.3f}", "what replicas served, scored before it was learned"),
        ("AUC poisoned", f"{auc.poisoned:.3f}", "the last window before the rollback; 0.5 is chance"),
        ("AUC rolled back", f"{auc.again:.3f}", "the same window, scored once more right after the rollback"),
        ("AUC recovered", f"{auc.recovered:.3f}", "mean of the windows that lie wholly behind the stretch"),
        ("AUC, no rollback", f"{auc.unhealed:.3f}", "the same windows; a trainer that goes on, without delivery"),
        ("AUC, no poison", f"{auc.control:.3f}", "the same windows; a trainer that was never poisoned, without delivery"),
        ("realtime lag", _spread(found.lag_ms, "{:.1f} ms"), f"from a put to a lookup that gives its row, {lag.samples} probes"),
        ("freshness", _spread(found.behind_batches, "{:.0f} batches"), "behind the trainer, asked right after a put"),
        ("delta to replicas", _spread(found.adopted_s, "{:.2f} s"), "from the checkpoint's mark to its version on all replicas"),
        *((f"bytes, {n}", size(t.bytes), f"{t.rows:,} rows in {t.writes:,} writes") for n, t in found.tiers.items()),
        ("rollback", f"{back.replicas_s:.2f} s", took_back),
        ("state, proved equal", proof.remembered[:16], proved),
        ("late messages", f"{proof.late_records} ignored", late),
    ]
    return tuple(Figure(name=name, value=value, note=note) for name, value, note in told)


def _spread(found: Spread, shown: str) -> str:
    return f"{shown.format(found.p50)}, p99 {shown.format(found.p99)}"


def figures_table(found: Figures) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("figure", no_wrap=True)
    table.add_column("value", no_wrap=True, style="bold")
    table.add_column("how it was measured", style="dim")
    for figure in lines(found):
        table.add_row(figure.name, figure.value, figure.note)
    return table
