"""Which states a trainer may go on from: marked checkpoints and versions that lie on the live path, before every cut. So a
checkpoint that has learned what a rollback took back cannot walk in again. Reads the store only."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.pipeline.catalog.catalog import Catalog
from penstock.pipeline.catalog.checkpoints import known_checkpoint, known_checkpoints, last_marker
from penstock.pipeline.core.checkpoint import Checkpoint
from penstock.pipeline.core.errors import NotResumable
from penstock.pipeline.core.history import History
from penstock.pipeline.core.ids import BIRTH, Positions, State
from penstock.pipeline.core.refs import Refs
from penstock.pipeline.core.times import NEVER, EventTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A state to go on from. `positions` are None where the log's beginning is no longer known: of a birth that retention has
    removed."""

    state: State
    positions: Positions | None
    trained_through: EventTime


def origin(catalog: Catalog, refs: Refs, history: History, state: State) -> Origin:
    """`NotResumable` says why `state` is none, and names the newest one that is."""
    found = _origin(catalog, refs, history, state)
    if isinstance(found, Origin):
        return found
    newest = newest_origin(catalog, refs, history)
    raise NotResumable(f"state {state} of model {catalog.model} {found}; load state {newest} instead")


def newest_origin(catalog: Catalog, refs: Refs, history: History) -> State:
    """The newest state that a trainer may resume from."""
    lineage = history.lineage(refs.trunk)
    for checkpoint in known_checkpoints(catalog, range(last_marker(catalog), lineage[-1].state.marker, -1)):
        if isinstance(_origin(catalog, refs, history, checkpoint.state), Origin):
            return checkpoint.state
    return lineage[-1].state


def _origin(catalog: Catalog, refs: Refs, history: History, state: State) -> Origin | str:
    for manifest in history.lineage(refs.trunk):
        if manifest.state == state:
            return Origin(state=state, positions=manifest.positions, trained_through=manifest.trained_through)
    if state == BIRTH:
        return Origin(state=state, positions=None, trained_through=NEVER)
    checkpoint = known_checkpoint(catalog, state.marker)
    if checkpoint is None:
        return "is not known, or was removed by retention"
    if checkpoint.state != state:
        return f"is not known: marker {state.marker} is of state {checkpoint.state}"
    if checkpoint.status != "marked" or checkpoint.positions is None:
        return {"expired": "was given up by an earlier resume", "open": "is not finished"}.get(
            checkpoint.status, "has no positions"
        )
    if taken := _taken_back(refs, history, checkpoint):
        return taken
    return Origin(state=state, positions=checkpoint.positions, trained_through=checkpoint.trained_through)


def _taken_back(refs: Refs, history: History, checkpoint: Checkpoint) -> str:
    """Why the live path does not lead through the checkpoint; "" if it does."""
    timeline = checkpoint.state.timeline
    if timeline in refs.abandoned or timeline > refs.timeline:
        return f"is of timeline {timeline}, which is not the model's"
    assert checkpoint.positions is not None
    for manifest in history.rollbacks():
        rollback = manifest.rollback
        if rollback is None or manifest.timeline <= timeline:
            continue
        for p, position in enumerate(checkpoint.positions.partitions):
            if position.offset > rollback.cut[p]:
                return f"lies past the cut of the rollback to {rollback.target} (version {manifest.version})"
    return ""
