"""The birth of a file log: its folder is made whole or not at all, and what it was born with never changes."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import Corrupt, InvalidInput, NotFound, Refused, Unsupported
from .file_format import BIRTH, FORMAT, LOCK_FILE, LOG_FILE, SLOT_BYTES, TAIL_BYTES, TAIL_FILE, packed_tail, segment_name
from .file_partition import sync_folder, translated
from .log_checks import LogSettings


@dataclass(frozen=True, slots=True)
class Birth:
    """What log.json states; frozen when the log was created."""

    identity: str
    partitions: int
    max_record_bytes: int
    segment_bytes: int


def read_birth(folder: Path) -> Birth:
    """What the log in `folder` is; `NotFound` when there is none."""
    path = folder / LOG_FILE
    with translated(str(path)):
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"there is no log in {folder}") from None
    try:
        stated = json.loads(text)
        written_format = stated.pop("format")
        if written_format != FORMAT:
            raise Unsupported(f"{path}: format {written_format!r}, this build reads {FORMAT}")
        birth = Birth(**stated)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Corrupt(f"{path}: {error}") from error
    numbers = (birth.partitions, birth.max_record_bytes, birth.segment_bytes)
    if not isinstance(birth.identity, str) or any(type(number) is not int or number < 1 for number in numbers):
        raise Corrupt(f"{path}: identity is text, the others are numbers above 0")
    return birth


def create_file_log(folder: Path, *, partitions: int, settings: LogSettings) -> None:
    """Makes the log, whole or not at all; leaves one alone that is there already."""
    if partitions < 1:
        raise InvalidInput(f"a log has at least one partition, not {partitions}")
    birth = {
        "format": FORMAT,
        "identity": uuid.uuid4().hex,
        "partitions": partitions,
        "max_record_bytes": settings.max_record_bytes,
        "segment_bytes": settings.segment_bytes,
    }
    building = folder.with_name(f".{folder.name}.{birth['identity']}")
    with translated(str(folder)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir()
        try:
            for number in range(partitions):
                part = building / str(number)
                part.mkdir()
                _write_forced(part / LOCK_FILE, b"")
                _write_forced(part / TAIL_FILE, packed_tail(BIRTH).ljust(SLOT_BYTES, b"\0").ljust(TAIL_BYTES, b"\0"))
                _write_forced(part / segment_name(BIRTH.base), b"")
                sync_folder(part)
            _write_forced(building / LOG_FILE, json.dumps(birth, sort_keys=True, indent=1).encode())
            sync_folder(building)
            try:
                building.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
                if not (folder / LOG_FILE).exists():
                    raise Refused(f"{folder} is there already, and is no log") from None
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _write_forced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
