"""Streams into a store: every byte in its place, whatever the sizes, with and without a file under the upload."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from penstock.pipeline.core.errors import StorageFull
from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.slicer import blocks
from penstock.slicer.blocks import BLOCK, DIRECT_FROM, Buffers, Stream, streaming


class FileStore(MemoryStore):
    """Uploads go into a file that can be written past its upload."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @contextmanager
    def upload(self, key: str, *, size_hint: int = 0) -> Iterator[object]:
        with self.path.open("wb", buffering=0) as file:
            yield file
        with super().upload(key) as whole:
            whole.write(self.path.read_bytes())


def skip_without_direct_access(folder: Path) -> None:
    try:
        os.close(os.open(folder / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("this file system has no direct access")


@pytest.fixture(params=["file", "no direct access", "object"])
def sink(request, tmp_path, monkeypatch):
    if request.param == "no direct access":
        monkeypatch.setattr(os, "O_DIRECT", os.O_DIRECT | os.O_DIRECTORY, raising=False)
    return MemoryStore() if request.param == "object" else FileStore(tmp_path / "upload")


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, DIRECT_FROM + 12345, DIRECT_FROM + 4 * BLOCK])
@pytest.mark.parametrize("step", [1000, 4096, 65537])
def test_bytes_arrive_in_order(sink, size, step):
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    with streaming(sink, "m/data/x", size, Buffers()) as stream:
        stream.append(data[: size // 3])
        at = size // 3
        while at < size:
            room = stream.room()
            count = min(step, len(room), size - at)
            room[:count] = data[at : at + count]
            stream.advance(count)
            at += count
            assert stream.position == at
    assert sink.get("m/data/x").data == data.tobytes()


def test_buffers_are_used_again(sink):
    buffers = Buffers()
    for number in range(3):
        data = bytes([number]) * (DIRECT_FROM + 5)
        with streaming(sink, f"m/{number}", len(data), buffers) as stream:
            stream.append(data)
        assert sink.get(f"m/{number}").data == data
    assert len(buffers._free) == buffers._made <= 6


def test_an_error_of_the_caller_leaves_no_object(sink):
    buffers = Buffers()

    def fill(stream: Stream) -> None:
        stream.append(bytes(10 * BLOCK))
        raise KeyError

    with pytest.raises(KeyError), streaming(sink, "m/x", 20 * BLOCK, buffers) as stream:
        fill(stream)
    assert not list(sink.list("m/"))
    assert len(buffers._free) == buffers._made
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("blocks")]


def test_an_error_of_the_disk_is_told_by_its_name(tmp_path, monkeypatch):
    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    skip_without_direct_access(tmp_path)
    monkeypatch.setattr(os, "pwrite", fail)
    store = FileStore(tmp_path / "upload")
    with pytest.raises(StorageFull, match="m/x: No space"), streaming(store, "m/x", 20 * BLOCK, Buffers()) as stream:
        stream.append(bytes(20 * BLOCK))
    assert not list(store.list("m/"))


def test_whole_blocks_go_past_the_page_cache(tmp_path, monkeypatch):
    seen = []
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: seen.append((fd, len(data), at)) or write(fd, data, at))
    store = FileStore(tmp_path / "upload")
    skip_without_direct_access(tmp_path)
    with streaming(store, "m/x", DIRECT_FROM + 7, Buffers()) as stream:
        stream.append(bytes(DIRECT_FROM + 7))
    assert sorted((at, size) for _, size, at in seen) == [*((at, BLOCK) for at in range(0, DIRECT_FROM, BLOCK)), (DIRECT_FROM, 7)]
    assert len({fd for fd, _, _ in seen}) == 2
    assert blocks.BLOCK % 4096 == 0
