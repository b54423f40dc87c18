"""Alarms reach their address; where they do not, nobody is stopped by that."""

from __future__ import annotations

import asyncio
import logging

import pytest
from alarm_address import alarm_address

from penstock.pipeline.runs.alarms import alarm, late


@pytest.fixture
def address():
    """A URL, and what was posted to it."""
    heard = []
    with alarm_address(heard) as url:
        yield url, heard


def test_an_alarm_is_posted_and_logged(address, caplog):
    url, heard = address
    alarm("the delta has failed", url)
    assert heard == ["the delta has failed"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_late_run_is_named(address):
    url, heard = address
    asyncio.run(late("the delta is late", url, context={"dag_run": {"dag_run_id": "scheduled__1"}}))
    asyncio.run(late("the delta is late", url, context={}))
    assert heard == ["the delta is late: scheduled__1", "the delta is late: "]


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:1/", "no address", "file:///nowhere"])
def test_an_alarm_that_nobody_takes_is_logged(url, caplog):
    alarm("the delta has failed", url)
    assert "the delta has failed" in caplog.text
    assert ("did not reach" in caplog.text) == (url is not None)
