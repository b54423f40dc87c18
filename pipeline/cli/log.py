"""`penstock log inspect | tail | skip`: what the update log holds, and what to do with a record that cannot be read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from .options import TROUBLE, ConfigFile, Json, ModelName, Reason, existing
from .output import escaped, human_bytes, print_json, print_table, stderr, stdout

if TYPE_CHECKING:
    from ..catalog.log_survey import PartitionSurvey
    from ..catalog.log_view import Seen
    from ..core.ids import Partition
    from ..environment import Environment

WAIT_S = 0.2
FOLLOWS = (
    "What it held is unknown. The next delta of a checkpoint brings it, `penstock publish delta PATH`; "
    "one that is folded from the log does not."
)

commands = typer.Typer(no_args_is_help=True, help="Look at the update log; pass over what cannot be read.")
OnePartition = Annotated[int | None, typer.Option("--partition", metavar="P", help="Only this partition.", show_default=False)]


class TailLine(msgspec.Struct, frozen=True, kw_only=True):
    """One record as `log tail` prints it. `text`: the state of a marker; `standing`: what readers do with it: "live", "dead",
    "dropped", "skipped" or "unreadable", which breaks `rule`."""

    partition: int
    offset: int
    kind: str
    standing: str
    timeline: int
    publisher: str
    term: int
    seq: int
    table: str
    text: str
    rows: int
    tombstones: int
    bytes: int
    trained_through: str
    written_at: str
    appended_at: str
    rule: str


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="log", rich_help_panel=TROUBLE)


@commands.command()
def inspect(
    partition: OnePartition = None,
    start: Annotated[int | None, typer.Option("--from", metavar="OFFSET", min=0, help="From this offset on.")] = None,
    end: Annotated[int | None, typer.Option("--to", metavar="OFFSET", min=0, help="Up to before this offset.")] = None,
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> int:
    """Count what each partition holds, and name what cannot be read.

    Publishers and their sequences, timelines, markers, fences, skipped records. Exit code 3 where replicas have to stop.

    [dim]penstock log inspect
    penstock log inspect --partition 3 --from 1000 --to 2000 --json[/]
    """
    from ..catalog.log_survey import survey
    from ..core.ids import Offset

    with existing(config, model) as env, stderr.status("reading the log"):
        first, last = (None if at is None else Offset(at) for at in (start, end))
        found = [survey(env.catalog, env.log, p, start=first, end=last) for p in _partitions(env, partition)]
    if json:
        print_json(found)
    else:
        _print_surveys(found)
    return 3 if any(part.unreadable or part.damage for part in found) else 0


@commands.command()
def tail(
    partition: OnePartition = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as records come, until interrupted.")] = False,
    last: Annotated[int, typer.Option("--last", "-n", metavar="N", min=0, help="How many of a partition at first.")] = 10,
    start: Annotated[
        int | None, typer.Option("--from", metavar="OFFSET", min=0, help="From this offset on, in place of the last ones.")
    ] = None,
    table: Annotated[str | None, typer.Option("--table", metavar="T", help="Only records of this table's rows.")] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="K", help="Only records that write this key; with --table.")] = None,
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Print the newest records, one a line, and whether each counts.

    [dim]penstock log tail -f
    penstock log tail -f --table customer --key 17850
    penstock log tail --partition 3 --from 1000 --json[/]
    """
    from ..catalog.log_view import tail as records
    from ..core.ids import Offset

    with existing(config, model) as env:
        wanted = _Wanted.of(env, table, key)
        chosen = [p for p in _partitions(env, partition) if wanted.partition in (None, p)]
        begins, ends = ({p: at(p) for p in chosen} for at in (env.log.begin, env.log.end))
        back = {p: ends[p] - last if start is None else start for p in chosen}
        starts = {p: Offset(min(max(back[p], begins[p]), ends[p])) for p in chosen}
        left = sum(ends[p] - starts[p] for p in chosen)
        try:
            for seen in records(env.catalog, env.log, starts, wait_s=WAIT_S) if left or follow else ():
                if seen is not None:
                    left -= seen.entry.offset < ends[seen.entry.record.partition]
                    if wanted.takes(seen) and (follow or seen.entry.offset < ends[seen.entry.record.partition]):
                        _print_record(seen, json)
                if left <= 0 and not follow:
                    return
        except KeyboardInterrupt:
            return


@commands.command()
def skip(
    partition: Annotated[int, typer.Option("--partition", metavar="P", help="The partition.")],
    offset: Annotated[int, typer.Option("--offset", metavar="N", help="The record's offset.")],
    reason: Reason = "",
    config: ConfigFile = None,
    model: ModelName = None,
    json: Json = False,
) -> None:
    """Let every reader pass over a record that cannot be read.

    Replicas that stopped there go on by themselves. Decided once and for all, and kept in the history; a record that can be read
    is refused.

    [dim]penstock log skip --partition 3 --offset 1042 --reason "written by a test"[/]
    """
    from ..catalog.skipping import skip_record
    from ..core.ids import Offset, Partition

    with existing(config, model) as env:
        decided = skip_record(env.catalog, env.log, Partition(partition), Offset(offset), actor=env.actor(reason))
    if json:
        print_json(decided)
        return
    stdout.print(
        f"partition {decided.partition} offset {decided.offset} is skipped, by {escaped(decided.who)}: {escaped(decided.rule)}",
        soft_wrap=True,
    )
    stdout.print(FOLLOWS, soft_wrap=True)


