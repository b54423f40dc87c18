"""What of a checkpoint would be sliced, and how: a proposal for people to check, from names, shapes and roles.

    <t>/keys, <t>/rows (or -values, …)    a table by keys            <t>/deleted    its deletions, in a checkpoint of changes
    what is an embedding by its role      a table by row numbers     <t>_vocab …    the keys of its rows, inside or beside
    parts, numbered without a hole        one table                  dense          the dense slice; the rest is left out

Reads nothing itself, and knows no format: what must be looked at comes through `Surroundings`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from penstock.pipeline.config import DeltaTensors, Tensors

from .part_names import Piece, pieces_of
from .readers.checkpoint import TensorInfo
from .readers.tensors.elements import BITS_ONLY, TEXT
from .table_names import TableNames, says_keys, speaks_of

ROWS_ARE = ("float16", "bfloat16", "float32", "float64")
_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_ENDING = re.compile(r"(?P<stem>.*?)(?P<join>[/._-]|^)(?P<word>[A-Za-z]+)")
_OF_ROWS = ("rows", "values", "embeddings", "embedding", "vectors", "weights", "weight")
_OF_KEYS = ("keys", "key", "ids", "id")
_NUMBER = re.compile(rb"0|-?[1-9]\d{0,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The keys of a table's rows, as the config names them; `first` are some of them, none where they are numbers."""

    name: str
    first: Sequence[bytes] = ()


class Surroundings(Protocol):
    """What a proposal has to look at. Neither method raises: what cannot be read is not there."""

    def first_texts(self, tensor: TensorInfo) -> Sequence[bytes]: ...

    def vocabulary(self, fits: Callable[[str], bool], rows: int) -> Vocabulary | None:
        """A file beside the checkpoint that lists keys for that many rows, and whose name `fits`."""
        ...


class Headers:
    """The surroundings where nothing but the headers may be read."""

    def first_texts(self, tensor: TensorInfo) -> Sequence[bytes]:
        return ()

    def vocabulary(self, fits: Callable[[str], bool], rows: int) -> Vocabulary | None:
        return None


