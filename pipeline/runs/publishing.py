"""Deltas and snapshots of an interval. A run that is repeated, after it was cut off anywhere, ends with the same version."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import msgspec

from penstock.publishers.commits import whole_state
from penstock.publishers.delta import publish_delta
from penstock.publishers.fanout import PartDocument, commit_parts, publish_part
from penstock.publishers.folding import publish_delta_from_log
from penstock.publishers.sources import checkpoint_source
from penstock.slicer.readers import open_checkpoint
from penstock.slicer.sidecar import read_sidecar

from ..catalog import keys
from ..core.coordination import Upload
from ..core.documents import decode
from ..core.errors import NotFound, Refused
from ..core.history import History
from ..core.manifest import Manifest
from ..core.times import WallTime, format_time
from ..environment import Environment
from .coverage import Candidate, candidates


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """A version, as runs tell of it. `digest_of`: whether `digest` is of the whole state, or of what the version writes."""

    version: int
    state: str
    kind: str
    rows: int
    tombstones: int
    bytes: int
    trained_through: str
    digest_of: str
    digest: str


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """The checkpoint that a snapshot is made of, by a run of `parts` parts whose name is `run`."""

    path: str
    run: str
    parts: int


def committed(env: Environment, manifest: Manifest) -> Committed:
    digest_of, digest = manifest.digest(env.catalog.reload_schema().buckets)
    return Committed(
        version=manifest.version, state=str(manifest.state), kind=manifest.kind, rows=manifest.rows,
        tombstones=manifest.tombstones, bytes=manifest.bytes, trained_through=format_time(manifest.trained_through),
        digest_of=digest_of, digest=digest,
    )  # fmt: skip


def publish_newest_delta(env: Environment, *, until: WallTime, named: Collection[str] = (), why: str) -> Manifest | None:
    """The delta of the newest checkpoint that was there before `until`, or, where no file of a newer one is, of the newest that
    the log had before `until`. The version that a run of the same name has made before; None where there is nothing new."""
    found = _candidates(env, env.catalog.history(), until=until, named=named)
    if found and found[-1].committed is None:
        with checkpoint_source(found[-1].path, env.model) as source:
            made = publish_delta(env, source, sidecar=found[-1].sidecar, why=why)
    else:
        made = publish_delta_from_log(env, until=until, why=why)
    return made if _made_by(env, made) else None


def choose_snapshot(env: Environment, *, until: WallTime, parts: int, name: str, why: str) -> Chosen | None:
    """The newest whole checkpoint that was there before `until`; None where there is none, or its state is there as a whole by
    another run. `name`: of the run. Its state is committed first, so that deltas may go on while it is sliced."""
    history = env.catalog.history()
    for found in reversed(_candidates(env, history, until=until)):
        with open_checkpoint(found.path) as checkpoint:
            if checkpoint.partial:
                continue
        state = found.sidecar.state or "unmarked"
        run = f"{re.sub('[^0-9A-Za-z_-]+', '-', name)[-70:].strip('-')}-{state}-of-{parts}"
        whole = None if found.committed is None else whole_state(history, found.committed)
        if whole is not None and whole.upload != run:
            return None
        if found.committed is None and found.sidecar.state and history.newest.kind != "birth":
            _commit_state(env, found, why=why)
        return Chosen(path=str(found.path), run=run, parts=parts)
    return None


def _commit_state(env: Environment, found: Candidate, *, why: str) -> None:
    with checkpoint_source(found.path, env.model) as source, suppress(Refused):  # of another shape, which the snapshot brings
        publish_delta(env, source, sidecar=found.sidecar, why=why)


def slice_part(env: Environment, chosen: Chosen, part: int) -> PartDocument:
    """Slices part `part` (from 1) of a snapshot."""
    path = Path(chosen.path)
    with checkpoint_source(path, env.model) as source:
        return publish_part(env, source, run=chosen.run, part=part, of=chosen.parts, sidecar=read_sidecar(path))


def commit_snapshot(env: Environment, chosen: Chosen, *, why: str) -> Manifest:
    """Joins the parts, and commits."""
    return commit_parts(env, run=chosen.run, why=why)


def _candidates(env: Environment, history: History, *, until: WallTime, named: Collection[str] = ()) -> list[Candidate]:
    pattern = env.model.schedule.checkpoints
    return [] if pattern is None else candidates(env, history, pattern=pattern, until=until, named=named)


def _made_by(env: Environment, manifest: Manifest) -> bool:
    """Whether whoever acts here has made the version, in this try or an earlier one."""
    key = keys.upload(env.catalog.model, manifest.upload)
    try:
        return decode(Upload, env.catalog.store.get(key).data, key).who == env.who
    except NotFound:
        return False
