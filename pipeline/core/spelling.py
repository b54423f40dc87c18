"""Keys as people write and read them. Light: only a text loads the compiler that hashes it."""

from __future__ import annotations

from .errors import InvalidInput
from .schema import KeyType


def key_of(text: str, kind: KeyType) -> int:
    """The key that is meant by `text` as a command line gave it: itself as a number, or what it stands for. `InvalidInput` when
    it is no number of 64 bits."""
    if kind == "string":
        from .text_keys import hash_text

        return hash_text(_bytes(text))
    try:
        number = int(text)
    except ValueError:
        raise InvalidInput(f"key {text!r} is not a number") from None
    if not -(2**63) <= number < 2**63:
        raise InvalidInput(f"key {text} does not fit 64 bits")
    return number


def spelled(text: str, kind: KeyType) -> str:
    """The one way to write the key that is meant by `text`."""
    return shown(_bytes(text)) if kind == "string" else str(key_of(text, kind))


def shown(text: bytes) -> str:
    """For people: bytes that are no UTF-8 as escapes."""
    return text.decode(errors="backslashreplace")


def _bytes(text: str) -> bytes:
    """A command line gives bytes that are no UTF-8 as surrogates."""
    return text.encode(errors="surrogateescape")