class TableTensors(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the config says of a table: the fields of `TableConfig` that name tensors."""

    tensor: Tensors | None = None
    keys: Tensors | None = None
    rows: Tensors | None = None
    vocabulary: str | None = None
    key_type: Literal["int64"] | None = None
    delta: DeltaTensors | None = None


class ProposedTable(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` of `dim` values, `nbytes` in all; `why` says what it was told by, `config` how the config would name it."""

    name: str
    rows: int
    dim: int
    nbytes: int
    parts: int
    why: str
    config: TableTensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """`uses` says of every tensor what would become of it."""

    tables: tuple[ProposedTable, ...]
    uses: Mapping[str, str]


def propose(tensors: Iterable[TensorInfo], surroundings: Surroundings) -> Proposal:
    """Every tensor has one use; no two tables have a tensor, or a name, in common."""
    draft = _Draft(pieces_of(tensors), surroundings)
    return Proposal(tables=tuple(draft.tables), uses=draft.uses)


class _Draft:
    def __init__(self, pieces: Sequence[Piece], surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._by_name = {piece.name: piece for piece in pieces}
        self.tables: list[ProposedTable] = []
        self.uses: dict[str, str] = {}
        pairs = {piece.name: keys for piece in pieces if (keys := self._keys_of(piece)) is not None}
        self._taken = {name for rows, keys in pairs.items() for name in (rows, keys.name)}
        names = TableNames()
        self._lists: dict[int, list[Piece]] = {}
        for piece in pieces:
            if piece.name not in self._taken and len(piece.parts) == 1 and _is_keys(piece):
                self._lists.setdefault(piece.shape[0], []).append(piece)
        for piece in pieces:
            by_key = piece.name in pairs
            if not by_key and (piece.role != "embedding" or not _is_rows(piece) or piece.name in self._taken):
                continue
            name = names.new(_ending(piece)[0] if by_key else piece.name)
            self.tables.append(self._by_key(name, piece, pairs[piece.name]) if by_key else self._by_number(name, piece))
        for piece in pieces:
            for part in piece.parts:
                self.uses.setdefault(part.name, _use(part))

    def _keys_of(self, rows: Piece) -> Piece | None:
        """The keys that stand beside rows by their name, and are as many."""
        stem, join, word = _ending(rows)
        if rows.role == "optimizer" or word not in _OF_ROWS or not _is_rows(rows):
            return None
        for name in _OF_KEYS:
            keys = self._by_name.get(f"{stem}{join}{name}")
            if keys is not None and _is_keys(keys) and [p.shape[0] for p in keys.parts] == [p.shape[0] for p in rows.parts]:
                return keys
        return None

    def _by_key(self, name: str, rows: Piece, keys: Piece) -> ProposedTable:
        stem, join, _ = _ending(rows)
        deleted = self._by_name.get(f"{stem}{join}deleted")
        delta = None
        if deleted is not None and _is_keys(deleted) and len(deleted.parts) == 1:
            self._use(deleted, f"deletions of {name}")
            if not keys.name.endswith("keys"):
                delta = DeltaTensors(keys=keys.in_config, rows=rows.in_config, deleted=deleted.parts[0].name)
        self._use(rows, f"table {name}, keys in {keys.name}")
        self._use(keys, f"keys of {name}")
        key_type = _key_type(self._surroundings.first_texts(keys.parts[0])) if is_text(keys.dtype) else None
        return _table(
            name, rows, f"its keys are in {keys.name}",
            TableTensors(keys=keys.in_config, rows=rows.in_config, key_type=key_type, delta=delta),
        )  # fmt: skip

    def _by_number(self, name: str, piece: Piece) -> ProposedTable:
        inside = self._vocabulary_inside(piece)
        if inside is not None:
            self._taken.add(inside.name)
            self._use(inside, f"vocabulary of {name}")
            first = self._surroundings.first_texts(inside.parts[0]) if is_text(inside.dtype) else ()
            found: Vocabulary | None = Vocabulary(name=inside.name, first=first)
        else:
            found = self._surroundings.vocabulary(lambda file: speaks_of(file, piece.name), piece.shape[0])
        if found is None:
            self._use(piece, f"table {name}, row number is the key")
            return _table(name, piece, "it looks like an embedding", TableTensors(tensor=piece.in_config))
        self._use(piece, f"table {name}, keys in {found.name}")
        tensors = TableTensors(tensor=piece.in_config, vocabulary=found.name, key_type=_key_type(found.first))
        return _table(name, piece, f"{found.name} has as many keys as it has rows", tensors)

    def _vocabulary_inside(self, rows: Piece) -> Piece | None:
        for each in self._lists.get(rows.shape[0], []):
            told = is_text(each.dtype) or says_keys(each.name)
            if told and each.name not in self._taken and speaks_of(each.name, rows.name):
                return each
        return None

    def _use(self, piece: Piece, use: str) -> None:
        count = len(piece.parts)
        for number, part in enumerate(piece.parts, 1):
            self.uses[part.name] = use if count == 1 else f"{use} (part {number} of {count})"


def _table(name: str, rows: Piece, why: str, config: TableTensors) -> ProposedTable:
    count, dim = rows.shape
    return ProposedTable(name=name, rows=count, dim=dim, nbytes=rows.nbytes, parts=len(rows.parts), why=why, config=config)


def _use(tensor: TensorInfo) -> str:
    if tensor.role == "optimizer":
        return "left out: optimizer"
    if tensor.role == "dense":
        refused = tensor.dtype in BITS_ONLY and tensor.dtype != "bfloat16"
        return f"dense slice, which refuses {tensor.dtype}" if refused else "dense slice"
    return "left out: no rows of floats" if tensor.role == "embedding" else "left out: buffer"


def _ending(piece: Piece) -> tuple[str, str, str]:
    """The stem of a name, what joins it, and its last word: "item/rows" is "item", "/", "rows"."""
    found = _ENDING.fullmatch(piece.name)
    return (found["stem"], found["join"], found["word"].lower()) if found else (piece.name, "", "")


def _is_rows(piece: Piece) -> bool:
    return len(piece.shape) == 2 and piece.dtype in ROWS_ARE and piece.shape[1] > 0


def _is_keys(piece: Piece) -> bool:
    return len(piece.shape) == 1 and piece.role != "optimizer" and (piece.dtype in _INTEGERS or is_text(piece.dtype))


def is_text(dtype: str) -> bool:
    """Whether elements are texts, of any length or of one."""
    return dtype == TEXT or dtype.lstrip("<>|=")[:1] in {"S", "U"}


def _key_type(first: Sequence[bytes]) -> Literal["int64"] | None:
    """Texts that are all numbers, written as they would be, are taken as numbers."""
    return "int64" if first and all(map(_is_number, first)) else None


def _is_number(text: bytes) -> bool:
    return _NUMBER.fullmatch(text) is not None and -(2**63) <= int(text) < 2**63
