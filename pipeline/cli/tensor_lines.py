"""The tensors of a checkpoint as lines for people: parts, and tensors that repeat, in one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .output import human_bytes

if TYPE_CHECKING:
    from penstock.slicer.inspect import InspectedTensor, Inspection

MANY_LINES = 40
"""Beyond, tensors whose names differ in numbers only share a line, if there are `REPEATED` of them."""
REPEATED = 3
_PART = re.compile(r" \(part \d+ of \d+\)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    name: str
    role: str
    dtype: str = ""
    shape: str = ""
    rows: str = ""
    dim: str = ""
    nbytes: int
    sliced_as: str
    sha256: str | None = None


def tensor_lines(tensors: Sequence[InspectedTensor], *, every: bool) -> list[Line]:
    """In the order of the file; what belongs to the optimizer is one line at the end. With `every` each tensor has its own."""
    if every:
        return [_one(tensor) for tensor in tensors]
    kept = [tensor for tensor in tensors if tensor.role != "optimizer"]
    many = len({_kind(tensor, many=False) for tensor in kept}) > MANY_LINES
    groups: dict[tuple[object, ...], list[InspectedTensor]] = {}
    for tensor in kept:
        groups.setdefault(_kind(tensor, many=many), []).append(tensor)
    lines = []
    for group in groups.values():
        together = len(group) > 1 and (_is_part(group[0]) or len(group) >= REPEATED)
        lines += [_together(group)] if together else [_one(tensor) for tensor in group]
    left = [tensor for tensor in tensors if tensor.role == "optimizer"]
    if left:
        nbytes = sum(tensor.nbytes for tensor in left)
        lines.append(Line(name=f"{len(left)} of the optimizer", role="optimizer", nbytes=nbytes, sliced_as="left out: optimizer"))
    return lines


def totals(found: Inspection) -> str:
    """What would be sliced, in all."""
    dense = [tensor.nbytes for tensor in found.tensors if tensor.sliced_as.startswith("dense slice")]
    left = [tensor.nbytes for tensor in found.tensors if tensor.sliced_as.startswith("left out")]
    rows, nbytes = sum(table.rows for table in found.tables), sum(table.nbytes for table in found.tables)
    return (
        f"{counted(len(found.tables), 'table')} of {counted(rows, 'row')}, {human_bytes(nbytes)}; "
        f"{counted(len(dense), 'tensor')} in the dense slice, {human_bytes(sum(dense))}; "
        f"{counted(len(left), 'tensor')} left out, {human_bytes(sum(left))}"
    )


def _kind(tensor: InspectedTensor, *, many: bool) -> tuple[object, ...]:
    """What tensors on one line have in common."""
    part, name, use = _is_part(tensor), tensor.name, tensor.sliced_as
    if not part and not many:
        return (name,)
    use = _PART.sub("", use) if part else _numberless(use)
    return (_numberless(name), tensor.role, tensor.dtype, tensor.shape[1:] if part else tensor.shape, use)


def _one(tensor: InspectedTensor) -> Line:
    table = tensor.sliced_as.startswith("table ")
    return Line(
        name=tensor.name, role=tensor.role, dtype=tensor.dtype, shape=_shape(tensor.shape), nbytes=tensor.nbytes,
        rows=f"{tensor.rows:,}" if table else "", dim=str(tensor.dim) if table else "",
        sliced_as=tensor.sliced_as, sha256=tensor.sha256,
    )  # fmt: skip


def _together(group: Sequence[InspectedTensor]) -> Line:
    first, count = group[0], len(group)
    nbytes, rows = sum(tensor.nbytes for tensor in group), sum(tensor.rows or 0 for tensor in group)
    part, table = _is_part(first), first.sliced_as.startswith("table ")
    return Line(
        name=f"{_numberless(first.name)} ({count} {'parts' if part else 'of them'})", role=first.role, dtype=first.dtype,
        shape=_shape((rows, *first.shape[1:]) if part else first.shape), nbytes=nbytes,
        rows=f"{rows:,}" if table else "", dim=str(first.dim) if table else "",
        sliced_as=_PART.sub("", first.sliced_as) if part else _numberless(first.sliced_as),
    )  # fmt: skip


def _is_part(tensor: InspectedTensor) -> bool:
    return _PART.search(tensor.sliced_as) is not None


def _numberless(text: str) -> str:
    return re.sub(r"\d+", "*", text)


def _shape(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def counted(count: int, what: str) -> str:
    """ "1 tensor", "2 tensors"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
