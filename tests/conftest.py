"""What all tests share: servers are importable as `servers.*`, builders and fakes by their own names, and a test that needs
a server is marked so and stays in one worker with the others that do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Compiling a kernel for the first time takes longer than any deadline of a test case.
settings.register_profile("penstock", deadline=None)
settings.load_profile("penstock")

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "support"), str(HERE)]

pytest_plugins = ("servers.s3", "servers.kafka")
SERVERS = {"s3": "s3_server", "kafka": "kafka_server"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name, fixture in SERVERS.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(name)
        if needed := [name for name in SERVERS if item.get_closest_marker(name)]:
            item.add_marker(pytest.mark.xdist_group("-".join(needed)))
