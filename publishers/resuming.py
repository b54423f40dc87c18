"""How a publisher comes to life: it takes a term, makes the checkpoints past its state void, opens its term in every partition,
and only then looks for what its predecessors left behind. Any step may be repeated; another resume takes over cleanly."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.pipeline.catalog.checkpoints import expire_checkpoints, last_marker
from penstock.pipeline.catalog.leases import publisher_term, publisher_terms, take_term
from penstock.pipeline.core.coordination import PublisherTerm
from penstock.pipeline.core.errors import CommitConflict, Fenced, InvalidInput, NotResumable, OutcomeUnknown
from penstock.pipeline.core.ids import BIRTH, Offset, PublisherId, State, Timeline
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.times import EventTime
from penstock.pipeline.environment import Environment

from .dirty import Dirty, dirty_keys
from .judgement import standing
from .marking import OFFLINE
from .origins import Origin, newest_origin, origin
from .sending import Sender
from .settings import RealtimeSettings
from .touched import TouchedKeys

ATTEMPTS = 5
"""How often a resume begins anew when a rollback is decided meanwhile, and how many terms it opens when records get lost."""


@dataclass(slots=True, kw_only=True)
class Resumed:
    """A publisher that is ready to send. `touched` are the keys that are dirty; `own_dirty` those it wrote itself."""

    state: State
    through: EventTime
    sender: Sender
    touched: TouchedKeys
    own_dirty: TouchedKeys


def resume(environment: Environment, publisher: PublisherId, state: State | None, settings: RealtimeSettings) -> Resumed:
    """From `state`, which the trainer was loaded from; None: from nothing, for a publisher that is new. `NotResumable` names the
    state to load instead; `InvalidInput` when publishers that share the model do not reserve ahead."""
    if publisher == OFFLINE:
        raise InvalidInput(
            f"publisher {publisher!r} is the one of offline publishing", hint="call the trainer's publisher otherwise"
        )
    catalog = environment.catalog
    before = publisher_term(catalog, publisher)
    if state is None and before is not None and not _unborn(environment, before):
        newest = newest_origin(catalog, catalog.refs(), catalog.history())
        raise NotResumable(f"publisher {publisher} has published before (term {before.term}); load state {newest} instead")
    for _ in range(ATTEMPTS):
        refs = catalog.refs()
        start = origin(catalog, refs, catalog.history(refs), BIRTH if state is None else state)
        _check_reserves(environment, publisher, refs.timeline, settings)
        sender, opened = _open(environment, publisher, start, refs.timeline, settings)
        expire_checkpoints(catalog, past=start.state, actor=environment.actor(f"{publisher} resumes from {start.state}"))
        refs = catalog.refs()
        if refs.timeline != sender.timeline:
            continue  # rolled back meanwhile: what was opened lies behind the fence
        history = catalog.history(refs)
        start = origin(catalog, refs, history, start.state)
        found: Dirty = dirty_keys(
            catalog, environment.log, history, start, publisher=publisher, heir_of=_gone(environment, refs.timeline),
            opened=opened, limit=settings.touched_keys,
        )  # fmt: skip
        try:
            standing(catalog, sender.timeline, {publisher: sender.term})
        except Fenced:
            continue
        _check_reserves(environment, publisher, refs.timeline, settings)  # again: another one may have come at the same time
        return Resumed(
            state=start.state, through=start.trained_through, sender=sender, touched=found.touched, own_dirty=found.own
        )
    raise CommitConflict(f"publisher {publisher}: the model was rolled back {ATTEMPTS} times while it resumed")


def _open(
    environment: Environment, publisher: PublisherId, start: Origin, timeline: Timeline, settings: RealtimeSettings
) -> tuple[Sender, list[Offset]]:
    """A new term, and the offsets of its opening records, all acknowledged. Where the fate of one is unknown, a newer term."""
    trouble = ""
    for _ in range(ATTEMPTS):
        term = take_term(
            environment.catalog, publisher, timeline=timeline, resumed_from=start.state, reserve_us=settings.reserve_us,
            now=environment.clock(),
        )  # fmt: skip
        sender = Sender(environment.log, environment.catalog.reload_schema(), publisher, timeline, term.term)
        opening = sender.send_everywhere(RecordKind.OPEN, start.trained_through, now=environment.clock())
        while sender.broken is None and not sender.idle:
            sender.wait(settings.flush_timeout_s)
        if sender.broken is None:
            return sender, [sent.pending.result(0.0) for sent in opening]
        trouble = str(sender.broken)
    raise OutcomeUnknown(f"publisher {publisher}: {ATTEMPTS} terms could not be opened: {trouble}")


def _check_reserves(environment: Environment, publisher: PublisherId, timeline: Timeline, settings: RealtimeSettings) -> None:
    """Rows of publishers that share a model learn from each other's events, so each must say beforehand how far it goes."""
    silent = [
        found.publisher
        for found in publisher_terms(environment.catalog)
        if found.publisher not in (publisher, OFFLINE) and found.timeline == timeline
        and (not found.reserve_us or not settings.reserve_us)
    ]  # fmt: skip
    if silent:
        raise InvalidInput(
            f"publisher {publisher} would share model {environment.catalog.model} with {', '.join(sorted(silent))}, "
            "and not each of them reserves event time ahead",
            hint="set realtime.reserve_ahead and open each of them again, or resume under the id of the one that is gone",
        )


def _unborn(environment: Environment, before: PublisherTerm) -> bool:
    """Whether the publisher never got further than its first resume: nothing was ever marked or committed."""
    catalog = environment.catalog
    return before.resumed_from == BIRTH and catalog.refs().trunk == 0 and last_marker(catalog) == 0


def _gone(environment: Environment, timeline: Timeline) -> set[PublisherId]:
    """Publishers that have not come back since the last rollback, and the one of offline publishing."""
    return {found.publisher for found in publisher_terms(environment.catalog) if found.timeline < timeline} | {OFFLINE}
