"""Records that no reader can take, each broken in another way; and good ones to compare."""

from __future__ import annotations

import dataclasses

import numpy as np

from penstock.pipeline.core.records import NO_KEYS, NO_ROWS, Record, RecordKind, encode_record


def record_of(world, p, table, key, *, writer, seq, row=(5.0, 5.0), **changes):
    return Record(
        kind=RecordKind.ROWS, timeline=writer.timeline, partition=p, publisher=writer.name, term=writer.term, seq=seq, text=table,
        keys=np.array([key]), rows=np.array([row], "<f4").view(np.uint8), written_at=world.now, **changes,
    )  # fmt: skip


def good(world, writer):
    return record_of(world, 0, "item", world.keys_in(0, 1)[0], writer=writer, seq=writer.seqs[0] + 1)


def said(world, writer, kind, text):
    return dataclasses.replace(good(world, writer), kind=kind, keys=NO_KEYS, rows=NO_ROWS, text=text)


def flipped(payload, at, by=1):
    found = bytearray(payload)
    found[at] ^= by
    return bytes(found)


def _encoded(world, writer, **changes):
    return encode_record(dataclasses.replace(good(world, writer), **changes), world.schema.raw_id)


BROKEN = {
    "noise": lambda world, writer: b"noise" * 40,
    "empty": lambda world, writer: b"",
    "malformed": lambda world, writer: flipped(_encoded(world, writer), 90),
    "oversized": lambda world, writer: _encoded(world, writer) + b"\0" * 1000,
    "foreign": lambda world, writer: encode_record(good(world, writer), b"x" * 16),
    "of a future version": lambda world, writer: flipped(_encoded(world, writer), 4, by=3),
    "of another partition": lambda world, writer: _encoded(world, writer, partition=1),
    "another width": lambda world, writer: _encoded(world, writer, rows=np.zeros((1, 4), np.uint8)),
    "a key of another partition": lambda world, writer: _encoded(world, writer, keys=np.array(world.keys_in(1, 1))),
    "no such table": lambda world, writer: _encoded(world, writer, text="nowhere"),
    "not a state": lambda world, writer: encode_record(said(world, writer, RecordKind.MARKER, "x"), world.schema.raw_id),
    "not an announcement": lambda world, writer: encode_record(said(world, writer, RecordKind.DENSE, "{"), world.schema.raw_id),
}


def put_broken(world, writer, kind="noise", *, lost=True):
    """One broken record in partition 0, in the place of the writer's next one if that was `lost`; its offset."""
    offset = world.log.append(0, BROKEN[kind](world, writer)).offset
    writer.seqs[0] += lost
    return offset
