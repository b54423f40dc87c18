"""Tensors that are numbered parts of one, told by their names: `emb/part_0`, `emb/part_00000-of-00004`, `emb_1of2-keys`.

Knows no table and no format. A number alone joins nothing: `emb_0` and `emb_1` are two tables more often than two halves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .readers.checkpoint import Role, TensorInfo

_PART = re.compile(
    r"(?<![A-Za-z])(?:part|partition|shard)[_.-]?(?P<worded>\d{1,9})(?!\d)(?:-of-(?P<total>\d{1,9}))?"
    r"|[_.-](?P<counted>\d{1,9})[_-]?of[_-]?(?P<count>\d{1,9})(?!\d)"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor, or the parts that make one, in the order of their numbers. `name` has a `*` where the parts have numbers."""

    name: str
    parts: tuple[TensorInfo, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the parts together, joined along the first dimension."""
        first = self.parts[0].shape
        return first if len(self.parts) == 1 else (sum(part.shape[0] for part in self.parts), *first[1:])

    @property
    def dtype(self) -> str:
        return self.parts[0].dtype

    @property
    def role(self) -> Role:
        return self.parts[0].role

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def in_config(self) -> str | list[str]:
        """How the config names it."""
        if len(self.parts) == 1:
            return self.parts[0].name
        return self.name if self.name.count("*") == 1 else [part.name for part in self.parts]


def pieces_of(tensors: Iterable[TensorInfo]) -> list[Piece]:
    """The tensors, in their order, with complete sets of parts joined; a set with a hole, or of other columns, stays apart."""
    groups: dict[tuple[str, str], list[tuple[int, int | None, TensorInfo]]] = {}
    order: list[tuple[str, str] | TensorInfo] = []
    names: set[str] = set()
    for info in tensors:
        names.add(info.name)
        found = _PART.search(info.name)
        if found is None:
            order.append(info)
            continue
        group = "worded" if found["worded"] else "counted"
        key = (info.name[: found.start(group)], info.name[found.end(group) :])
        if key not in groups:
            order.append(key)
        total = found["total"] or found["count"]
        groups.setdefault(key, []).append((int(found[group]), int(total) if total else None, info))
    pieces: list[Piece] = []
    for each in order:
        if isinstance(each, TensorInfo):
            pieces.append(Piece(each.name, (each,)))
        elif _complete(group_of := groups[each]) and f"{each[0]}*{each[1]}" not in names:
            parts = tuple(info for _, _, info in sorted(group_of, key=lambda part: part[0]))
            pieces.append(Piece(f"{each[0]}*{each[1]}" if len(parts) > 1 else parts[0].name, parts))
        else:
            pieces += [Piece(info.name, (info,)) for _, _, info in group_of]
    return pieces


def _complete(group: list[tuple[int, int | None, TensorInfo]]) -> bool:
    numbers = sorted(number for number, _, _ in group)
    total, first = group[0][1], group[0][2]
    return (
        numbers[0] <= 1
        and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        and total in {None, len(numbers)}
        and len(first.shape) > 0
        and len({(len(info.shape), info.shape[1:], info.dtype, info.role) for _, _, info in group}) == 1
    )
