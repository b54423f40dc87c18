"""Uploads, terms, claims, pins and presence: who is at work, and what must not be taken from under them."""

from __future__ import annotations

import msgspec

from ..core.coordination import Claim, Pin, Presence, PublisherTerm, Upload
from ..core.documents import decode, encode
from ..core.errors import CommitConflict, Expired, InvalidInput, NotFound, Superseded
from ..core.ids import PublisherId, State, Term, Timeline, Version, checked_name
from ..core.refs import Refs
from ..core.times import WallTime
from ..ports.settling import put_settled
from ..ports.store import Create, Overwrite, Swap
from . import keys
from .catalog import ATTEMPTS, Actor, Catalog
from .reading import read_document, read_documents

# ---- uploads ---------------------------------------------------------------------------------------------------------


def open_upload(catalog: Catalog, *, purpose: str, actor: Actor) -> Upload:
    """The intent of a publish, before its first byte; its data goes below `keys.data(model, upload.id)`."""
    upload = Upload(id=catalog.new_id(), purpose=purpose, who=actor.who, status="open", created_at=actor.now)
    put_settled(catalog.store, keys.upload(catalog.model, upload.id), encode(upload), Create())
    return upload


def join_upload(catalog: Catalog, name: str, *, purpose: str, actor: Actor) -> Upload:
    """The upload `name`, which several processes fill; whoever comes first opens it. `Expired` when it was given up."""
    key = keys.upload(catalog.model, checked_name(name, "run"))
    upload = Upload(id=name, purpose=purpose, who=actor.who, status="open", created_at=actor.now)
    try:
        put_settled(catalog.store, key, encode(upload), Create())
    except CommitConflict:
        check_upload(catalog, name)
    return upload


def check_upload(catalog: Catalog, upload: str) -> None:
    """`Expired` unless the upload is still its owner's: the guard of a commit."""
    found = read_document(catalog, Upload, keys.upload(catalog.model, upload))
    if found is None or found.status != "open":
        raise Expired(f"upload {upload} was given up by retention", hint="publish again, and raise retention.publish_deadline")


def expire_upload(catalog: Catalog, upload: Upload) -> None:
    """The first step of removing an upload's data; a barrier of the refs and a look at the committed versions must follow."""
    key = keys.upload(catalog.model, upload.id)
    try:
        found = catalog.store.get(key)
        if decode(Upload, found.data, key).status == "open":
            put_settled(catalog.store, key, encode(msgspec.structs.replace(upload, status="expired")), Swap(found.token))
    except (CommitConflict, NotFound):
        return  # another retention run was quicker


def uploads(catalog: Catalog) -> list[Upload]:
    return read_documents(catalog, Upload, keys.uploads(catalog.model))


# ---- publishers ------------------------------------------------------------------------------------------------------


def publisher_term(catalog: Catalog, publisher: PublisherId) -> PublisherTerm | None:
    return read_document(catalog, PublisherTerm, keys.publisher(catalog.model, publisher))


def publisher_terms(catalog: Catalog) -> list[PublisherTerm]:
    return read_documents(catalog, PublisherTerm, keys.publishers(catalog.model))


def take_term(
    catalog: Catalog,
    publisher: PublisherId,
    *,
    timeline: Timeline,
    resumed_from: State,
    reserve_us: int,
    now: WallTime,
    after: Term | None = None,
    taken_id: str | None = None,
) -> PublisherTerm:
    """The publisher's next term, whoever held the last one. With `after`, only if that is still the newest; else `Superseded`.
    To try again after an error, give the same `taken_id` (used for no other term): the first try may have taken effect."""
    checked_name(publisher, "publisher")
    key = keys.publisher(catalog.model, publisher)
    taken_id = taken_id or catalog.new_id()
    for _ in range(ATTEMPTS):
        try:
            found = catalog.store.get(key)
            old: PublisherTerm | None = decode(PublisherTerm, found.data, key)
            condition: Create | Swap = Swap(found.token)
        except NotFound:
            old, condition = None, Create()
        if old is not None and old.id == taken_id:
            return old
        newest = Term(0) if old is None else old.term
        if after is not None and newest != after:
            raise Superseded(f"publisher {publisher} has term {newest}, this process had {after}")
        taken = PublisherTerm(
            id=taken_id, publisher=publisher, term=Term(newest + 1), timeline=timeline, resumed_from=resumed_from,
            reserve_us=reserve_us, opened_at=now,
        )  # fmt: skip
        try:
            put_settled(catalog.store, key, encode(taken), condition)
        except CommitConflict:
            continue
        return taken
    raise CommitConflict(f"publisher {publisher}: its term was taken {ATTEMPTS} times meanwhile")


