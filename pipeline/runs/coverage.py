"""Which checkpoint a run covers: the newest that was there before the run's interval ended, however late the run itself comes.

A checkpoint is there once its sidecar is, which its trainer writes last. It was there at the time that the catalog says of its
markers; one that no publisher of the realtime tier has marked, at the event time that it has learned up to.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from penstock.slicer.sidecar import is_sidecar, read_sidecar

from ..catalog.checkpoints import known_checkpoint
from ..core.checkpoint import Sidecar
from ..core.errors import Corrupt
from ..core.history import History
from ..core.ids import State
from ..core.manifest import Manifest
from ..core.times import WallTime
from ..environment import Environment

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A checkpoint that a trainer has left, and that may be published: of a state that is newer than the newest version, or
    `committed` by a version on the live path. One without a state is taken to be the newest version's, where that has learned up
    to the same moment. `at`: since when it is there."""

    path: Path
    sidecar: Sidecar
    at: int
    committed: Manifest | None


def candidates(
    env: Environment, history: History, *, pattern: str, until: WallTime, named: Collection[str] = ()
) -> list[Candidate]:
    """The checkpoints whose paths match `pattern` and that were there before `until`, oldest first. Those that are `named` were,
    whatever clocks say."""
    found = []
    for path in map(Path, glob.glob(pattern)):
        sidecar = None if is_sidecar(path) else _sidecar(path)
        if sidecar is None or sidecar.model not in ("", env.catalog.model):
            continue
        candidate = _marked(env, history, path, sidecar) if sidecar.state else _unmarked(history, path, sidecar)
        if candidate is not None and (candidate.at < until or str(path) in named):
            found.append(candidate)
    return sorted(found, key=lambda each: (each.at, str(each.path)))


def _sidecar(path: Path) -> Sidecar | None:
    try:
        return read_sidecar(path)
    except Corrupt as error:
        log.warning("%s is passed over: %s", path, error)
        return None


def _marked(env: Environment, history: History, path: Path, sidecar: Sidecar) -> Candidate | None:
    state, newest = State.parse(sidecar.state), history.newest
    checkpoint = known_checkpoint(env.catalog, state.marker)
    if checkpoint is None:
        return None  # retention has removed all that was of its time
    committed = history.of_state(state)
    if committed is None:
        is_newer = state.timeline == newest.timeline and state.marker > newest.state.marker
        if not is_newer or checkpoint.state != state or checkpoint.status != "marked":
            return None
    elif committed not in history.lineage(newest.version):
        return None
    return Candidate(path=path, sidecar=sidecar, at=checkpoint.created_at, committed=committed)


def _unmarked(history: History, path: Path, sidecar: Sidecar) -> Candidate | None:
    through, newest = sidecar.through(), history.newest
    if through is None or through < newest.trained_through:
        return None
    return Candidate(path=path, sidecar=sidecar, at=through, committed=newest if through == newest.trained_through else None)
