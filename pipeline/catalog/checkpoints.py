"""The life of a checkpoint in the catalog: its number is taken, its markers are counted, or it is given up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ..core.checkpoint import Checkpoint, Touched
from ..core.documents import decode, encode
from ..core.errors import CommitConflict, Expired, NotFound, Refused
from ..core.ids import Marker, Positions, PublisherId, State, Term, Timeline
from ..core.manifest import DenseInfo
from ..core.times import EventTime, WallTime
from ..ports.settling import put_settled
from ..ports.store import Create, Swap, Token
from . import keys
from .catalog import ATTEMPTS, Actor, Catalog
from .reading import read_document


def open_checkpoint(catalog: Catalog, *, timeline: Timeline, publishers: dict[PublisherId, Term], now: WallTime) -> Checkpoint:
    """Takes the next marker number, before any marker is sent. A number is never used twice, on whatever timeline."""
    number = last_marker(catalog) + 1
    while True:
        opened = Checkpoint(
            id=catalog.new_id(),
            state=State(timeline, Marker(number)),
            status="open",
            created_at=now,
            publishers=publishers,
            touched={},
        )
        try:
            put_settled(catalog.store, keys.checkpoint(catalog.model, opened.state.marker), encode(opened), Create())
        except CommitConflict:
            number += 1
            continue
        return opened


def last_marker(catalog: Catalog) -> Marker:
    """The newest marker number taken. Numbers below the trunk's may have been expired by retention, those above never are."""
    newest = catalog.manifest(catalog.refs().trunk).state.marker
    listed = [keys.number_of(entry.key) for entry in catalog.store.list(keys.checkpoints(catalog.model))]
    return Marker(max([newest, *listed[-1:]]))


def finish_checkpoint(
    catalog: Catalog,
    opened: Checkpoint,
    *,
    positions: Positions,
    trained_through: EventTime,
    touched: dict[PublisherId, Touched],
    dense: DenseInfo | None = None,
) -> Checkpoint:
    """The checkpoint counts from now on. `Expired` when a resume gave it up meanwhile."""
    found, token = read_checkpoint(catalog, opened.state.marker)
    marked = msgspec.structs.replace(
        opened, status="marked", positions=positions, trained_through=trained_through, touched=touched, dense=dense
    )
    if found == marked:
        return found
    if found.status != "open" or found.id != opened.id:
        raise Expired(f"checkpoint {opened.state} was given up by a resume of the trainer")
    try:
        put_settled(catalog.store, keys.checkpoint(catalog.model, opened.state.marker), encode(marked), Swap(token))
    except CommitConflict:
        raise Expired(f"checkpoint {opened.state} was given up by a resume of the trainer") from None
    return marked


def read_checkpoint(catalog: Catalog, marker: Marker) -> tuple[Checkpoint, Token]:
    key = keys.checkpoint(catalog.model, marker)
    try:
        found = catalog.store.get(key)
    except NotFound:
        raise NotFound(f"model {catalog.model} has no checkpoint with marker {marker}") from None
    return decode(Checkpoint, found.data, key), found.token


def known_checkpoint(catalog: Catalog, marker: Marker) -> Checkpoint | None:
    """None where there is none, or retention has removed it."""
    return read_document(catalog, Checkpoint, keys.checkpoint(catalog.model, marker))


def known_checkpoints(catalog: Catalog, numbers: Iterable[int]) -> Iterator[Checkpoint]:
    """Those of these markers that are known, in this order; each is read when its turn comes."""
    for number in numbers:
        if (found := known_checkpoint(catalog, Marker(number))) is not None:
            yield found


def marked_checkpoint(catalog: Catalog, state: State) -> Checkpoint:
    """The checkpoint of `state`; `Expired` when it does not count, `Refused` when its markers are not all out."""
    found, _ = read_checkpoint(catalog, state.marker)
    if found.state != state:
        raise NotFound(f"model {catalog.model} has no checkpoint {state}: marker {state.marker} is of {found.state}")
    if found.status == "expired":
        raise Expired(f"checkpoint {state} was given up by a resume of the trainer")
    if found.status == "open":
        raise Refused(f"checkpoint {state} is not finished: its markers are not all in the log")
    return found


def checkpoints_between(catalog: Catalog, base: State, head: State) -> list[Checkpoint]:
    """The checkpoints whose touched keys a delta of (base, head] covers: all that were taken in between, on any timeline, those
    that were never published included. `Refused` when retention has removed one."""
    found = []
    for number in range(base.marker + 1, head.marker + 1):
        if (checkpoint := known_checkpoint(catalog, Marker(number))) is None:
            raise Refused(
                f"checkpoint {number}, between {base} and {head}, is gone: what was touched up to it is not known",
                hint="publish by comparing with the base instead",
            )
        found.append(checkpoint)
    return found


def rows_owed(catalog: Catalog, published: State) -> int:
    """Rows that were touched up to checkpoints past `published`, the newest version's state, and are not in the log: shed, or not
    put at all. Readers get them by the next delta."""
    past = known_checkpoints(catalog, range(published.marker + 1, last_marker(catalog) + 1))
    return sum(touched.unsent for found in past if found.status == "marked" for touched in found.touched.values())


def expire_checkpoints(catalog: Catalog, *, past: State, actor: Actor) -> list[State]:
    """Gives up every unpublished checkpoint past `past`, so that none can be committed any more; returns them. The refs are to
    be read after this."""
    refs = catalog.refs()
    published = {manifest.state for manifest in catalog.history(refs).trunk}
    expired = []
    for number in range(past.marker + 1, last_marker(catalog) + 1):
        for _ in range(ATTEMPTS):
            try:
                found, token = read_checkpoint(catalog, Marker(number))
            except NotFound:
                break
            if found.status == "expired" or found.state in published:
                break
            given_up = msgspec.structs.replace(found, status="expired", id=catalog.new_id())
            try:
                put_settled(catalog.store, keys.checkpoint(catalog.model, Marker(number)), encode(given_up), Swap(token))
            except CommitConflict:
                continue
            expired.append(found.state)
            break
    if expired:
        catalog.barrier(what=f"gave up checkpoints {', '.join(map(str, expired))}", actor=actor)
    return expired