# ---- claims ----------------------------------------------------------------------------------------------------------


def read_claim(catalog: Catalog, timeline: Timeline) -> Claim | None:
    return read_document(catalog, Claim, keys.claim(catalog.model, timeline))


def open_claim(catalog: Catalog, refs: Refs) -> Claim | None:
    """The rollback that is claimed and not decided yet, if any: one at a time."""
    return read_claim(catalog, refs.next_timeline)


def create_claim(catalog: Catalog, claim: Claim) -> Claim:
    """`CommitConflict` when another rollback is under way."""
    try:
        put_settled(catalog.store, keys.claim(catalog.model, claim.timeline), encode(claim), Create())
    except CommitConflict:
        raise CommitConflict(
            f"timeline {claim.timeline} is claimed by another rollback",
            hint="finish it or abandon it: `penstock rollback --resume`",
        ) from None
    return claim


# ---- pins and presence -----------------------------------------------------------------------------------------------


def put_pin(catalog: Catalog, name: str, version: Version, *, actor: Actor, until: WallTime | None = None) -> Pin:
    """Keeps a version that can be restored, else `NotFound`; a pin of the same name is replaced.

    Retention moves the refs, then looks at the pins, then deletes; so a pin that is there before the refs are looked at is either
    seen, or finds here that its version is gone."""
    checked_name(name, "pin")
    catalog.history().check_restorable(version)
    pin = Pin(id=catalog.new_id(), name=name, version=version, who=actor.who, at=actor.now, why=actor.why, until=until)
    catalog.store.put(keys.pin(catalog.model, name), encode(pin), Overwrite())
    try:
        catalog.history().check_restorable(version)
    except NotFound:
        catalog.store.delete(keys.pin(catalog.model, name))
        raise
    return pin


def remove_pin(catalog: Catalog, name: str) -> Pin:
    key = keys.pin(catalog.model, name)
    found = read_document(catalog, Pin, key)
    if found is None:
        raise NotFound(f"model {catalog.model} has no pin {name!r}")
    catalog.store.delete(key)
    return found


def pins(catalog: Catalog, *, now: WallTime) -> list[Pin]:
    """Those that hold: leases that have run out do not count."""
    return [pin for pin in read_documents(catalog, Pin, keys.pins(catalog.model)) if pin.until is None or pin.until > now]


def report_presence(catalog: Catalog, presence: Presence) -> None:
    if presence.until <= presence.at:
        raise InvalidInput(f"replica {presence.replica}: its lease ends at {presence.until}, before it begins")
    catalog.store.put(keys.presence(catalog.model, presence.replica), encode(presence), Overwrite())


def remove_presence(catalog: Catalog, replica: str) -> None:
    catalog.store.delete(keys.presence(catalog.model, replica))


def presences(catalog: Catalog, *, now: WallTime) -> list[Presence]:
    """The replicas whose lease has not ended."""
    return [p for p in reported(catalog) if p.is_live(now)]


def reported(catalog: Catalog) -> list[Presence]:
    """The replicas that have reported and did not leave, those whose lease has ended included."""
    return read_documents(catalog, Presence, keys.presences(catalog.model))
