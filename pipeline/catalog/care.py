"""How the runs that look after a model ended, so that one that fails night after night is seen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..core.coordination import Care, Work
from ..core.documents import encode
from ..core.errors import InvalidInput, NotFound, PenstockError
from ..core.times import WallTime
from ..ports.store import Overwrite
from . import keys
from .catalog import Catalog
from .reading import read_documents

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """`found`: what is wrong, "" as long as nothing is."""

    found: str = ""


@contextmanager
def cared(catalog: Catalog, work: Work, *, who: str, clock: Callable[[], WallTime]) -> Iterator[Outcome]:
    """Records how the work inside ended: with an error, with what it writes into the outcome, or well. A record that cannot be
    written changes nothing of that."""
    outcome = Outcome()
    try:
        yield outcome
    except (InvalidInput, NotFound):
        raise  # of what was asked for, which says nothing of the model
    except Exception as error:
        outcome.found = str(error) or type(error).__name__
        _record(catalog, work, outcome, who=who, now=clock())
        raise
    _record(catalog, work, outcome, who=who, now=clock())


def _record(catalog: Catalog, work: Work, outcome: Outcome, *, who: str, now: WallTime) -> None:
    found = Care(id=catalog.new_id(), work=work, ok=not outcome.found, found=outcome.found, who=who, at=now)
    try:
        catalog.store.put(keys.care(catalog.model, work), encode(found), Overwrite())
    except PenstockError as error:
        log.warning("how %s ended is not recorded: %s", work, error)


def cares(catalog: Catalog) -> list[Care]:
    """The last run of each kind of work that ever ran."""
    return read_documents(catalog, Care, keys.cares(catalog.model))
