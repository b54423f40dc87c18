"""How commands speak: one JSON document on standard output, or tables for people; progress and logs on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ..core.manifest import Manifest
    from ..core.refs import Refs

WIDE = 200
"""Columns of a table that goes into a file or a pipe."""
stdout = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
stderr = Console(stderr=True, highlight=False)


def print_json(document: object) -> None:
    """One document, and nothing else, on standard output."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, spare: Sequence[str] = ()) -> None:
    """`spare` columns are left out, the first one first, as far as the terminal is too narrow for all."""
    stdout.print(fitting_table(columns, rows, spare=spare, width=stdout.width))


def fitting_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, spare: Sequence[str], width: int) -> Table:
    """Cells are text, without markup and without what no terminal should get; numbers stand to the right."""
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(column), *(len(row[at]) for row in cells), 0) for at, column in enumerate(columns)]
    kept = list(range(len(columns)))
    for name in spare:
        if sum(widths[at] + 2 for at in kept) - 2 > width:
            kept.remove(columns.index(name))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for at in kept:
        number = bool(cells) and all(row[at].replace(",", "").isdigit() or not row[at] for row in cells)
        table.add_column(columns[at], overflow="fold", justify="right" if number else "left")
    for row in cells:
        table.add_row(*(escape(row[at]) for at in kept))
    return table


def escaped(text: object) -> str:
    """Text in which brackets are brackets, for a console that reads markup; made `printable`."""
    return escape(printable(str(text)))


def printable(text: str) -> str:
    """Names that a foreign file chose must not reach a terminal as they are: what would steer it is spelled out."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def human_bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_seconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"


class VersionDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A version as commands print it. `digest_of`: whether `digest` is of the whole state or of what the version writes."""

    version: int
    timeline: int
    state: str
    kind: str
    base: int | None
    rows: int
    tombstones: int
    bytes: int
    trained_through: str
    digest: str
    digest_of: str
    source: str
    created_at: str
    refs: list[str]


def version_document(manifest: Manifest, refs: Refs, buckets: int) -> VersionDocument:
    from ..core.times import format_time

    digest_of, digest = manifest.digest(buckets)
    return VersionDocument(
        version=manifest.version, timeline=manifest.timeline, state=str(manifest.state), kind=manifest.kind, base=manifest.base,
        rows=manifest.rows, tombstones=manifest.tombstones, bytes=manifest.bytes, digest=digest, digest_of=digest_of,
        trained_through=format_time(manifest.trained_through), source=manifest.source,
        created_at=format_time(manifest.created_at),
        refs=sorted(name for name, ref in refs.refs.items() if ref.version == manifest.version),
    )  # fmt: skip


def print_versions(documents: Sequence[VersionDocument]) -> None:
    print_table(
        ["version", "refs", "state", "kind", "base", "rows", "tombstones", "size", "trained through", "digest"],
        [
            (d.version, " ".join(d.refs), d.state, d.kind, d.base, f"{d.rows:,}", f"{d.tombstones:,}", human_bytes(d.bytes),
             d.trained_through, d.digest[:12])
            for d in documents
        ],
        spare=("tombstones", "digest", "base", "size"),
    )  # fmt: skip
