"""Archives the checkpoint of a snapshot beside its slices, as it is, when the config says so: optimizer state reaches no
replica, and a trainer that goes back restarts from it. Streamed; a folder becomes a tar without compression."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from penstock.pipeline.core.errors import Corrupt, NotFound
from penstock.pipeline.core.manifest import Archive, Manifest
from penstock.pipeline.environment import Environment
from penstock.pipeline.ports.store import ObjectStore, Upload
from penstock.slicer.export import replaced
from penstock.slicer.sidecar import sidecar_path

from .export import sidecar_of_version

BLOCK = 1 << 20


class _Counted:
    """An upload as a file to write to, counted and hashed."""

    def __init__(self, upload: Upload) -> None:
        self._upload, self.bytes, self._hash = upload, 0, hashlib.blake2b(digest_size=16)

    def write(self, block: bytes) -> int:
        self._upload.write(block)
        self._hash.update(block)
        self.bytes += len(block)
        return len(block)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def archive_checkpoint(store: ObjectStore, path: Path, prefix: str) -> Archive:
    """Copies the checkpoint at `path` to the store below `prefix`."""
    key = f"{prefix}/checkpoint.{'tar' if path.is_dir() else 'bin'}"
    with store.upload(key) as upload:
        counted = _Counted(upload)
        if path.is_dir():
            with tarfile.open(fileobj=cast("IO[bytes]", counted), mode="w|") as tar:
                tar.add(path, arcname=path.name)
        else:
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    counted.write(block)
    return Archive(
        path=key, name=path.name, packing="tar" if path.is_dir() else "file", bytes=counted.bytes, digest=counted.digest
    )  # fmt: skip


def export_archive(env: Environment, version: Manifest, folder: Path) -> Path:
    """Writes the archived checkpoint of `version` into `folder` under its own name, the sidecar of the version's state beside it.
    `NotFound` when the version has none."""
    archive = version.checkpoint
    if archive is None:
        raise NotFound(
            f"version {version.version} has no archived checkpoint",
            hint='optimizer = "archive" in the config keeps them from now on',
        )
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / archive.name
    if archive.packing == "file":
        with replaced(target) as file:
            for block in blocks(env.catalog.store, archive):
                file.write(block)
    else:
        with _spooled(env.catalog.store, archive, folder) as spooled, tarfile.open(spooled) as tar:
            tar.extractall(folder, filter="data")
    with replaced(sidecar_path(target)) as file:
        file.write(sidecar_of_version(env, version).encode())
    return target


def blocks(store: ObjectStore, archive: Archive) -> Iterator[bytes]:
    """The bytes of an archive; `Corrupt` at the end when they are not those that were written."""
    found = hashlib.blake2b(digest_size=16)
    for start in range(0, archive.bytes, BLOCK):
        block = store.get_range(archive.path, start, min(BLOCK, archive.bytes - start))
        found.update(block)
        yield block
    if store.size(archive.path) != archive.bytes or found.hexdigest() != archive.digest:
        raise Corrupt(f"{archive.path}: its BLAKE2b digest differs from the one stated")


@contextmanager
def _spooled(store: ObjectStore, archive: Archive, folder: Path) -> Iterator[Path]:
    """The tar as a file, checked as a whole before anything is taken out of it."""
    path = folder / f".{archive.name}.tar"
    try:
        with path.open("wb") as file:
            for block in blocks(store, archive):
                file.write(block)
        yield path
    finally:
        path.unlink(missing_ok=True)
