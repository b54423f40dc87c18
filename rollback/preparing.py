"""What a rollback computes before it stops anybody: everything but what is written until its last fence. Nobody sees it before
the commit, and who prepares in vain leaves an upload that retention removes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.pipeline.catalog import keys, leases
from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.core.coordination import Upload
from penstock.pipeline.core.ids import Offset, Timeline, Version
from penstock.pipeline.core.refs import Refs
from penstock.pipeline.core.skips import Skips
from penstock.pipeline.environment import Environment

from .gathering import cuts_of, ends_of
from .plan import RollbackPlan
from .undo import Begun, recover


@dataclass(frozen=True, slots=True)
class Prepared:
    """A recovery that was begun from these refs and skips, into an upload."""

    trunk: Version
    skips: Skips
    upload: Upload
    cuts: tuple[Offset, ...]
    begun: Begun

    def holds(self, refs: Refs, skips: Skips, fences: Sequence[Offset]) -> bool:
        """Whether it would be computed again just so, and all that came since then lies before the fences."""
        grew = all(end <= fence for end, fence in zip(self.begun.ends, fences, strict=True))
        return refs.trunk == self.trunk and skips == self.skips and grew


def prepare(env: Environment, plan: RollbackPlan, *, why: str) -> Prepared | None:
    """Begins what `plan` says. None where all of it has to wait for the fences: tables that stay go on up to there, and a
    partition that has not reached the target may yet."""
    if plan.tables is not None:
        return None
    refs, skips = env.catalog.refs(), read_skips(env.catalog)
    history = env.catalog.history(refs)
    history.check_restorable(plan.base)
    ends = ends_of(env, history, refs.timeline)
    env.catalog.reload_schema()  # a table is born before its first record: behind the ends, all of those before them are known
    named, found = cuts_of(env, history, plan.target, Timeline(plan.of), ends)
    cuts = tuple(cut for cut in found if cut is not None)
    if len(cuts) < len(found):
        return None
    upload = leases.open_upload(env.catalog, purpose=f"rollback to timeline {plan.timeline}", actor=env.actor(why))
    folder = keys.data(env.catalog.model, upload.id)
    base = history.version(plan.base)
    begun = recover(env, history, named, base, tables=None, cuts=cuts, fences=ends, folder=folder)
    return Prepared(refs.trunk, skips, upload, cuts, begun)
