"""A proxy between a client and an HTTP server that does to their talk what networks and servers do."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_CHUNK_BYTES = 64 * 1024


def nothing() -> None: ...


@dataclass(frozen=True)
class Fault:
    """What is done to the requests that it concerns.

    Attributes:
        methods: which requests.
        after: so many of them pass first.
        times: how many of them after that; the rest pass.
        containing: only those whose path and query contain this.
        status: answered by the proxy itself, with this.
        hang: taken, and never answered.
        before: called before it is passed on.
        half_sent, half_got: called when half of the body has been passed on to the server, to the client.
        unanswered: passed on, but the client never sees the answer.
        cut: of the answer's body only this share arrives, and then the connection is closed.
        longer: the answer's length is said to be so many bytes more.
        corrupt, corrupt_sent: one byte of the answer's, of the request's body is changed.
        pause_seconds: before each piece of the answer's body of 64 KiB.
    """

    methods: tuple[str, ...] = ("GET",)
    after: int = 0
    times: int = 10**6
    containing: str = ""
    status: int | None = None
    hang: bool = False
    before: Callable[[], None] = nothing
    half_sent: Callable[[], None] = nothing
    half_got: Callable[[], None] = nothing
    unanswered: bool = False
    cut: float | None = None
    longer: int = 0
    corrupt: bool = False
    corrupt_sent: bool = False
    pause_seconds: float = 0


class _Cut(Exception):
    """The connection to the client is to be closed."""


@dataclass
class FaultProxy:
    """A proxy to `port` of this machine, in threads of this process."""

    port: int
    #: What it has been asked, as `GET /path`.
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._fault: Fault | None = None
        self._met = 0
        self._over = threading.Event()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def doing(self, fault: Fault) -> Iterator[None]:
        """Do that in the `with` block."""
        self._over.clear()
        self._fault, self._met = fault, 0
        try:
            yield
        finally:
            self._fault = None
            self._over.set()

    def fault_for(self, method: str, path: str) -> Fault:
        """Return what is to be done to a request."""
        fault = self._fault
        if fault is None or method not in fault.methods or fault.containing not in path:
            return Fault()
        self._met += 1
        return fault if fault.after < self._met <= fault.after + fault.times else Fault()

    def hang(self) -> None:
        """Wait until the fault is over."""
        self._over.wait(60)

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: FaultProxy
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (_Cut, OSError, HTTPException):
            self.close_connection = True

    def _do(self) -> None:
        fault = self.owner.fault_for(self.command, self.path)
        self.owner.requests.append(f"{self.command} {self.path}")
        if fault.hang:
            self.owner.hang()
            raise _Cut
        fault.before()
        if fault.status is not None:
            self.rfile.read(self._length)
            body = b"<Error><Code>SlowDown</Code></Error>"
            self.send_response(fault.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        upstream = HTTPConnection("127.0.0.1", self.owner.port, timeout=60)
        try:
            self._send_on(upstream, fault)
            answer = upstream.getresponse()
            if fault.unanswered:
                answer.read()
                raise _Cut
            self._answer(answer, fault)
        finally:
            upstream.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _do  # noqa: N815 - names of the base class

    @property
    def _length(self) -> int:
        return int(self.headers.get("Content-Length", 0))

    def _send_on(self, upstream: HTTPConnection, fault: Fault) -> None:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "expect":
                upstream.putheader(name, value)
        upstream.endheaders()
        left, half = self._length, self._length // 2
        while left:
            chunk = self.rfile.read(min(_CHUNK_BYTES, left))
            if not chunk:
                raise _Cut
            if fault.corrupt_sent and left == self._length:
                chunk = bytes([chunk[0] ^ 1]) + chunk[1:]
            if left > half >= left - len(chunk):
                fault.half_sent()
            left -= len(chunk)
            upstream.send(chunk)

    def _answer(self, answer: HTTPResponse, fault: Fault) -> None:
        length = int(answer.getheader("Content-Length", "0"))
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                self.send_header(name, value)
        body = b"" if "Content-Length" in answer.headers or self.command == "HEAD" else answer.read()
        length = length or len(body)
        self.send_header("Content-Length", str(length + fault.longer))
        self.end_headers()
        sent, until = 0, length if fault.cut is None else int(length * fault.cut)
        if self.command == "HEAD":
            return
        while sent < until:
            time.sleep(fault.pause_seconds)
            chunk = body[sent : sent + _CHUNK_BYTES] or answer.read(min(_CHUNK_BYTES, until - sent))
            if not chunk:
                raise _Cut
            if fault.corrupt and sent == 0:
                chunk = bytes([chunk[0] ^ 1]) + chunk[1:]
            if sent <= length // 2 < sent + len(chunk):
                fault.half_got()
            sent += len(chunk)
            self.wfile.write(chunk)
        if fault.cut is not None or fault.longer:
            raise _Cut

    def finish(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""
