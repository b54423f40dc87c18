"""A small HTTP server for those who watch over processes: bounded, in threads of its own. Knows nothing of what it tells."""

from __future__ import annotations

import logging
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from .core.errors import InvalidInput, Unreachable

log = logging.getLogger(__name__)
MOST_AT_ONCE = 16
PATIENCE_S = 2.0


class Page(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes


class PlainHttp(ThreadingHTTPServer):
    """Answers GET and HEAD at `host:port` (0 takes a free one) from when it is made until `close`. `paths`: those there are;
    a subclass says what stands at them."""

    daemon_threads = True
    paths: tuple[str, ...] = ()

    def __init__(self, *, host: str, port: int) -> None:
        self._places = threading.BoundedSemaphore(MOST_AT_ONCE)
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise Unreachable(f"cannot listen on {host}:{port}: {error}", hint="is the port taken?") from None
        self._serving = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, name="http", daemon=True)
        self._serving.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def page(self, path: str, accept: str) -> Page:
        """What stands at one of `paths`; `accept` is the header that was sent, "" if there was none."""
        raise NotImplementedError

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
            log.exception("a request was not answered")


class _Handler(BaseHTTPRequestHandler):
    server: PlainHttp
    timeout = PATIENCE_S
    server_version, sys_version = "penstock", ""

    def do_GET(self) -> None:
        if self.path not in self.server.paths:
            self.send_error(HTTPStatus.NOT_FOUND, f"paths: {', '.join(self.server.paths)}")
            return
        page = self.server.page(self.path, self.headers.get("Accept", ""))
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(page.body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Who watches comes every second, which is not worth a line."""


def host_and_port(text: str, option: str) -> tuple[str, int]:
    """HOST:PORT; without a host, every address of the machine. `option` names what is wrong."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise InvalidInput(f"{option} {text}: HOST:PORT is needed, as in 127.0.0.1:8815")
    return host or "0.0.0.0", int(port)
