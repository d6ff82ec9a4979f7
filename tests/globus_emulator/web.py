"""Requests and answers of the emulator: routes by pattern, and faults that tests ask for."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

POLL_S = 0.02
"""How often the server looks whether it is told to stop: many tests start and stop one."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: Any
    raw: bytes
    match: tuple[str, ...] = ()

    @property
    def json(self) -> Any:
        return json.loads(self.raw) if self.raw else {}

    @property
    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")


class Refusal(Exception):
    """An answer that is an error: status, body as the service words it, headers."""

    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers or {}


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that match.

    `lost`: the request is carried out and the connection then closed without an answer. `delay_s`: the answer is late.
    Else the answer is `status` with `body` and `headers`, and nothing is carried out.
    """

    pattern: str
    status: int = 503
    body: Any = field(default_factory=lambda: {"code": "ServiceUnavailable", "message": "try again"})
    headers: dict[str, str] = field(default_factory=dict)
    lost: bool = False
    delay_s: float = 0.0
    times: int = 1


Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]
Handler = Callable[[Request], Answer]


class Web:
    """The HTTP server."""

    def __init__(self, port: int = 0) -> None:
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = []
        self._lock = threading.Lock()
        self._connections: set[Any] = set()
        self.faults: list[Fault] = []
        self.log: list[str] = []
        web = self

        class Connection(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                """Say nothing."""

            def serve(self) -> None:
                web.serve_one(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve  # noqa: N815 the names that http.server calls

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def finish_request(self, request: Any, client_address: Any) -> None:
                with web._lock:
                    web._connections.add(request)
                super().finish_request(request, client_address)

            def shutdown_request(self, request: Any) -> None:
                with web._lock:
                    web._connections.discard(request)
                super().shutdown_request(request)

            def handle_error(self, *arguments: Any) -> None:
                """A client that was killed is no news."""

        self._server = Server(("127.0.0.1", port), Connection)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_S,), daemon=True)

    def route(self, method: str, pattern: str, handler: Handler) -> None:
        self._routes.append((method, re.compile(pattern), handler))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Cut every connection, as the end of the process would."""
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def fault(self, pattern: str, **what: Any) -> None:
        with self._lock:
            self.faults.append(Fault(pattern, **what))

    def count(self, pattern: str) -> int:
        """How many requests matched."""
        with self._lock:
            return sum(bool(re.search(pattern, line)) for line in self.log)

    def serve_one(self, connection: BaseHTTPRequestHandler) -> None:
        length = int(connection.headers.get("Content-Length") or 0)
        raw = connection.rfile.read(length)
        parts = urlsplit(connection.path)
        path = "/" + unquote(parts.path).lstrip("/")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        request = Request(connection.command, path, query, connection.headers, raw)
        fault = self._fault(f"{request.method} {path}")
        if fault is not None and fault.delay_s:
            time.sleep(fault.delay_s)
            fault = None
        if fault is not None and not fault.lost:
            self._answer(connection, fault.status, fault.body, fault.headers)
            return
        status, body, headers = self._handled(request)
        if fault is not None:
            connection.close_connection = True
            connection.connection.close()
            return
        self._answer(connection, status, body, headers)

    def _fault(self, line: str) -> Fault | None:
        with self._lock:
            self.log.append(line)
            for fault in self.faults:
                if re.search(fault.pattern, line):
                    fault.times -= 1
                    if fault.times <= 0:
                        self.faults.remove(fault)
                    return fault
        return None

    def _handled(self, request: Request) -> tuple[int, Any, dict[str, str]]:
        try:
            for method, pattern, handler in self._routes:
                match = pattern.fullmatch(request.path)
                if method == request.method and match:
                    answer = handler(Request(*list(vars(request).values())[:-1], match.groups()))
                    return answer if len(answer) == 3 else (*answer, {})
        except Refusal as refusal:
            return refusal.status, refusal.body, refusal.headers
        return 404, {"code": "NotFound", "message": f"no {request.method} {request.path}"}, {}

    def _answer(self, connection: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str]) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        connection.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            connection.send_header(name, value)
        connection.end_headers()
        connection.wfile.write(content)
