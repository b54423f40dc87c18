"""Progress: what goes through the store is counted, and shown only on a terminal."""

import io

from rich.console import Console

from penstock.pipeline.cli import progress as module
from penstock.pipeline.cli.progress import WatchedStore, progress
from penstock.pipeline.config import load_config
from penstock.pipeline.environment import open_environment
from penstock.pipeline.ports.local_store import LocalStore
from penstock.pipeline.ports.store import Create


def test_everything_that_is_read_or_written_counts(tmp_path):
    counted = []
    store = WatchedStore(LocalStore(tmp_path), counted.append)
    token = store.put("a/1", b"12345", Create())
    assert store.get("a/1").token == token
    assert store.get_range("a/1", 1, 3) == b"234"
    with store.upload("a/2", size_hint=4) as upload:
        upload.write(b"abcd")
    assert store.local_path("a/2").read_bytes() == b"abcd"
    assert counted == [5, 5, 3, 4, 4]
    assert [entry.key for entry in store.list("a/")] == ["a/1", "a/2"]
    assert store.size("a/2") == 4
    assert store.url == LocalStore(tmp_path).url
    store.delete("a/2")
    assert [entry.key for entry in store.list("a/")] == ["a/1"]


def test_a_terminal_sees_it_and_a_pipe_does_not(shell, monkeypatch):
    for terminal in (True, False):
        shown = io.StringIO()
        monkeypatch.setattr(module, "stderr", Console(file=shown, force_terminal=terminal, width=80))
        with open_environment(load_config(shell.config), "shop") as env, progress(env, "reading") as watched:
            assert watched.catalog.refs() == env.catalog.refs()
        assert ("reading" in shown.getvalue()) is terminal
