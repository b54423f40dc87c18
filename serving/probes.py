"""Plain HTTP for those who watch over processes (Kubernetes probes, load balancers): is it alive, should it be asked, what does
it serve. No lookup, no token, nothing that is secret."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from penstock.pipeline.core.errors import Unreachable

from .status import Health

log = logging.getLogger(__name__)
MOST_AT_ONCE = 16
PATIENCE_S = 2.0
PATHS = ("/healthz", "/readyz", "/version")


class Starting(msgspec.Struct, frozen=True, kw_only=True):
    """What is said until there is something to serve."""

    ready: bool = False
    why: str = "it is still loading"


class Probes(ThreadingHTTPServer):
    """Answers at `host:port` (0 takes a free one) from when it is made until `close`. `/healthz`: 503 once it will not recover by
    itself; `/readyz`: 503 while it should not be asked; `/version`: what is served. The body is `Health` as JSON."""

    daemon_threads = True

    def __init__(self, *, host: str, port: int) -> None:
        self._told: Callable[[], Health] | None = None
        self._places = threading.BoundedSemaphore(MOST_AT_ONCE)
        try:
            super().__init__((host, port), _Probe)
        except (OSError, OverflowError) as error:
            raise Unreachable(f"cannot listen on {host}:{port}: {error}", hint="is the port taken?") from None
        self._serving = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, name="probes", daemon=True)
        self._serving.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def tell(self, told: Callable[[], Health]) -> None:
        """There is something to serve from now on: `told` says how it is."""
        self._told = told

    def said(self) -> Health | Starting:
        return Starting() if self._told is None else self._told()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._serving.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, if there is one left."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nobody needs to hear of those who hang up."""
        if not isinstance(sys.exception(), OSError):
            log.exception("a probe was not answered")


class _Probe(BaseHTTPRequestHandler):
    server: Probes
    timeout = PATIENCE_S
    server_version, sys_version = "penstock", ""

    def do_GET(self) -> None:
        if self.path not in PATHS:
            self.send_error(HTTPStatus.NOT_FOUND, f"paths: {', '.join(PATHS)}")
            return
        said = self.server.said()
        body = msgspec.json.encode(said) + b"\n"
        self.send_response(_status(self.path, said))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Probes come every second; they are not worth a line."""


def _status(path: str, said: Health | Starting) -> HTTPStatus:
    is_well = True
    if path == "/readyz":
        is_well = said.ready
    elif path == "/healthz":
        is_well = isinstance(said, Starting) or not said.failure
    elif path == "/version":
        is_well = isinstance(said, Health)
    return HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
