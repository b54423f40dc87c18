"""An HTTP proxy before one server that loses what it is told to lose, of real requests and real replies."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request whose method is `method`: it reaches the server or not; then `meanwhile` runs; then the
    client gets the reply, a part of it, another status, or nothing. `until` holds the request back, before the server."""

    method: str
    forwarded: bool = True
    reply: str = "lost"
    status: int = 500
    code: str = "InternalError"
    meanwhile: Callable[[], object] = lambda: None
    until: threading.Event | None = None


@dataclass
class LossyProxy:
    endpoint: str
    requests: list[str] = field(default_factory=list)
    """The methods of the requests that came in."""
    faults: list[Fault] = field(default_factory=list)
    """Each is used up by the first request of its method."""
    always: Fault | None = None
    """Happens to every request of its method when `faults` has none for it; the method "*" means any."""

    def take(self, method: str) -> Fault | None:
        self.requests.append(method)
        for fault in self.faults:
            if fault.method == method:
                self.faults.remove(fault)
                return fault
        return self.always if self.always and self.always.method in {method, "*"} else None


@contextmanager
def lossy_proxy(upstream: str) -> Iterator[LossyProxy]:
    host = urlsplit(upstream).netloc
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            with lock:
                fault = proxy.take(self.command)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if fault and fault.until:
                fault.until.wait(30)
            reply, content = (None, b"") if fault and not fault.forwarded else self.forward(body)
            if fault:
                fault.meanwhile()
            if fault and fault.reply == "error":
                text = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
                self.reply(fault.status, {"Content-Type": "application/xml"}, text, len(text))
            elif reply is None or (fault and fault.reply == "lost"):
                self.close_connection = True
            elif fault and fault.reply == "half":
                self.reply(reply.status, dict(reply.getheaders()), content[: len(content) // 2], len(content))
                self.close_connection = True
            else:
                self.reply(reply.status, dict(reply.getheaders()), content, len(content))

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

        def forward(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
            connection = http.client.HTTPConnection(host, timeout=30)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                connection.request(self.command, self.path, body, headers)
                reply = connection.getresponse()
                return reply, reply.read()
            finally:
                connection.close()

        def reply(self, status: int, headers: dict[str, str], content: bytes, length: int) -> None:
            if self.command == "HEAD":
                length = int(headers.get("Content-Length", 0))
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in {"content-length", "connection", "transfer-encoding"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            try:
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Silent."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that went away is what these tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    proxy = LossyProxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
