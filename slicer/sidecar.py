"""Where the sidecar of a checkpoint lies: `penstock.json` inside a folder, `<file>.penstock.json` beside a file. What is in it
is `pipeline.core.checkpoint`'s to know."""

from __future__ import annotations

from pathlib import Path

from penstock.pipeline.core.checkpoint import Sidecar, decode_sidecar

NAME = "penstock.json"


def sidecar_path(checkpoint: Path) -> Path:
    """Where the sidecar of a checkpoint belongs, whether there is one or not."""
    return checkpoint / NAME if checkpoint.is_dir() else checkpoint.with_name(f"{checkpoint.name}.{NAME}")


def find_sidecar(checkpoint: Path) -> Path | None:
    """The sidecar of a checkpoint, if it has one."""
    found = sidecar_path(checkpoint)
    return found if found.is_file() else None


def read_sidecar(checkpoint: Path) -> Sidecar | None:
    """What the sidecar says; see `decode_sidecar` for errors."""
    found = find_sidecar(checkpoint)
    return decode_sidecar(found.read_bytes(), str(found)) if found else None


def is_sidecar(path: Path) -> bool:
    return path.name == NAME or path.name.endswith(f".{NAME}")
