"""An S3 server that fails: a proxy before a real one."""

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HANG_SECONDS = 3.0
NOT_PASSED_ON = ("host", "expect", "transfer-encoding")

CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code><Message>another is under way</Message></Error>"

Fault = Callable[[str, int], str | None]
"""Asked by the name of the object and how often the same was asked for before."""


def no_fault(name: str, before: int) -> None:
    """Pass it on."""


class Proxy(ThreadingHTTPServer):
    """Passes requests on, and breaks things.

    `breaks` is asked what to do to a GET: None, "refuse", "hang" (no answer for seconds), "cut" (the connection
    breaks), "flip" (a bit) or "empty"; `breaks_uploads` to a PUT: None, "refuse", "hang", "lose" (the answer,
    which is then that the store is overloaded) or "conflict" (S3's answer while another conditional PUT of the
    object is under way). `status` answers every request.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        self.target = target
        self.status: int | None = None
        self.breaks: Fault = no_fault
        self.breaks_uploads: Fault = no_fault
        self.requests: list[tuple[str, str, str]] = []
        self.ranges: list[tuple[str, int, int]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class ProxyHandler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        """Pass a request on, or break it."""
        sent = self._read_body()
        path, asked = self.path.split("?")[0], self.headers.get("Range", "")
        fault = self._fault(path, asked)
        if fault == "hang":
            time.sleep(HANG_SECONDS)
            self.close_connection = True
            return
        if fault == "refuse" or self.server.status:
            self.send_error(self.server.status or 503)
            return
        if fault == "conflict":
            self._send(409, CONFLICT)
            return
        status, answer, body = self._pass_on(sent)
        if fault == "lose":
            self.send_error(503)
            return
        if fault == "flip":
            body = body[:40] + bytes([body[40] ^ 1]) + body[41:]
        if fault == "empty":
            body = b""
        self.send_response(status)
        for name, value in answer.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        length = int(answer.get("Content-Length", 0)) if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        if fault == "cut":
            self.close_connection = True

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _fault(self, path: str, asked: str) -> str | None:
        request = (self.command, path, asked)
        before = self.server.requests.count(request)
        self.server.requests.append(request)
        if asked and path.endswith(".parquet"):
            begin, end = asked.removeprefix("bytes=").split("-")
            self.server.ranges.append((path, int(begin), int(end)))
        faults = {"GET": self.server.breaks, "PUT": self.server.breaks_uploads}
        return faults.get(self.command, no_fault)(path.split("/")[-1], before)

    def _pass_on(self, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in NOT_PASSED_ON}
        headers.setdefault("Content-Type", "application/octet-stream")  # urllib would say that it is a form
        request = urllib.request.Request(
            self.server.target + self.path, data=sent or None, headers=headers, method=self.command
        )
        try:
            with urllib.request.urlopen(request) as response:
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def log_message(self, *_: object) -> None:
        """Say nothing."""
