"""Publishing a checkpoint that no publisher of the realtime tier has marked: it is given its place in the log here.

The run puts a marker of its own into every partition. That is only right when the log holds no rows since the newest version:
nobody could say whether the checkpoint has them.
"""

from __future__ import annotations

from penstock.pipeline.catalog import leases
from penstock.pipeline.catalog.checkpoints import finish_checkpoint, marked_checkpoint, open_checkpoint
from penstock.pipeline.catalog.replay import replay_live
from penstock.pipeline.core.checkpoint import Checkpoint, Sidecar, Touched
from penstock.pipeline.core.errors import InvalidInput, OutcomeUnknown, Refused
from penstock.pipeline.core.history import effective
from penstock.pipeline.core.ids import Partition, Positions, PublisherId, State
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.records import RecordKind
from penstock.pipeline.core.times import EventTime, format_time
from penstock.pipeline.environment import Environment

from .key_runs import write_keys
from .marking import OFFLINE, send_markers, touched_folder
from .sending import Sender
from .sources import Keys

ACK_TIMEOUT_S = 30.0


def place(
    env: Environment, sidecar: Sidecar | None, trained_through: EventTime | None, touched: dict[str, Keys] | None
) -> Checkpoint | Manifest:
    """The finished checkpoint that is to be published: the one that the sidecar names, or one that is marked now. Where the
    sidecar names the state of a version that exists, as an exported one does, that version."""
    if sidecar is not None and sidecar.state:
        if sidecar.model and sidecar.model != env.catalog.model:
            raise InvalidInput(f"the sidecar is of model {sidecar.model}, not {env.catalog.model}")
        state = State.parse(sidecar.state)
        committed = env.catalog.history().of_state(state)
        return committed if committed is not None else marked_checkpoint(env.catalog, state)
    through = trained_through if trained_through is not None else (None if sidecar is None else sidecar.through())
    if through is None:
        raise InvalidInput(
            "it is not known what the checkpoint has learned from", hint="say --trained-through TIME, or save a sidecar beside it"
        )
    return _mark(env, through, touched)


def _mark(env: Environment, through: EventTime, touched: dict[str, Keys] | None) -> Checkpoint:
    catalog, now = env.catalog, env.clock()
    refs = catalog.refs()
    newest = catalog.history(refs).newest
    if through < newest.trained_through:
        raise Refused(
            f"the checkpoint has learned up to {format_time(through)}, version {newest.version} up to "
            f"{format_time(newest.trained_through)}",
            hint="to go back to an older state, roll back",
        )
    reserve_us = max([0, *(found.reserve_us for found in leases.publisher_terms(catalog))])
    term = leases.take_term(catalog, OFFLINE, timeline=refs.timeline, resumed_from=newest.state, reserve_us=reserve_us, now=now)
    opened = open_checkpoint(catalog, timeline=refs.timeline, publishers={OFFLINE: term.term}, now=now)
    sender = Sender(env.log, catalog.schema(), OFFLINE, refs.timeline, term.term)
    sender.send_everywhere(RecordKind.OPEN, through, now=now)
    positions = send_markers(sender, opened.state, (), through=through, now=now, timeout_s=ACK_TIMEOUT_S)
    if positions is None:
        raise OutcomeUnknown(f"the markers of checkpoint {opened.state} were not acknowledged")
    _check_quiet(env, newest, positions)
    # Read after the markers were acknowledged: a fence or a newer term before them would show here.
    from .judgement import judge

    judge(catalog, refs.timeline, {OFFLINE: term.term}, pause=lambda s: None, patience_s=0.0)
    if touched is None:
        known = Touched(keys={}, whole=tuple(sorted(catalog.reload_schema().tables)))
    else:
        folder = touched_folder(catalog.model, opened.state.marker)
        schema, unique = catalog.schema(), catalog.new_id()
        runs = {
            t: write_keys(catalog.store, schema, t, keys, f"{folder}/offline-{unique}-{t}.arrow") for t, keys in touched.items()
        }
        known = Touched(keys=runs)
    return finish_checkpoint(catalog, opened, positions=positions, trained_through=through, touched={PublisherId(OFFLINE): known})


def _check_quiet(env: Environment, newest: Manifest, positions: Positions) -> None:
    """`Refused` when the log holds rows between the newest version and the marker."""
    history, rows = env.catalog.history(), 0
    for p, position in enumerate(newest.positions.partitions):
        end = positions.partitions[p].offset
        live = replay_live(env.log, env.schema, history, Partition(p), position.offset, newest.timeline, end)
        for entry in effective(live, position.readers, newest.timeline):
            rows += len(entry.record.keys)
    if rows:
        raise Refused(
            f"the log holds {rows} rows since version {newest.version}, and it is not known whether the checkpoint has them",
            hint="save the sidecar of updates.mark() beside the checkpoint, or publish delta --from-log first",
        )
