"""What came out of the story: as one document, and as lines for people."""

from __future__ import annotations

import msgspec
from rich.table import Table


class VersionLine(msgspec.Struct, frozen=True, kw_only=True):
    """A version, at `at_s` seconds of the run; `rows` that it wrote; `who` has made it."""

    version: int
    timeline: int
    kind: str
    rows: int
    at_s: float
    who: str


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """From written by the trainer to readable in a replica, by the replicas' own histograms; of so many `rows`."""

    p50_ms: float
    p99_ms: float
    rows: int


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """AUC of what the replicas served, in the sliding window. `poisoned`: the last one before they were frozen; `frozen`: the
    last one before the rollback; `after`: the first one that lies wholly behind it."""

    before: float
    poisoned: float
    frozen: float
    after: float
    end: float


class RolledBack(msgspec.Struct, frozen=True, kw_only=True):
    """`commit_s`: from the approval until the replicas had all confirmed. `lost_versions` are taken back, and so many `lost_rows`
    of the log when it was approved. `confirmed`: the digest that each replica has reported; `verified`: what reading every byte
    of the version gives."""

    run: str
    before: str
    version: int
    timeline: int
    base: int
    lost_rows: int
    lost_versions: tuple[int, ...]
    commit_s: float
    confirmed: dict[str, str]
    verified: str
    trainer_told: str


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    seconds: float
    auc: Quality
    lag: Lag
    lag_after: Lag
    versions: tuple[VersionLine, ...]
    runs: dict[str, dict[str, int]]
    rollback: RolledBack
    final_digests: dict[str, str]
    moves: tuple[str, ...]
    picture: str


def figures_table(found: Figures) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("figure", no_wrap=True)
    table.add_column("value", no_wrap=True, style="bold")
    table.add_column("what it is", style="dim")
    for line in lines(found):
        table.add_row(*line)
    return table


def lines(found: Figures) -> list[tuple[str, str, str]]:
    auc, back = found.auc, found.rollback
    kinds = {kind: [v for v in found.versions if v.kind == kind] for kind in ("snapshot", "delta", "compaction", "rollback")}
    lost = ", ".join(map(str, back.lost_versions)) or "none"
    runs = "; ".join(
        f"{dag}: {', '.join(f'{count} {state}' for state, count in sorted(states.items()))}" for dag, states in found.runs.items()
    )
    return [
        *(
            (f"versions, {kind}", str(len(those)), f"{sum(v.rows for v in those):,} rows")
            for kind, those in kinds.items()
            if those
        ),
        ("runs of the DAGs", str(sum(sum(states.values()) for states in found.runs.values())), runs),
        ("lag, p50 and p99", _lag(found.lag), f"of {found.lag.rows:,} rows over the log, up to the rollback"),
        ("the same, behind it", _lag(found.lag_after), f"of {found.lag_after.rows:,} rows"),
        ("AUC before", f"{auc.before:.3f}", "of what the replicas serve, before the poison"),
        ("AUC poisoned", f"{auc.poisoned:.3f}", "when an operator freezes them; 0.5 is chance"),
        ("AUC frozen", f"{auc.frozen:.3f}", "right before the rollback"),
        ("AUC after", f"{auc.after:.3f}", "the first window that lies wholly behind the rollback"),
        ("AUC at the end", f"{auc.end:.3f}", ""),
        ("rollback", f"{back.commit_s:.1f} s", f"from the approval until all replicas had confirmed; {back.run}"),
        (
            "went back to",
            f"version {back.base}",
            f"before {back.before}; lost: versions {lost}, and {back.lost_rows:,} rows of the log by the approval",
        ),
        ("is now", f"version {back.version}", f"on timeline {back.timeline}; the trainer was told: {back.trainer_told}"),
        ("digest, verified", back.verified[:16], "read from the store, byte by byte"),
        *((f"digest, {name}", digest[:16], "reported after the rollback") for name, digest in sorted(back.confirmed.items())),
        *((f"digest at the end, {name}", digest[:16], "") for name, digest in sorted(found.final_digests.items())),
    ]


def _lag(lag: Lag) -> str:
    return f"{lag.p50_ms:.1f} ms, {lag.p99_ms:.0f} ms"