def _partitions(env: Environment, asked: int | None) -> list[Partition]:
    from ..core.errors import InvalidInput
    from ..core.ids import Partition

    count = env.schema.partitions
    if asked is None:
        return [Partition(p) for p in range(count)]
    if not 0 <= asked < count:
        raise InvalidInput(f"--partition {asked}: the log has 0 to {count - 1}")
    return [Partition(asked)]


class _Wanted(msgspec.Struct, frozen=True):
    """Which records are printed; with a key, which partition it lives in. `tables`: all generations of the one asked for."""

    tables: tuple[str, ...] | None
    key: int | None
    partition: int | None

    @classmethod
    def of(cls, env: Environment, table: str | None, key: str | None) -> _Wanted:
        from ..core.errors import InvalidInput
        from ..core.spelling import key_of

        if table is None:
            if key is not None:
                raise InvalidInput("--key goes with --table: keys are of a table")
            return cls(None, None, None)
        kind = env.catalog.reload_schema().table(env.catalog.history().newest.generation(table)).keys
        tables = tuple(env.schema.generations(table) or [table])
        if key is None:
            return cls(tables, None, None)
        number = key_of(key, kind)
        return cls(tables, number, _partition_of(env, number))

    def takes(self, seen: Seen) -> bool:
        from ..core.records import RecordKind

        record = seen.entry.record
        if self.tables is None:
            return True
        if record.kind != RecordKind.ROWS or record.table not in self.tables:
            return False
        return self.key is None or bool((record.keys == self.key).any())


def _partition_of(env: Environment, key: int) -> int:
    import numpy as np

    from ..core.hashing import buckets_of, partitions_of

    buckets = buckets_of(np.array([key], np.int64), env.schema.buckets)
    return int(partitions_of(buckets, bucket_count=env.schema.buckets, partition_count=env.schema.partitions)[0])


def _line(seen: Seen) -> TailLine:
    from ..core.records import RecordKind
    from ..core.times import format_time

    record, known = seen.entry.record, seen.entry.record.kind != RecordKind.SKIPPED
    is_rows = record.kind == RecordKind.ROWS
    return TailLine(
        partition=record.partition, offset=seen.entry.offset, kind=record.kind.name.lower() if known else "unknown",
        standing=seen.standing, timeline=record.timeline, publisher=record.publisher, term=record.term, seq=record.seq,
        table=record.text if is_rows else "", text="" if is_rows else record.text, rows=len(record.put_keys),
        tombstones=len(record.tombstones), bytes=seen.size, trained_through=format_time(record.trained_through),
        written_at=format_time(record.written_at), appended_at=format_time(seen.entry.appended_at), rule=seen.rule,
    )  # fmt: skip


def _print_record(seen: Seen, json: bool) -> None:
    line = _line(seen)
    if json:
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        sys.stdout.flush()
        return
    what = f"{line.table}: {line.rows:,} rows, {line.tombstones:,} tombstones" if line.table else line.text
    writer = f"{line.publisher} {line.term}/{line.seq}" if line.publisher else ""
    parts = [
        f"{line.partition}:{line.offset}",
        line.appended_at,
        f"{line.kind:7}",
        f"{line.standing:10}",
        writer,
        what,
        line.rule,
    ]
    style = {"live": "", "unreadable": "bold red"}.get(line.standing, "dim")
    stdout.print(escaped("  ".join(part for part in parts if part)), style=style, soft_wrap=True)


def _print_surveys(found: list[PartitionSurvey]) -> None:
    print_table(
        ["partition", "from", "to", "records", "size", "rows", "tombstones", "first", "last", "learned up to", "count", "do not"],
        [
            (
                part.partition, part.start, part.stop, f"{part.records:,}", human_bytes(part.bytes), f"{part.rows:,}",
                f"{part.tombstones:,}", (part.first_appended_at or "")[:19], (part.last_appended_at or "")[:19],
                part.trained_through[:19], part.standings.get("live", 0), part.records - part.standings.get("live", 0),
            )
            for part in found
        ],
        spare=("tombstones", "size", "first", "learned up to", "last"),
    )  # fmt: skip
    terms = [(part, term) for part in found for term in part.publishers]
    if terms:
        print_table(
            ["partition", "publisher", "term", "timeline", "first seq", "last seq", "records", "rows", "missing"],
            [
                (part.partition, t.publisher, t.term, t.timeline, t.first_seq, t.last_seq, t.records, f"{t.rows:,}", t.missing)
                for part, t in terms
            ],
            spare=("timeline", "rows"),
        )
    for part in found:
        for name, places in (("marker", part.markers[-3:]), ("fence of timeline", part.fences)):
            for place in places:
                stdout.print(f"partition {part.partition} offset {place.offset}: {name} {escaped(place.what)}, {place.standing}")
        for place in part.skipped:
            stdout.print(f"[yellow]partition {part.partition} offset {place.offset}: skipped[/]")
        for place in part.unreadable:
            where = f"--partition {part.partition} --offset {place.offset}"
            stdout.print(
                f"[bold red]partition {part.partition} offset {place.offset} cannot be read: {escaped(place.what)}[/]; "
                f"`penstock log skip {where} --reason …` passes over it",
                soft_wrap=True,
            )
        if part.damage:
            stdout.print(f"[bold red]{escaped(part.damage)}[/]; a newer version leads past it", soft_wrap=True)
