"""Tells people: an alarm goes into the log of whoever raises it, and to an address, if there is one."""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request

log = logging.getLogger(__name__)
TIMEOUT_S = 10.0


def alarm(text: str, url: str | None) -> None:
    """Posts {"text": text} to `url`, which is what most chats take. That nobody answers there is only logged: what the alarm is
    about must not depend on it."""
    log.error("%s", text)
    if url is None:
        return
    try:
        request = urllib.request.Request(url, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return
    except (OSError, ValueError) as error:
        log.warning("the alarm did not reach its address: %s", error)


async def late(text: str, url: str | None, context: dict[str, object]) -> None:
    """A run has passed its deadline. Called by a scheduler's event loop, which must go on meanwhile, with what it knows of the
    run."""
    run = context.get("dag_run")
    name = run.get("dag_run_id", "") if isinstance(run, dict) else ""
    await asyncio.to_thread(alarm, f"{text}: {name}", url)
