"""The S3 store behind a network that loses requests and replies: a conditional put takes effect at most once, and what is
reported about it is true."""

import socket
import threading

import boto3
import pytest
from botocore.config import Config
from servers.lossy_proxy import Fault, lossy_proxy

from penstock.pipeline.core.errors import CommitConflict, Corrupt, InvalidInput, OutcomeUnknown, StorageFull, Unreachable
from penstock.pipeline.ports.s3_client import Patience
from penstock.pipeline.ports.s3_store import S3Store
from penstock.pipeline.ports.s3_upload import LARGEST_PART, MAX_PARTS, MIB, SMALLEST_PART, part_bytes
from penstock.pipeline.ports.store import Create, Overwrite, Swap

QUICK = Patience(attempts=4, first_s=0.001, most_s=0.002, connect_s=1.0, answer_s=10.0)
ANY_FAULT = pytest.mark.parametrize("reply", ["lost", "error", "half"])


@pytest.fixture
def proxy(s3_server):
    with lossy_proxy(s3_server) as proxy:
        yield proxy


@pytest.fixture
def direct(s3_server, s3_bucket):
    return S3Store(s3_bucket, endpoint=s3_server)


@pytest.fixture
def store(proxy, s3_bucket):
    return S3Store(s3_bucket, endpoint=proxy.endpoint, patience=QUICK)


def swapped(store, key, data):
    return store.put(key, data, Swap(store.get(key).token))


@ANY_FAULT
def test_a_create_whose_reply_was_lost_is_reported_as_done(proxy, store, direct, reply):
    proxy.faults = [Fault("PUT", reply=reply)]
    token = store.put("k", b"1", Create())
    assert direct.get("k").data == b"1"
    assert proxy.requests == ["PUT", "GET"] if reply != "half" else ["PUT"]
    direct.put("k", b"2", Swap(token))


@ANY_FAULT
def test_a_swap_whose_reply_was_lost_is_reported_as_done(proxy, store, direct, reply):
    token = direct.put("k", b"1", Create())
    proxy.faults = [Fault("PUT", reply=reply)]
    token = store.put("k", b"2", Swap(token))
    assert direct.get("k").data == b"2"
    assert store.put("k", b"3", Swap(token))


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_put_that_did_not_arrive_is_sent_again(proxy, store, direct, times):
    proxy.faults = [Fault("PUT", forwarded=False)] * times
    token = store.put("k", b"1", Create())
    proxy.faults = [Fault("PUT", forwarded=False)] * times
    store.put("k", b"2", Swap(token))
    assert direct.get("k").data == b"2"


def test_a_lost_reply_and_a_second_look_that_fails_are_settled_by_the_third(proxy, store, direct):
    proxy.faults = [Fault("PUT"), Fault("GET"), Fault("GET", reply="error", status=503)]
    store.put("k", b"1", Create())
    assert direct.get("k").data == b"1"


def test_a_create_that_landed_and_was_swapped_since_is_reported_as_done(proxy, store, direct):
    proxy.faults = [Fault("PUT", meanwhile=lambda: swapped(direct, "k", b"theirs"))]
    token = store.put("k", b"mine", Create())
    with pytest.raises(CommitConflict):
        store.put("k", b"mine again", Swap(token))
    assert direct.get("k").data == b"theirs"


def test_a_swap_that_landed_and_was_swapped_since_is_reported_as_done(proxy, store, direct):
    token = direct.put("k", b"0", Create())
    proxy.faults = [Fault("PUT", meanwhile=lambda: swapped(direct, "k", b"theirs"))]
    token = store.put("k", b"mine", Swap(token))
    with pytest.raises(CommitConflict):
        store.put("k", b"mine again", Swap(token))
    assert direct.get("k").data == b"theirs"


def test_a_create_that_somebody_else_won_is_a_conflict(proxy, store, direct):
    proxy.faults = [Fault("PUT", forwarded=False, meanwhile=lambda: direct.put("k", b"theirs", Create()))]
    with pytest.raises(CommitConflict):
        store.put("k", b"mine", Create())
    assert direct.get("k").data == b"theirs"


def test_a_create_of_the_same_bytes_that_somebody_else_won_is_a_conflict(proxy, store, direct):
    proxy.faults = [Fault("PUT", forwarded=False, meanwhile=lambda: direct.put("k", b"same", Create()))]
    with pytest.raises(CommitConflict):
        store.put("k", b"same", Create())


