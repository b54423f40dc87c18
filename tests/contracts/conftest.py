from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock.pipeline.ports.memory_store import MemoryStore
from penstock.pipeline.ports.open_store import open_store
from penstock.pipeline.ports.store import ObjectStore


@pytest.fixture(params=["memory", "local", pytest.param("s3", marks=pytest.mark.s3)])
def open_again(request, tmp_path) -> Callable[[], ObjectStore]:
    """Opens the same, at first empty, store; each time another object where processes would have their own."""
    match request.param:
        case "memory":
            store = MemoryStore("contract")
            return lambda: store
        case "local":
            return lambda: open_store((tmp_path / "store").as_uri())
        case _:
            endpoint = request.getfixturevalue("s3_server")
            bucket = request.getfixturevalue("s3_bucket")
            return lambda: open_store(f"s3://{bucket}/some/prefix", endpoint=endpoint)


@pytest.fixture
def store(open_again) -> ObjectStore:
    return open_again()
