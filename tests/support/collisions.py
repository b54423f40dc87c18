"""Two texts with one XXH64: it is no cryptographic hash, so they can be computed.

In the first of its four lanes, 8 bytes of each stripe of 32 are mixed in by `rotl(sum + word * P2, 31) * P1`, which can be
undone: for two different words in the first stripe there are two in the second one that bring the lane to the same value.
"""

from __future__ import annotations

_MASK = 2**64 - 1
_P1, _P2 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F


def collision(one: bytes = b"lane one", other: bytes = b"LANE ONE", *, tail: bytes = b"") -> tuple[bytes, bytes]:
    """Texts of 64 bytes and `tail` that begin with `one` and `other`, 8 bytes each."""
    last = int.from_bytes(b"the last", "little")
    between = (_mixed(one) - _mixed(other)) * pow(_P2, -1, 2**64)
    second = ((last + between) & _MASK).to_bytes(8, "little")
    rest = b"." * 24
    return one + rest + b"the last" + rest + tail, other + rest + second + rest + tail


def _mixed(word: bytes) -> int:
    total = (_P1 + _P2 + int.from_bytes(word, "little") * _P2) & _MASK
    return ((total << 31 | total >> 33) & _MASK) * _P1 & _MASK
