"""What retention keeps, and why; whatever has no reason goes. Pure: from an inventory to a plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from penstock.pipeline.core.documents import Document
from penstock.pipeline.core.errors import ChainBroken
from penstock.pipeline.core.history import History
from penstock.pipeline.core.ids import Marker, Offset, Partition, Version
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.times import WallTime

from .inventory import Inventory, folder_of

Reasons = dict[Version, set[str]]
HOLDS_LOG = ("ref", "recovery", "lease", "rollback")
"""The reasons, by their first word, for which the log from a version on is kept as well."""


class Kept(Document, frozen=True, kw_only=True):
    version: Version
    reasons: tuple[str, ...]


class PartitionRoom(Document, frozen=True, kw_only=True):
    """What one partition of the log holds, and from where on it is needed. `behind`: which share of what it holds lies past the
    newest version; at a half a delta is due, or the log may be cut off before one is there."""

    begin: Offset
    needed_from: Offset
    end: Offset
    behind: float


class RetentionPlan(Document, frozen=True, kw_only=True):
    """`oldest` is the oldest version that stays on the trunk. `expired_objects` are keys in the store; their bytes are
    `freed_bytes`. `expired_skips`: of what the log does not hold any more. `unnamed`: announced slices that nothing names, and
    since when that is known."""

    model: str
    oldest: Version
    kept: tuple[Kept, ...]
    expired_versions: tuple[Version, ...]
    expired_uploads: tuple[str, ...]
    expired_checkpoints: tuple[Marker, ...]
    expired_objects: tuple[str, ...]
    expired_skips: tuple[tuple[Partition, Offset], ...]
    freed_bytes: int
    truncate: tuple[Offset, ...]
    log: tuple[PartitionRoom, ...]
    unnamed: dict[str, WallTime]

    @property
    def delta_due(self) -> bool:
        return any(room.behind >= 0.5 for room in self.log)


def classify(found: Inventory) -> RetentionPlan:
    """Classifies first: whatever is not kept for a reason is expired."""
    reasons = _reasons(found)
    trunk, bases = found.history.trunk, found.history.bases.values()
    oldest = min(m.version for m in trunk if m.version in reasons)
    kept = [m for m in trunk if m.version >= oldest] + [base for base in bases if base.version in reasons]
    for manifest in kept:
        reasons.setdefault(manifest.version, {f"later than version {oldest}"})
    dropped = [m for m in (*trunk, *bases) if m.version not in reasons]
    uploads = _expired_uploads(found, kept, dropped)
    gone = [*dropped, *(m for m in found.strays if m.upload not in found.uploads or m.upload in uploads)]
    marker = next(m.state.marker for m in trunk if m.version == oldest)
    checkpoints = [c for c in found.checkpoints if c.state.marker < marker]
    named = _named(found, kept, marker)
    unnamed = {path: found.notes.unnamed.get(path, found.now) for path in found.announced if path not in named}
    slices = {path for path, since in unnamed.items() if since <= found.overdue and path not in found.announced_late}
    objects = [
        *(key for key in found.data if key not in named and _is_given_up(found, folder_of(key), uploads)),
        *(key for key in found.touched if key not in named and int(folder_of(key)) < marker),
        *(key for key in found.announced if key in slices),
    ]
    needed = _needed_offsets(found, reasons)
    return RetentionPlan(
        model=trunk[0].model,
        oldest=oldest,
        kept=tuple(Kept(version=v, reasons=tuple(sorted(reasons[v]))) for v in sorted(m.version for m in kept)),
        expired_versions=tuple(sorted(m.version for m in gone)),
        expired_uploads=tuple(sorted(uploads)),
        expired_checkpoints=tuple(sorted([*(c.state.marker for c in checkpoints), *map(_number, found.old_checkpoints)])),
        expired_objects=tuple(objects),
        expired_skips=tuple(found.skips.between([Offset(0)] * len(found.begins), found.begins)),
        freed_bytes=sum(found.sizes[key] for key in objects),
        truncate=needed,
        log=_rooms(found, needed),
        unnamed={path: since for path, since in unnamed.items() if path not in slices},
    )


def recovery_floor(lineage: Iterable[Manifest], *, since: int, skew_us: int) -> Manifest:
    """The version from which on every moment from `since` on can be recovered: made so long before that clocks do not matter."""
    versions = list(lineage)
    return next((m for m in reversed(versions) if m.created_at < since - 2 * skew_us), versions[0])


def _reasons(found: Inventory) -> Reasons:
    """Why versions are needed: for themselves, as part of another one's chain, or since a replica is there: it adopts what comes
    next, and goes through every undo on its way."""
    reasons: Reasons = {}
    known = {m.version: m for m in (*found.history.trunk, *found.history.bases.values())}
    for version, reason in _needs(found):
        if version in known:
            reasons.setdefault(version, set()).add(reason)
    needed = list(reasons)
    for presence in found.presences:
        if presence.version in known:
            reasons.setdefault(presence.version, set()).add(f"replica {presence.replica}")
    for version in needed:
        # A base beside the chain hangs on the version of its state.
        at = found.history.of_state(known[version].state) or known[version]
        if at.version != version:
            reasons.setdefault(at.version, set()).add(f"version {version} is of its state")
        for part in _chain(found.history, at):
            if part.version != at.version:
                reasons.setdefault(part.version, set()).add(f"chain of version {at.version}")
    return reasons


def _needs(found: Inventory) -> Iterator[tuple[Version, str]]:
    history = found.history
    yield history.newest.version, "ref trunk"
    for name, ref in found.refs.refs.items():
        yield ref.version, f"ref {name}"
    for pin in found.pins:
        yield pin.version, f"pin {pin.name}" if pin.until is None else f"lease {pin.name}"
    if found.claim is not None:
        yield found.claim.base, f"rollback to timeline {found.claim.timeline} under way"
    for manifest in _recoverable(found):
        if _is_reached(found, manifest):
            yield manifest.version, "recovery window"


def _is_reached(found: Inventory, manifest: Manifest) -> bool:
    """Whether the refs lead to all of it. What they do not was out of the window by the clock of whoever let it go, who may be
    about to delete it."""
    try:
        parts = {part.version for part in _chain(found.history, manifest)}
    except ChainBroken:
        return False
    return all(version >= found.refs.oldest or version in found.refs.bases for version in parts)


def _recoverable(found: Inventory) -> Iterator[Manifest]:
    """The versions that a moment inside the window is recovered from, on every timeline that was live in it."""
    since = found.now - found.window_us
    trunk = found.history.trunk
    tips = [(trunk, trunk[-1])]
    for index, manifest in enumerate(trunk):
        if manifest.rollback is not None and manifest.created_at >= since and index:
            tips.append((trunk[:index], trunk[index - 1]))
    for part, tip in tips:
        lineage = History(part, found.history.bases).lineage(tip.version)
        floor = recovery_floor(lineage, since=since, skew_us=found.skew_us)
        yield from lineage[lineage.index(floor) :]


def _chain(history: History, version: Manifest) -> Iterator[Manifest]:
    """What a newcomer loads for it; and the version of the state that this begins with, which leads there."""
    for part in history.chain(version.version):
        yield part
        if (at := history.of_state(part.state)) is not None:
            yield at


def _expired_uploads(found: Inventory, kept: Iterable[Manifest], dropped: Iterable[Manifest]) -> set[str]:
    """Those of versions that go, and those that nobody has committed in time, or ever will."""
    named, gone = {m.upload for m in kept}, {m.upload for m in dropped}
    return {
        upload.id
        for upload in found.uploads.values()
        if upload.id not in named and (upload.id in gone or upload.status == "expired" or upload.created_at <= found.overdue)
    }


def _is_given_up(found: Inventory, upload: str, expired: set[str]) -> bool:
    return upload in expired or upload not in found.uploads


def _named(found: Inventory, kept: Iterable[Manifest], marker: Marker) -> set[str]:
    """Every object that a version or a checkpoint names that stays."""
    named: set[str] = set()
    for manifest in kept:
        named |= manifest.data_paths()
    for checkpoint in found.checkpoints:
        if checkpoint.state.marker >= marker:
            named |= {run.path for touched in checkpoint.touched.values() for run in touched.keys.values()}
            named |= {checkpoint.dense.path} if checkpoint.dense is not None else set()
    return named


def _needed_offsets(found: Inventory, reasons: Reasons) -> tuple[Offset, ...]:
    """Per partition from where on the log is read by somebody: from a version that is needed for it, or by a replica."""
    held = [m for m in found.history.trunk if any(r.split()[0] in HOLDS_LOG for r in reasons.get(m.version, ()))]
    offsets = []
    for p, begin in enumerate(found.begins):
        at = [m.positions.partitions[p].offset for m in held]
        at += [part.offset for presence in found.presences for part in presence.partitions if part.partition == p]
        offsets.append(Offset(max(begin, min(at))))
    return tuple(offsets)


def _rooms(found: Inventory, needed: tuple[Offset, ...]) -> tuple[PartitionRoom, ...]:
    rooms = []
    for p, (begin, end) in enumerate(zip(found.begins, found.ends, strict=True)):
        newest = found.history.newest.positions.partitions[p].offset
        behind = (end - max(newest, begin)) / (end - begin) if end > begin else 0.0
        rooms.append(PartitionRoom(begin=begin, needed_from=needed[p], end=end, behind=round(behind, 4)))
    return tuple(rooms)


def _number(key: str) -> Marker:
    return Marker(int(key.rsplit("/", 1)[1].removesuffix(".json")))
