"""What the catalog says afterwards: who has made a version, who has moved a ref and why, and what a rollback has taken back."""

from __future__ import annotations

from penstock.pipeline.core.ids import Version
from penstock.pipeline.core.times import WallTime, format_time
from penstock.pipeline.environment import Environment

from .figures import VersionLine


def version_lines(env: Environment, *, began: WallTime) -> tuple[VersionLine, ...]:
    """All but the birth, oldest first."""
    history, moves = env.catalog.history(), list(env.catalog.moves())
    made_by = {refs.trunk: refs.move.who for refs in reversed(moves)}
    whole = sorted((*history.trunk, *history.bases.values()), key=lambda each: each.version)
    return tuple(
        VersionLine(
            version=m.version, timeline=m.timeline, kind=m.kind, rows=m.rows + m.tombstones,
            at_s=(m.created_at - began) / 1e6, who=made_by.get(m.version, ""),
        )
        for m in whole if m.kind != "birth"
    )  # fmt: skip


def move_lines(env: Environment) -> tuple[str, ...]:
    """When, who, what and why, of every move of a ref, oldest first."""
    moves = (refs.move for refs in env.catalog.moves())
    return tuple(f"{format_time(move.at)} {move.who}: {move.what} ({move.why})" for move in moves)


def taken_back(env: Environment, by: Version) -> tuple[Version, ...]:
    """The versions before a rollback's that its lineage does not have."""
    history = env.catalog.history()
    kept = {manifest.version for manifest in history.lineage(by)}
    return tuple(m.version for m in history.trunk if m.version < by and m.version not in kept)
