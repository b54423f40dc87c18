"""Gives a checkpoint its place in the log: where its sidecar says, or, of a checkpoint that no publisher of the realtime tier has
marked, behind markers that are put here.

The latter is only right when the log holds no rows since the newest version: nobody could say whether the checkpoint has them.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.pipeline.catalog import leases
from penstock.pipeline.catalog.checkpoints import finish_checkpoint, marked_checkpoint, open_checkpoint
from penstock.pipeline.catalog.replay import replay_live
from penstock.pipeline.catalog.skipping import read_skips
from penstock.pipeline.core.checkpoint import Checkpoint, Sidecar, Touched
from penstock.pipeline.core.errors import CommitConflict, InvalidInput, NotResumable, OutcomeUnknown, Refused, Superseded
from penstock.pipeline.core.history import History, effective
from penstock.pipeline.core.ids import Partition, Position, Positions, Reader, State
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.times import EventTime, format_time
from penstock.pipeline.environment import Environment
from penstock.slicer.row_source import Keys

from .judgement import standing
from .key_runs import write_keys
from .marking import OFFLINE, send_markers, touched_folder
from .sending import Sender
from .settings import RealtimeSettings


def learned(
    env: Environment, sidecar: Sidecar | None, trained_through: EventTime | None
) -> tuple[State | None, EventTime | None]:
    """The state that the sidecar names, and what the checkpoint is said to have learned from; one of them at least.
    `InvalidInput` when neither is known, the time lies in the future, or the sidecar is of another model."""
    if sidecar is not None and sidecar.model and sidecar.model != env.catalog.model:
        raise InvalidInput(f"the sidecar is of model {sidecar.model}, not {env.catalog.model}")
    through = trained_through
    if through is None and sidecar is not None:
        through = sidecar.through()
    state = State.parse(sidecar.state) if sidecar is not None and sidecar.state else None
    if through is None and state is None:
        raise InvalidInput(
            "it is not known what the checkpoint has learned from", hint="say --trained-through TIME, or save a sidecar beside it"
        )
    now, skew_us = env.clock(), RealtimeSettings.of(env.config.realtime).skew_us
    if through is not None and through > now + skew_us:
        raise InvalidInput(f"trained_through {format_time(through)} is past the clock, {format_time(now)}, by more than the skew")
    return state, through


def committed_as(history: History, state: State | None) -> Manifest | None:
    """The version that was committed of a state, if one was; `NotResumable` when a rollback has taken it back."""
    committed = None if state is None else history.of_state(state)
    if committed is not None and committed not in history.lineage(history.newest.version):
        raise NotResumable(f"state {state} was committed as version {committed.version}, which a rollback has taken back")
    return committed


def place(
    env: Environment,
    history: History,
    sidecar: Sidecar | None,
    trained_through: EventTime | None,
    touched: Mapping[str, Keys] | None = None,
) -> Checkpoint | Manifest:
    """The finished checkpoint that is to be published on top of `history`: the one that the sidecar names, or one that is marked
    now; where the sidecar names the state of a version, as that of an exported one does, the version.

    `touched`, for a checkpoint that is marked now: the keys that differ from the newest version, by table."""
    state, through = learned(env, sidecar, trained_through)
    if state is None:
        assert through is not None
        return _marked_now(env, history, through, touched)
    if (committed := committed_as(history, state)) is not None:
        return committed
    checkpoint = marked_checkpoint(env.catalog, state)
    if through is not None and through > checkpoint.trained_through:
        raise InvalidInput(
            f"the checkpoint is said to have learned up to {format_time(through)}, but state {state} was marked at "
            f"{format_time(checkpoint.trained_through)}"
        )
    return checkpoint


def _marked_now(env: Environment, history: History, through: EventTime, touched: Mapping[str, Keys] | None) -> Checkpoint:
    catalog, now, newest = env.catalog, env.clock(), history.newest
    if through < newest.trained_through:
        raise Refused(
            f"the checkpoint has learned up to {format_time(through)}, version {newest.version} up to "
            f"{format_time(newest.trained_through)}",
            hint="to go back to an older state, roll back",
        )
    reserve_us = max([0, *(found.reserve_us for found in leases.publisher_terms(catalog))])
    term = leases.take_term(
        catalog, OFFLINE, timeline=newest.timeline, resumed_from=newest.state, reserve_us=reserve_us, now=now
    ).term
    opened = open_checkpoint(catalog, timeline=newest.timeline, publishers={OFFLINE: term}, now=now)
    sender = Sender(env.log, catalog.schema(), OFFLINE, newest.timeline, term)
    sender.send_everywhere(RecordKind.OPEN, through, now=now)
    timeout_s = RealtimeSettings.of(env.config.realtime).flush_timeout_s
    positions = send_markers(sender, opened.state, (), through=through, now=now, timeout_s=timeout_s)
    if positions is None:
        raise OutcomeUnknown(f"the markers of checkpoint {opened.state} were not acknowledged: {sender.broken}")
    positions = _passed(env, history, positions)
    # After the markers were acknowledged: a fence or a newer term before them would show here.
    try:
        claim = standing(catalog, newest.timeline, {OFFLINE: term})
    except Superseded:
        raise CommitConflict("another run publishes a checkpoint without a sidecar at the same time") from None
    if claim is not None:
        # No conflict that is tried again: what the rollback takes back may be in this very checkpoint.
        raise Refused(
            f"the rollback to timeline {claim.timeline}, claimed by {claim.who}, is not decided yet",
            hint="finish it or abandon it; then publish a checkpoint that has not learned what was taken back",
        )
    marked = _touched(env, opened, touched)
    return finish_checkpoint(catalog, opened, positions=positions, trained_through=through, touched={OFFLINE: marked})


def _passed(env: Environment, history: History, markers: Positions) -> Positions:
    """Positions behind the markers, with every publisher's newest record. `Refused` when rows stand before them."""
    newest, rows, partitions, skips = history.newest, 0, [], read_skips(env.catalog)
    for p, (position, marker) in enumerate(zip(newest.positions.partitions, markers.partitions, strict=True)):
        readers = dict(position.readers)
        entries = replay_live(env.log, env.schema, history, Partition(p), position.offset, newest.timeline, marker.offset, skips)
        for _, record, *_ in effective(entries, position.readers, newest.timeline):
            readers[record.publisher] = Reader(record.term, record.seq)
            rows += len(record.keys)
        partitions.append(Position(marker.offset, readers | marker.readers))
    if rows:
        raise Refused(
            f"the log holds {rows} rows since version {newest.version}, and it is not known whether the checkpoint has them",
            hint="save the sidecar of updates.mark() beside the checkpoint, or publish delta --from-log first",
        )
    return Positions(markers.log, tuple(partitions))


def _touched(env: Environment, opened: Checkpoint, touched: Mapping[str, Keys] | None) -> Touched:
    schema = env.schema
    if touched is None:
        return Touched(keys={}, whole=tuple(sorted(schema.tables)))
    prefix = f"{touched_folder(env.catalog.model, opened.state.marker)}/{OFFLINE}-{env.catalog.new_id()}"
    return Touched(
        keys={
            table: write_keys(env.catalog.store, schema, table, keys, prefix)
            for table, keys in sorted(touched.items())
            if table in schema.tables and len(keys)
        }
    )
