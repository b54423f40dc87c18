"""Where a rollback goes, and the cut of a partition that follows from it. Pure.

Poison spreads by state: a row written after the trainer has seen data from T has learned from it, even when its own event is
older. So the cut is the first record that carries a `trained_through` of T or later, whoever wrote it, also one that readers
drop. What comes before the cut in a partition counts, and nothing behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from penstock.pipeline.core.errors import InvalidInput, Refused
from penstock.pipeline.core.history import Entry, History
from penstock.pipeline.core.ids import Offset, State, Timeline, Version
from penstock.pipeline.core.manifest import Manifest, Target
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.times import EventTime, WallTime, format_time


def before_event(moment: EventTime) -> Target:
    """To the last state that learned from nothing at or after `moment`."""
    return Target(kind="before_event", time=moment)


def before_append(moment: WallTime) -> Target:
    """To what the log held before `moment`, by the log's own clock."""
    return Target(kind="before_append", time=moment)


def to_version(version: Version) -> Target:
    return Target(kind="version", version=version)


def to_state(state: State) -> Target:
    return Target(kind="state", state=state)


def reaches(target: Target, entry: Entry) -> bool:
    """Whether this record lies at or beyond a target that is a time."""
    if entry.record.kind == RecordKind.FENCE:
        return False
    if target.kind == "before_event":
        return entry.record.trained_through >= target.time
    if target.kind == "before_append":
        return entry.appended_at >= target.time
    raise InvalidInput(f"a rollback to {target} is not cut by time")


def first_reaching(target: Target, entries: Iterable[Entry]) -> Offset | None:
    """The offset of the first record at or beyond the target; None when there is none yet."""
    return next((entry.offset for entry in entries if reaches(target, entry)), None)


def is_by_time(target: Target) -> bool:
    return target.kind in ("before_event", "before_append")


def scan_floor(target: Target, lineage: Sequence[Manifest], *, margin_us: int | None) -> Manifest:
    """The version from whose positions on a cut has to be looked for.

    By event time that is the newest that has not learned of the target. By append time, and where publishers reserve event
    time ahead, what precedes a version may lie beyond the target although the version does not say so; then it must have been
    made `margin_us` before the target: by so much may clocks, watermarks and reservations be ahead."""
    for manifest in reversed(lineage):
        learned = target.kind == "before_event" and manifest.trained_through >= target.time
        if not learned and (margin_us is None or manifest.created_at < target.time - margin_us):
            return manifest
    return lineage[0]


def choose_base(target: Target, lineage: Sequence[Manifest], cuts: Sequence[Offset | None]) -> Manifest:
    """The newest version that a recovery to `target` can start from: it has learned from nothing at or after the target, and
    stands at or before every cut. `Refused` names the oldest when none is old enough."""
    for manifest in reversed(lineage):
        positions = manifest.positions.partitions
        if is_clean(target, manifest) and all(cut is None or at.offset <= cut for at, cut in zip(positions, cuts, strict=True)):
            return manifest
    raise out_of_reach(target, lineage[0])


def is_clean(target: Target, manifest: Manifest) -> bool:
    """Whether the version claims to have learned from nothing at or after a target that is an event time."""
    return target.kind != "before_event" or manifest.trained_through < target.time


def out_of_reach(target: Target, oldest: Manifest) -> Refused:
    return Refused(
        f"no version that is retained is old enough to go back to {target}: the oldest, {oldest.version}, was made "
        f"{format_time(oldest.created_at)} and has learned up to {format_time(oldest.trained_through)}",
        hint="a longer recovery.window keeps older ones",
    )


def named_history(history: History, timeline: Timeline | None) -> History:
    """The history on which a target of `timeline` is found: as it was before a rollback left that timeline."""
    if timeline is None or timeline == history.newest.timeline:
        return history
    found = history.until(timeline) if any(m.timeline == timeline for m in history.trunk) else None
    if found is None or found.newest.timeline != timeline:
        raise InvalidInput(f"no version of timeline {timeline} is retained (the live one is {history.newest.timeline})")
    return found
