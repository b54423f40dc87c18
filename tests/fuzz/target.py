"""A parser of bytes that others have written, and how a fuzzer feeds it: as a file, as one file of a folder, as names of files.

Knows no format and no fuzzer.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fuzz.guard import Run
from fuzz.mutation import Mutate, plain
from fuzz.walking import read_checkpoint

from penstock.slicer.readers import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`words` are what a fuzzer should try to insert."""

    name: str
    run: Run
    seeds: Callable[[], Sequence[bytes]]
    mutate: Mutate = plain
    words: tuple[bytes, ...] = ()
    most_bytes: int = 4096


def in_file(own: Callable[[Path], Checkpoint], format_name: str, *, name: str = "checkpoint") -> Run:
    """The bytes are the checkpoint."""

    def run(data: bytes, folder: Path) -> None:
        path = folder / name
        put(path, data)
        read_checkpoint(path, own, format_name)

    return run


def in_folder(
    own: Callable[[Path], Checkpoint], format_name: str, *, name: str, beside: Callable[[], Mapping[str, bytes]]
) -> Run:
    """The bytes are one file of the checkpoint, `beside` are the others."""
    others: dict[str, bytes] = {}

    def run(data: bytes, folder: Path) -> None:
        inside = folder / format_name.replace(" ", "-")
        others.update({} if others else beside())
        for other, content in {**others, name: data}.items():
            path = inside / other
            if other == name or not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                put(path, content)
        read_checkpoint(inside, own, format_name)

    return run


def in_names(own: Callable[[Path], Checkpoint], format_name: str) -> Run:
    """Each line is the name of a file in the checkpoint's folder, behind its size in hexadecimal."""

    def run(data: bytes, folder: Path) -> None:
        inside = folder / "names"
        shutil.rmtree(inside, ignore_errors=True)
        inside.mkdir()
        for line in data.split(b"\n")[:20]:
            size, _, name = line.partition(b" ")
            parts = [part[:200] for part in name.replace(b"\0", b"").split(b"/")[:4] if part.strip(b".")]
            path = Path(os.fsdecode(os.path.join(os.fsencode(inside), *parts)))
            with suppress(OSError, ValueError):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(bytes(max(0, min(int(size, 16), 4096))))
        read_checkpoint(inside, own, format_name)

    return run


def put(path: Path, data: bytes) -> None:
    """A new file: views of the old one may be alive, and must not see it shrink."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def json_words(*texts: str) -> tuple[bytes, ...]:
    numbers = ("-1", "0", "1e999", "9223372036854775807", "18446744073709551616", "null", "true", "[]", "{}", '"\\ud800"')
    return tuple(text.encode() for text in (*texts, *numbers))
