"""Alarms reach their address; where they do not, nobody is stopped by that."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from penstock.pipeline.runs.alarms import alarm, late


@pytest.fixture
def address():
    """A URL, and what was posted to it."""
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", heard
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_alarm_is_posted_and_logged(address, caplog):
    url, heard = address
    alarm("the delta has failed", url)
    assert heard == [{"text": "the delta has failed"}]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_late_run_is_named(address):
    url, heard = address
    asyncio.run(late("the delta is late", url, context={"dag_run": {"dag_run_id": "scheduled__1"}}))
    asyncio.run(late("the delta is late", url, context={}))
    assert [each["text"] for each in heard] == ["the delta is late: scheduled__1", "the delta is late: "]


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:1/", "no address", "file:///nowhere"])
def test_an_alarm_that_nobody_takes_is_logged(url, caplog):
    alarm("the delta has failed", url)
    assert "the delta has failed" in caplog.text
    assert ("did not reach" in caplog.text) == (url is not None)
