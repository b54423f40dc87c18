"""What a key of an object store may look like; the same rule for every adapter, so that a key fit for one is fit for all.

A key is at most 900 bytes of UTF-8 in parts of at most 255, no part empty, '.' or '..'; no backslash and no control
character; the first part starts with no '.': such names belong to the adapters. No key is the folder of another key.
"""

from __future__ import annotations

from ..core.errors import InvalidInput

MAX_KEY_BYTES = 900
MAX_PART_BYTES = 255


def checked_key(key: str) -> str:
    """`key`; `InvalidInput` names the rule that it breaks."""
    if not key:
        raise InvalidInput("key '': empty")
    return _checked(key, key.split("/"))


def checked_prefix(prefix: str) -> str:
    """`prefix`, when it is the start of some key: its last part may be empty or unfinished."""
    *whole, last = prefix.split("/")
    unfinished = [last] if last.strip(".") else []
    return _checked(prefix, whole + unfinished)


def _checked(key: str, parts: list[str]) -> str:
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"key {key!r}: not Unicode text") from None
    if len(encoded) > MAX_KEY_BYTES:
        raise InvalidInput(f"key {key[:40]!r}…: {len(encoded)} bytes, at most {MAX_KEY_BYTES}")
    if any(sign == "\\" or sign < " " or sign == "\x7f" for sign in key):
        raise InvalidInput(f"key {key!r}: a backslash or a control character")
    if key.startswith("."):
        raise InvalidInput(f"key {key!r}: starts with '.'")
    for part in parts:
        if part in {"", ".", ".."}:
            raise InvalidInput(f"key {key!r}: a part {part!r}")
        if len(part.encode()) > MAX_PART_BYTES:
            raise InvalidInput(f"key {key[:40]!r}…: a part of more than {MAX_PART_BYTES} bytes")
    return key
