"""One suite for every object store: what `pipeline/ports/store.py` promises."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.pipeline.core.errors import CommitConflict, Corrupt, InvalidInput, NotFound
from penstock.pipeline.ports.store import Create, Overwrite, Swap, Token

MIB = 1 << 20
CREATE, OVERWRITE = Create(), Overwrite()
NAMES = [
    "plain",
    "with space",
    "per%cent",
    "plus+and&=?#",
    "ünïcode/雪",
    "quote'\"<>",
    "a~!@$^*()[]{}|;:,",
    "deep/" * 20 + "x",
    "é" * 100,
]
MALFORMED = [
    "", "/", "/a", "a/", "a//b", ".", "..", "a/..", "a/../b", "a/./b", "../a", ".hidden", ".locks/00", "a\\b", "a\0b",
    "a\nb", "a\x7f", "\udc80", "x" * 256, "é" * 128, "ab/" * 300 + "c",
]  # fmt: skip


def keys(store, prefix):
    return [entry.key for entry in store.list(prefix)]


def together(count, action):
    """Calls `action(number)` in `count` threads at once; the results."""
    barrier = threading.Barrier(count)

    def run(number):
        barrier.wait()
        return action(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def wins(put):
    try:
        put()
    except CommitConflict:
        return False
    return True


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000])
def test_what_is_put_is_read(store, data):
    token = store.put("a/b", data, CREATE)
    found = store.get("a/b")
    assert (found.data, found.token) == (data, token)
    assert store.size("a/b") == len(data)


def test_create_has_one_winner_and_changes_nothing_for_the_loser(store):
    store.put("k", b"first", CREATE)
    with pytest.raises(CommitConflict, match="k"):
        store.put("k", b"second", CREATE)
    assert store.get("k").data == b"first"


def test_swap_takes_only_the_content_that_was_read(store):
    first = store.put("k", b"1", CREATE)
    second = store.put("k", b"2", Swap(first))
    assert second != first
    for stale in (first, Token("nonsense")):
        with pytest.raises(CommitConflict, match="k"):
            store.put("k", b"3", Swap(stale))
    assert store.get("k").data == b"2"
    assert store.get("k").token == second


def test_swap_of_what_does_not_exist_is_a_conflict(store):
    token = store.put("k", b"1", CREATE)
    with pytest.raises(CommitConflict):
        store.put("other", b"1", Swap(token))
    store.delete("k")
    with pytest.raises(CommitConflict):
        store.put("k", b"2", Swap(token))
    assert keys(store, "") == []


def test_overwrite_puts_and_changes_the_token(store):
    first = store.put("k", b"1", OVERWRITE)
    store.put("k", b"2", OVERWRITE)
    assert store.get("k").data == b"2"
    with pytest.raises(CommitConflict):
        store.put("k", b"3", Swap(first))


def test_created_again_after_a_delete(store):
    store.put("k", b"1", CREATE)
    store.delete("k")
    store.put("k", b"2", CREATE)
    assert store.get("k").data == b"2"


def test_creates_raced_by_threads_have_one_winner_each(open_again):
    stores = [open_again() for _ in range(6)]
    for turn in range(8):
        won = together(6, lambda number, turn=turn: wins(lambda: stores[number].put(f"race/{turn}", b"by %d" % number, CREATE)))
        assert won.count(True) == 1
        assert stores[0].get(f"race/{turn}").data == b"by %d" % won.index(True)


def test_swaps_raced_by_threads_lose_no_increment(open_again):
    store = open_again()
    store.put("count", b"0", CREATE)

    def add(_):
        mine, landed = open_again(), 0
        while landed < 10:
            found = mine.get("count")
            landed += wins(lambda found=found: mine.put("count", b"%d" % (int(found.data) + 1), Swap(found.token)))

    together(4, add)
    assert store.get("count").data == b"40"


def test_overwrites_raced_with_reads_are_seen_whole(open_again):
    writer, reader = open_again(), open_again()
    contents = [bytes([number]) * 300_000 for number in range(10)]
    writer.put("k", contents[0], OVERWRITE)
    done = threading.Event()

    def run(number):
        if number == 0:
            for content in contents:
                writer.put("k", content, OVERWRITE)
            done.set()
            return
        last = False
        while not last:
            last = done.is_set()
            assert reader.get("k").data in contents

    together(2, run)


def test_ranges(store):
    data = bytes(range(256)) * 100
    store.put("k", data, CREATE)
    for start, length in [(0, 1), (0, len(data)), (255, 2), (len(data) - 1, 1), (1000, 5000), (7, 0), (len(data), 0)]:
        assert store.get_range("k", start, length) == data[start : start + length]


@pytest.mark.parametrize(("start", "length"), [(0, 11), (10, 1), (9, 2), (50, 10), (11, 0), (0, 100 * MIB)])
def test_a_range_past_the_end_is_corrupt(store, start, length):
    store.put("k", b"0123456789", CREATE)
    with pytest.raises(Corrupt, match="k"):
        store.get_range("k", start, length)


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1)])
def test_a_negative_range_is_invalid(store, start, length):
    store.put("k", b"0123456789", CREATE)
    with pytest.raises(InvalidInput):
        store.get_range("k", start, length)


@pytest.mark.parametrize(
    "read",
    [lambda s: s.get("no/k"), lambda s: s.size("no/k"), lambda s: s.get_range("no/k", 0, 1), lambda s: s.get_range("no/k", 0, 0)],
)
def test_what_is_not_there_is_not_found(store, read):
    with pytest.raises(NotFound, match="no/k"):
        read(store)
    store.put("no/k/below", b"", CREATE)
    with pytest.raises(NotFound):
        store.get("no/k")


def test_listing_is_in_key_order_by_string_prefix(store):
    named = ["a", "b/1", "b/10", "b/2", "b-c", "b.d", "b0", "b/x/y", "b/x.y", "bb", "c/é", "c/z"]
    for number, key in enumerate(named):
        store.put(key, b"x" * number, CREATE)
    assert keys(store, "") == sorted(named)
    for prefix in ("b", "b/", "b/1", "b/x", "b/x/", "bb", "c/é", "a"):
        assert keys(store, prefix) == sorted(key for key in named if key.startswith(prefix))
    assert [entry.size for entry in store.list("b/x/y")] == [named.index("b/x/y")]
    for prefix in ("d", "b/x/y/", "a/", "b/11", "ba"):
        assert keys(store, prefix) == []


def test_an_empty_store_lists_nothing(store):
    assert keys(store, "") == []


def test_a_listing_of_many(store):
    named = [f"many/{number:04d}" for number in range(1100)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda key: store.put(key, b"", OVERWRITE), named))
    assert keys(store, "many/") == named


def test_delete_is_idempotent_and_takes_no_neighbour(store):
    for key in ("a/b", "a/bc", "a/c/d"):
        store.put(key, b"x", CREATE)
    for _ in range(2):
        store.delete("a/b")
    store.delete("never/was")
    store.delete("a/c")
    assert keys(store, "") == ["a/bc", "a/c/d"]


@pytest.mark.parametrize("key", NAMES)
def test_any_name_of_the_rule_is_fine(store, key):
    store.put(key, b"x", CREATE)
    assert store.get(key).data == b"x"
    assert keys(store, "") == [key]
    with store.upload(key) as upload:
        upload.write(b"yz")
    assert store.get_range(key, 1, 1) == b"z"
    store.delete(key)
    assert keys(store, "") == []


@pytest.mark.parametrize("key", MALFORMED)
def test_a_malformed_key_is_refused_and_changes_nothing(store, key):
    calls = [
        lambda: store.put(key, b"", CREATE), lambda: store.put(key, b"", OVERWRITE),
        lambda: store.put(key, b"", Swap(Token("t"))),
        lambda: store.upload(key).__enter__(), lambda: store.get(key), lambda: store.size(key), lambda: store.delete(key),
        lambda: store.get_range(key, 0, 1), lambda: store.local_path(key),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(InvalidInput, match="key"):
            call()
    assert keys(store, "") == []


@pytest.mark.parametrize("prefix", ["/", "a//b", "../a", "a/../", ".locks", "a\\", "a\0"])
def test_a_malformed_prefix_is_refused(store, prefix):
    with pytest.raises(InvalidInput, match="key"):
        keys(store, prefix)


@pytest.mark.parametrize("sizes", [[], [0], [1, 2, 3], [MIB - 1, 2, MIB, MIB + 1], [700_000] * 4])
def test_an_upload_of_any_blocks(store, sizes):
    blocks = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    with store.upload("u/k", size_hint=sum(sizes)) as upload:
        for block in blocks:
            upload.write(block)
    assert store.get("u/k").data == b"".join(blocks)


def test_an_upload_takes_any_buffer_and_lets_the_caller_reuse_it(store):
    import array

    buffer = bytearray(b"abc")
    numbers = array.array("i", [1, 2, 3])
    with store.upload("k") as upload:
        upload.write(buffer)
        buffer[:] = b"xyz"
        upload.write(memoryview(buffer)[1:])
        upload.write(memoryview(numbers))
    assert store.get("k").data == b"abcyz" + numbers.tobytes()


def test_an_upload_is_visible_only_at_its_end(store):
    with store.upload("u/k") as upload:
        upload.write(b"x" * 3 * MIB)
        assert keys(store, "") == []
        with pytest.raises(NotFound):
            store.get("u/k")
    assert keys(store, "") == ["u/k"]


def abandon(store, key, blocks):
    with store.upload(key) as upload:
        for block in blocks:
            upload.write(block)
        raise OSError("the caller's own")


@pytest.mark.parametrize("written", [0, 5, 20 * MIB])
def test_an_abandoned_upload_leaves_nothing(store, written):
    with pytest.raises(OSError, match="the caller's own"):
        abandon(store, "u/k", [bytes(written)])
    assert keys(store, "") == []
    store.put("u/k", b"x", CREATE)


def test_an_abandoned_upload_keeps_what_was_there(store):
    store.put("k", b"old", CREATE)
    with pytest.raises(OSError, match="the caller's own"):
        abandon(store, "k", [b"new"])
    assert store.get("k").data == b"old"


def test_an_upload_overwrites_and_changes_the_token(store):
    token = store.put("k", b"old", CREATE)
    with store.upload("k") as upload:
        upload.write(b"new")
    with pytest.raises(CommitConflict):
        store.put("k", b"x", Swap(token))
    assert store.get("k").data == b"new"
    store.put("k", b"newer", Swap(store.get("k").token))


def test_a_large_object(store):
    """Several parts where the server has parts; a range that is read in several requests."""
    block = bytes(range(256)) * 4096
    with store.upload("big", size_hint=37 * MIB) as upload:
        for number in range(37):
            upload.write(bytes([number]) + block[1:])
    assert store.size("big") == 37 * MIB
    start, length = 3 * MIB - 7, 30 * MIB + 11
    whole = b"".join(bytes([number]) + block[1:] for number in range(37))
    assert store.get_range("big", start, length) == whole[start : start + length]
    assert store.get("big").data == whole


def test_uploads_of_several_threads(store):
    def send(number):
        with store.upload(f"t/{number}") as upload:
            for _ in range(10):
                upload.write(bytes([number]) * MIB)

    together(3, send)
    for number in range(3):
        assert store.get(f"t/{number}").data == bytes([number]) * 10 * MIB


def test_a_local_path_is_the_object_or_nothing(store):
    store.put("a/k", b"x", CREATE)
    path = store.local_path("a/k")
    assert path is None or path.read_bytes() == b"x"


def test_the_url_names_the_store(store):
    assert store.url.split("://")[0] in {"memory", "file", "s3"}