def test_a_swap_that_somebody_else_won_is_a_conflict(proxy, store, direct):
    token = direct.put("k", b"0", Create())
    proxy.faults = [Fault("PUT", forwarded=False, meanwhile=lambda: swapped(direct, "k", b"theirs"))]
    with pytest.raises(CommitConflict):
        store.put("k", b"mine", Swap(token))
    assert direct.get("k").data == b"theirs"


def test_what_two_others_have_swapped_since_cannot_be_told(proxy, store, direct):
    token = direct.put("k", b"0", Create())

    def twice():
        swapped(direct, "k", b"theirs")
        swapped(direct, "k", b"and theirs")

    proxy.faults = [Fault("PUT", forwarded=False, meanwhile=twice)]
    with pytest.raises(OutcomeUnknown):
        store.put("k", b"mine", Swap(token))
    assert direct.get("k").data == b"and theirs"


def test_a_conflict_that_the_server_itself_reports_is_not_looked_into(proxy, store, direct):
    direct.put("k", b"theirs", Create())
    with pytest.raises(CommitConflict):
        store.put("k", b"mine", Create())
    assert proxy.requests == ["PUT"]


def test_a_put_held_up_past_the_timeout_takes_effect_once(proxy, s3_bucket, direct):
    late = threading.Event()
    hasty = Patience(attempts=4, first_s=0.001, most_s=0.002, connect_s=1.0, answer_s=0.2)
    store = S3Store(s3_bucket, endpoint=proxy.endpoint, patience=hasty)
    token = direct.put("k", b"0", Create())
    proxy.faults = [Fault("PUT", until=late)]
    token = store.put("k", b"1", Swap(token))
    swapped(direct, "k", b"2")
    late.set()
    with pytest.raises(CommitConflict):
        store.put("k", b"3", Swap(token))
    assert direct.get("k").data == b"2"


def test_a_server_that_never_replies_leaves_it_unknown_after_a_bounded_number_of_requests(proxy, store, direct):
    proxy.always = Fault("*")
    with pytest.raises(OutcomeUnknown):
        store.put("k", b"1", Create())
    assert len(proxy.requests) == 1 + QUICK.attempts
    assert direct.get("k").data == b"1"


def test_a_server_that_takes_no_put_leaves_it_unknown_after_a_bounded_number_of_requests(proxy, store):
    proxy.always = Fault("PUT", forwarded=False)
    with pytest.raises(OutcomeUnknown):
        store.put("k", b"1", Create())
    assert proxy.requests.count("PUT") == QUICK.attempts


def test_a_throttled_put_had_no_effect(proxy, store, direct):
    proxy.always = Fault("PUT", forwarded=False, reply="error", status=503, code="SlowDown")
    with pytest.raises(Unreachable) as caught:
        store.put("k", b"1", Create())
    assert type(caught.value) is Unreachable
    assert proxy.requests == ["PUT"] * QUICK.attempts
    assert list(direct.list("")) == []


def test_two_puts_that_stop_each_other_are_sent_again(proxy, store, direct):
    contended = Fault("PUT", forwarded=False, reply="error", status=409, code="ConditionalRequestConflict")
    proxy.faults = [contended] * 2
    store.put("k", b"1", Create())
    assert direct.get("k").data == b"1"
    proxy.always = contended
    with pytest.raises(CommitConflict):
        store.put("other", b"1", Create())
    with pytest.raises(Unreachable):
        store.put("other", b"1", Overwrite())


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [(507, "InsufficientStorage", StorageFull), (403, "QuotaExceeded", StorageFull), (403, "AccessDenied", InvalidInput)],
)
def test_a_refusal_is_reported_at_once(proxy, store, status, code, expected):
    proxy.always = Fault("*", forwarded=False, reply="error", status=status, code=code)
    for condition in (Create(), Overwrite()):
        with pytest.raises(expected, match="injected"):
            store.put("k", b"1", condition)
    assert proxy.requests == ["PUT", "PUT"]


@ANY_FAULT
@pytest.mark.parametrize(
    "read", [lambda s: s.get("k").data, lambda s: s.get_range("k", 0, 1000), lambda s: [s.get("k").data, *s.list("k")][0]]
)
def test_a_read_is_tried_again(proxy, store, direct, reply, read):
    direct.put("k", b"x" * 1000, Create())
    proxy.faults = [Fault("GET", reply=reply), Fault("GET", reply=reply)]
    assert read(store) == b"x" * 1000


