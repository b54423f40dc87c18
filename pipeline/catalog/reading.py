"""Reads the small documents of a catalog, which others may remove at any time."""

from __future__ import annotations

from typing import TypeVar

from ..core.documents import Document, decode
from ..core.errors import NotFound
from .catalog import Catalog

D = TypeVar("D", bound=Document)


def read_document(catalog: Catalog, kind: type[D], key: str) -> D | None:
    try:
        return decode(kind, catalog.store.get(key).data, key)
    except NotFound:
        return None


def read_documents(catalog: Catalog, kind: type[D], prefix: str) -> list[D]:
    """All below `prefix`, in the order of their keys."""
    found = [read_document(catalog, kind, entry.key) for entry in catalog.store.list(prefix)]
    return [document for document in found if document is not None]
