"""Plain HTTP for those who watch over processes."""

import http.client
import json
import socket
import time
from contextlib import suppress

import msgspec
import pytest

from penstock.pipeline.core.errors import Unreachable
from penstock.pipeline.plain_http import MOST_AT_ONCE, PATIENCE_S
from penstock.serving.probes import Probes
from penstock.serving.status import Health

WELL = Health(
    replica="r", ready=True, why="", leaving=False, version=3, timeline=1, buckets=(0, 16), model="shop", bucket_count=16
)


@pytest.fixture
def probes():
    found = Probes(host="127.0.0.1", port=0)
    yield found
    found.close()


def asked(probes, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", probes.port, timeout=30)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, json.loads(body) if body and answer.headers["Content-Type"] == "application/json" else body


def test_what_loads_is_alive_and_not_ready(probes):
    assert asked(probes, "/healthz")[0] == 200
    assert asked(probes, "/readyz") == (503, {"ready": False, "why": "it is still loading"})
    assert asked(probes, "/version")[0] == 503


@pytest.mark.parametrize(
    ("changed", "codes"),
    [
        ({}, (200, 200, 200)),
        ({"ready": False, "why": "it is leaving", "leaving": True}, (200, 503, 200)),
        ({"ready": False, "why": "a disk has gone", "failure": "a disk has gone"}, (503, 503, 200)),
    ],
)
def test_what_serves(probes, changed, codes):
    said = msgspec.structs.replace(WELL, **changed)
    probes.tell(lambda: said)
    for path, code in zip(("/healthz", "/readyz", "/version"), codes, strict=True):
        assert asked(probes, path) == (code, json.loads(msgspec.json.encode(said)))
        assert asked(probes, path, "HEAD") == (code, b"")


@pytest.mark.parametrize(("path", "method", "code"), [("/", "GET", 404), ("/../healthz", "GET", 404), ("/healthz", "POST", 501)])
def test_nothing_else_is_answered(probes, path, method, code):
    assert asked(probes, path, method)[0] == code


def test_those_who_do_not_go_on_keep_nobody_else_out_for_long(probes):
    idle = [socket.create_connection(("127.0.0.1", probes.port)) for _ in range(2 * MOST_AT_ONCE)]
    try:
        for each in idle[:MOST_AT_ONCE]:
            each.sendall(b"GET /heal")
        until = time.monotonic() + 10 * PATIENCE_S
        while True:
            try:
                assert asked(probes, "/healthz")[0] == 200
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.05)
    finally:
        for each in idle:
            each.close()


@pytest.mark.parametrize("sent", [b"\x00" * 5000, b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"x" * 100_000 + b"\r\n\r\n", b"\xff\r\n"])
def test_what_is_no_http_harms_nobody(probes, sent, capsys):
    with socket.create_connection(("127.0.0.1", probes.port)) as raw, suppress(OSError):  # it may hang up at any time
        raw.settimeout(30)
        raw.sendall(sent)
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(1 << 16):
            continue
    assert asked(probes, "/healthz")[0] == 200
    assert capsys.readouterr().err == ""


def test_a_failure_in_telling_is_logged_and_harms_nobody(probes, caplog):
    probes.tell(lambda: 1 / 0)
    with pytest.raises((http.client.HTTPException, OSError)):
        asked(probes, "/readyz")
    assert "ZeroDivisionError" in caplog.text
    probes.tell(lambda: WELL)
    assert asked(probes, "/readyz")[0] == 200


def test_a_port_that_is_taken(probes):
    with pytest.raises(Unreachable, match="cannot listen"):
        Probes(host="127.0.0.1", port=probes.port)
