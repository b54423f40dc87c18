"""JSON documents: canonical bytes out, strict decoding in. Every stored document is a `Document` of one of the modules here.

Canonical: UTF-8, keys sorted, no white space, so that equal documents are equal bytes and a token names one content.
Strict: an unknown field, a missing one, or a wrong type is `Corrupt`, and the message names the object and the path inside it.
"""

from __future__ import annotations

import base64
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import Corrupt, Unsupported

FORMAT = 1
"""The format number of everything stored and sent that this build writes; docs/format.md describes it."""


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stored JSON object; what an older reader must not misread gets a new `format`."""


D = TypeVar("D", bound=Document)


def encode(document: Document) -> bytes:
    return msgspec.json.encode(document, order="sorted")


def decode(kind: type[D], data: bytes, name: str) -> D:
    """The document in `data`; `name` is the object's key, for the error."""
    try:
        document = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, ValueError) as error:
        raise Corrupt(f"{name}: not a {kind.__name__} document: {error}") from None
    found = getattr(document, "format", FORMAT)
    if found != FORMAT:
        raise Unsupported(f"{name}: format {found}, this build reads {FORMAT}")
    return document


class DigestVector(msgspec.Struct, frozen=True, array_like=True):
    """uint64[buckets], as base64 of little-endian words: the digest of each bucket of one table."""

    text: str

    @classmethod
    def of(cls, digests: NDArray[np.uint64]) -> DigestVector:
        return cls(base64.b64encode(digests.astype("<u8").tobytes()).decode())

    def array(self, buckets: int) -> NDArray[np.uint64]:
        """The words; `Corrupt` when there are not `buckets` of them."""
        try:
            raw = base64.b64decode(self.text, validate=True)
        except ValueError as error:
            raise Corrupt(f"digest vector: {error}") from None
        if len(raw) != 8 * buckets:
            raise Corrupt(f"digest vector: {len(raw)} bytes for {buckets} buckets")
        return np.frombuffer(raw, "<u8").astype(np.uint64)