def test_reads_of_a_server_that_is_gone_end(proxy, store):
    proxy.always = Fault("*", forwarded=False, reply="error", status=503, code="ServiceUnavailable")
    for read in (
        lambda: store.get("k"),
        lambda: store.size("k"),
        lambda: list(store.list("")),
        lambda: store.get_range("k", 0, 1),
    ):
        proxy.requests.clear()
        with pytest.raises(Unreachable, match="4 attempts") as caught:
            read()
        assert type(caught.value) is Unreachable
        assert len(proxy.requests) == QUICK.attempts


def test_a_port_without_a_server_is_unreachable(s3_server):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        store = S3Store("bucket", endpoint=f"http://127.0.0.1:{bound.getsockname()[1]}", patience=QUICK)
        for call in (
            lambda: store.get("k"),
            lambda: store.put("k", b"", Create()),
            lambda: store.put("k", b"", Overwrite()),
            lambda: store.delete("k"),
        ):
            with pytest.raises(Unreachable) as caught:
                call()
            assert type(caught.value) is Unreachable


def test_a_bucket_that_does_not_exist_is_not_an_object_that_does_not_exist(s3_server):
    store = S3Store("no-such-bucket", endpoint=s3_server, patience=QUICK)
    for call in (
        lambda: store.get("k"),
        lambda: store.size("k"),
        lambda: list(store.list("")),
        lambda: store.put("k", b"", Create()),
    ):
        with pytest.raises(InvalidInput, match="bucket"):
            call()


def test_a_range_of_an_object_that_is_replaced_meanwhile_is_of_one_content(proxy, store, direct):
    contents = [bytes([number]) * (20 * MIB) for number in (1, 2)]
    direct.put("k", contents[0], Create())
    replaced = threading.Event()

    def replace():
        direct.put("k", contents[1], Overwrite())
        replaced.set()

    late = Fault("GET", reply="whole", until=replaced)
    proxy.faults = [Fault("GET", reply="whole", meanwhile=replace), late, late]
    assert store.get_range("k", 0, 20 * MIB) == contents[1]
    assert proxy.requests == ["GET"] * 6


def test_a_long_range_past_the_end_is_corrupt(direct):
    direct.put("k", bytes(9 * MIB), Create())
    with pytest.raises(Corrupt):
        direct.get_range("k", 0, 10 * MIB)
    with pytest.raises(Corrupt):
        direct.get_range("k", 0, 40 * MIB)


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("reply", ["lost", "error"])
def test_an_upload_in_parts_survives_lost_replies(proxy, store, direct, method, reply):
    block = bytes(range(256)) * 4096
    with store.upload("u", size_hint=20 * MIB) as upload:
        for number in range(20):
            upload.write(bytes([number]) + block[1:])
            if number == 12:
                proxy.faults = [Fault(method, reply=reply), Fault(method, forwarded=False, reply=reply)]
    assert proxy.faults == []
    assert direct.get("u").data == b"".join(bytes([number]) + block[1:] for number in range(20))


def test_an_upload_that_cannot_be_ended_is_unreachable_and_invisible(proxy, store, direct):
    proxy.always = Fault("PUT", forwarded=False, reply="error", status=503)

    def send():
        with store.upload("u") as upload:
            upload.write(bytes(20 * MIB))

    with pytest.raises(Unreachable):
        send()
    assert list(direct.list("")) == []
    assert parts_left(direct, proxy) == []


def test_an_abandoned_upload_leaves_no_parts(store, direct, proxy):
    def send():
        with store.upload("u") as upload:
            upload.write(bytes(30 * MIB))
            assert parts_left(direct, proxy) == ["u"]
            raise KeyError("the caller's own")

    with pytest.raises(KeyError):
        send()
    assert parts_left(direct, proxy) == []


def parts_left(direct, proxy):
    client = boto3.Session().client(
        "s3", endpoint_url=proxy.endpoint, region_name="us-east-1", config=Config(s3={"addressing_style": "path"})
    )
    found = client.list_multipart_uploads(Bucket=direct.url.removeprefix("s3://"))
    return [upload["Key"] for upload in found.get("Uploads", [])]


def test_the_parts_of_an_upload_fit_its_size():
    assert part_bytes(0) == SMALLEST_PART
    assert part_bytes(10**15) == LARGEST_PART
    for size in (1, 5 * 2**30, 2**36, 300 * 2**30):
        assert part_bytes(size) % MIB == 0
        assert part_bytes(size) * MAX_PARTS >= size
