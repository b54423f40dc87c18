"""The local store among processes: races, processes that die, links, a full disk."""

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import ExitStack, contextmanager

import pytest

from penstock.pipeline.core.errors import InvalidInput, NotFound, StorageFull
from penstock.pipeline.ports.local_files import LOCKS, TEMPORARY
from penstock.pipeline.ports.local_store import LocalStore
from penstock.pipeline.ports.store import Create, Overwrite

HEAD = """
import resource, sys
from pathlib import Path
from penstock.pipeline.core.errors import *
from penstock.pipeline.ports.local_store import LocalStore
from penstock.pipeline.ports.store import *

store, number = LocalStore(Path(sys.argv[1])), int(sys.argv[2])
"""


@contextmanager
def program(text, root, number=0):
    """A process that runs `text`; it waits at each `input()` for the test to write a line or to kill it."""
    command = [sys.executable, "-c", HEAD + textwrap.dedent(text), str(root), str(number)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def outputs(text, root, count):
    """Starts `count` programs, lets them go on together from their first `input()`; what each prints after that."""
    with ExitStack() as stack:
        running = [stack.enter_context(program(text, root, number)) for number in range(count)]
        for process in running:
            assert process.stdout.readline() == "ready\n"
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
        return [process.communicate(timeout=60)[0].strip() for process in running]


def temporaries(root):
    return list((root / TEMPORARY).iterdir())


def test_creates_raced_by_processes_have_one_winner_each(tmp_path):
    won = outputs(
        """
        print("ready", flush=True)
        input()
        won = []
        for turn in range(60):
            try:
                store.put(f"race/{turn}/k", b"%d" % number, Create())
                won.append(turn)
            except CommitConflict:
                pass
        print(*won)
        """,
        tmp_path,
        3,
    )
    store = LocalStore(tmp_path)
    claims = [(int(turn), number) for number, text in enumerate(won) for turn in text.split()]
    assert sorted(turn for turn, _ in claims) == list(range(60))
    assert all(store.get(f"race/{turn}/k").data == b"%d" % number for turn, number in claims)


def test_swaps_raced_by_processes_lose_no_increment(tmp_path):
    store = LocalStore(tmp_path)
    store.put("count", b"0", Create())
    outputs(
        """
        print("ready", flush=True)
        input()
        landed = 0
        while landed < 40:
            found = store.get("count")
            try:
                store.put("count", b"%d" % (int(found.data) + 1), Swap(found.token))
                landed += 1
            except CommitConflict:
                pass
        """,
        tmp_path,
        3,
    )
    assert store.get("count").data == b"120"


def test_puts_and_deletes_that_make_and_remove_one_folder_do_not_trip_each_other(tmp_path):
    results = outputs(
        """
        print("ready", flush=True)
        input()
        for turn in range(80):
            store.put(f"deep/er/{number}", b"x", Overwrite())
            assert store.get(f"deep/er/{number}").data == b"x"
            store.delete(f"deep/er/{number}")
        print("done")
        """,
        tmp_path,
        3,
    )
    assert results == ["done"] * 3
    assert not (tmp_path / "deep").exists()


UPLOADING = """
with store.upload("u/k") as upload:
    upload.write(bytes(3 << 20))
    print("ready", flush=True)
    input()
    upload.write(b"end")
print("done", flush=True)
"""


def test_an_upload_of_a_killed_process_is_invisible_and_swept_by_the_next(tmp_path):
    with program(UPLOADING, tmp_path) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [path.stat().st_size for path in temporaries(tmp_path)] == [3 << 20]
    store = LocalStore(tmp_path)
    assert list(store.list("")) == []
    store.put("k", b"x", Create())
    assert temporaries(tmp_path) == []


def test_an_upload_of_a_live_process_is_not_swept(tmp_path):
    with program(UPLOADING, tmp_path) as process:
        assert process.stdout.readline() == "ready\n"
        store = LocalStore(tmp_path)
        assert store.sweep_temporary() == 0
        store.put("k", b"x", Create())
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"
    assert store.size("u/k") == (3 << 20) + 3


def test_a_process_killed_while_it_swaps_leaves_one_of_its_contents_and_no_lock(tmp_path):
    store = LocalStore(tmp_path)
    store.put("k", b"0" * 1000, Create())
    for turn in range(5):
        with program(
            """
            print("ready", flush=True)
            while True:
                token = store.get("k").token
                number += 1
                store.put("k", (b"%d" % (number % 10)) * 1000, Swap(token))
                if number == int(sys.argv[2]) + 3:
                    print("swapping", flush=True)
            """,
            tmp_path,
            turn,
        ) as process:
            assert process.stdout.readline() == "ready\n"
            assert process.stdout.readline() == "swapping\n"
            process.send_signal(signal.SIGKILL)
            process.wait()
        data = store.get("k").data
        assert len(data) == 1000
        assert set(data) == {data[0]}
        store.put("k", data, Overwrite())
    store.sweep_temporary()
    assert temporaries(tmp_path) == []


def test_a_full_disk_is_storage_full_and_leaves_nothing(tmp_path):
    said = outputs(
        """
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        print("ready", flush=True)
        input()
        def upload():
            with store.upload("u") as upload:
                for _ in range(3):
                    upload.write(bytes(700_000))
        for action in (upload, lambda: store.put("p", bytes(2 << 20), Create())):
            try:
                action()
            except StorageFull as error:
                print(type(error).__name__, end=" ")
        store.put("small", b"x", Create())
        """,
        tmp_path,
        1,
    )
    assert said == ["StorageFull StorageFull"]
    assert [entry.key for entry in LocalStore(tmp_path).list("")] == ["small"]
    assert temporaries(tmp_path) == []


def test_no_space_left_on_the_device_is_storage_full(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    from penstock.pipeline.ports.local_files import translated

    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(StorageFull, match="k: No space"), translated("k"):
        os.write(full.fileno(), b"x")


def test_links_that_lead_out_are_not_followed(tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store = LocalStore(root)
    store.put("a/k", b"x", Create())
    (root / "folder").symlink_to(outside)
    (root / "a" / "file").symlink_to(outside / "secret")
    for key in ("folder/secret", "a/file"):
        with pytest.raises(InvalidInput, match="link"):
            store.get(key)
    with pytest.raises(InvalidInput, match="leads out"):
        store.put("folder/new", b"x", Create())
    with pytest.raises(InvalidInput, match="leads out"):
        store.delete("folder/secret")
    assert [entry.key for entry in store.list("")] == ["a/k"]
    with pytest.raises(InvalidInput, match="leads out"):
        list(store.list("folder/"))
    store.put("a/file", b"mine", Overwrite())
    store.delete("a/k")
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_a_key_that_is_the_folder_of_another_is_refused(tmp_path):
    store = LocalStore(tmp_path)
    store.put("a/k", b"x", Create())
    for key in ("a", "a/k/below"):
        for condition in (Create(), Overwrite()):
            with pytest.raises(InvalidInput):
                store.put(key, b"y", condition)
        with pytest.raises(NotFound):
            store.get(key)
    assert [entry.key for entry in store.list("")] == ["a/k"]


def test_reading_creates_nothing(tmp_path):
    store = LocalStore(tmp_path / "none" / "yet")
    assert list(store.list("")) == []
    with pytest.raises(NotFound):
        store.get("k")
    store.delete("k")
    assert os.listdir(tmp_path) == []
    store.put("k", b"x", Create())
    assert sorted(os.listdir(tmp_path / "none" / "yet")) == [TEMPORARY, "k"]


def test_the_adapters_own_folders_are_not_listed(tmp_path):
    store = LocalStore(tmp_path)
    token = store.put("k", b"x", Create())
    assert token == store.get("k").token
    store.put("k", b"y", Overwrite())
    assert {LOCKS, TEMPORARY} <= set(os.listdir(tmp_path))
    assert [entry.key for entry in store.list("")] == ["k"]


def test_a_local_path_of_nothing_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        LocalStore(tmp_path).local_path("k")
