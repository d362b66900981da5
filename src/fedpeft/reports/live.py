"""The report of a run or comparison that is still training, on this machine's own address: one page, read-only.

Made anew when the files of the runs have changed. The page asks for itself again (the Refresh header: its policy lets
no further script run) until the run or comparison is finished.
"""

import logging
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from fedpeft import __version__
from fedpeft.errors import UserError
from fedpeft.reports.collect import collect
from fedpeft.reports.page import make_page
from fedpeft.reports.tables import escape_html

log = logging.getLogger(__name__)
ADDRESS = "127.0.0.1"
PATHS = ("/", "/report.html")
_NAMES = ("metrics.jsonl", "result.json", "compare.json")
_Signature = tuple[tuple[str, int, int], ...]  # path, time and size of each file that a report is made of


class LivePage:
    """The report of a folder as it is now. Any thread may ask for it."""

    def __init__(self, path: Path) -> None:
        """Makes the first page. Raises UserError where there is no run and no comparison, or it is damaged."""
        self.path, self._lock = path, threading.Lock()
        self._signature, self._page = self._sign(), self._make()

    @property
    def is_finished(self) -> bool:
        """Whether no more will come: a run has its result, a comparison its compare.json."""
        final = "result.json" if (self.path / "experiment.yaml").is_file() else "compare.json"
        return (self.path / final).is_file()

    def get(self) -> bytes:
        """The page. Raises UserError where a file cannot be read now."""
        with self._lock:
            signature = self._sign()  # before the files are read: what comes meanwhile is seen the next time
            if signature != self._signature:
                self._page = self._make()
                self._signature = signature
            return self._page

    def _make(self) -> bytes:
        return make_page(collect(self.path)).encode()

    def _sign(self) -> _Signature:
        files = [file for name in _NAMES for pattern in (name, f"*/*/{name}") for file in self.path.glob(pattern)]
        found = []
        for file in sorted(files):
            try:
                status = file.lstat()
            except FileNotFoundError:  # replaced in this very moment
                continue
            found.append((str(file), status.st_mtime_ns, status.st_size))
        return tuple(found)


class LiveServer(ThreadingHTTPServer):
    """Serves one `LivePage` on this machine's own address, to requests that name it: no other name leads here."""

    daemon_threads = True

    def __init__(self, page: LivePage, port: int, seconds: float) -> None:
        """Listens on `port`, 0 for a free one; the page asks for itself every so many seconds. Raises UserError."""
        self.page, self.seconds = page, seconds
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise UserError(
                f"port {port}: {error.strerror or error}; give another --port, or 0 for a free one"
            ) from error

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{ADDRESS}:{self.server_port}/"

    def is_named_by(self, host: str | None) -> bool:
        """Whether a request's Host header is this server's: another's is a page elsewhere that was led here."""
        return host in (f"{ADDRESS}:{self.server_port}", f"localhost:{self.server_port}")

    def handle_error(self, request: object, client_address: object) -> None:
        """Logs what ended a request: mostly a browser that no longer wanted the answer."""
        log.debug("a request ended", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    timeout = 30
    server_version, sys_version = f"fedpeft/{__version__}", ""

    def do_GET(self) -> None:
        """Answers with the page, or with one line."""
        if not self.server.is_named_by(self.headers.get("Host")):
            self._answer(
                HTTPStatus.MISDIRECTED_REQUEST, b"this server is for the machine that it runs on", "text/plain"
            )
        elif self.path.partition("?")[0] not in PATHS:
            self._answer(HTTPStatus.NOT_FOUND, b"the report is at /", "text/plain")
        else:
            self._answer_page()

    do_HEAD = do_GET

    def _answer_page(self) -> None:
        is_finished = self.server.page.is_finished  # first: a page made before the result would else be the last
        try:
            content = self.server.page.get()
        except UserError as error:  # a file was being replaced, or is damaged: the next page may be whole again
            content, is_finished = f"<p>{escape_html(str(error))}</p>".encode(), False
        self._answer(HTTPStatus.OK, content, "text/html; charset=utf-8", refresh=not is_finished)

    def _answer(self, status: HTTPStatus, content: bytes, kind: str, refresh: bool = False) -> None:
        self.send_response(status)
        fields = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin",
            **({"Refresh": f"{self.server.seconds:g}"} if refresh else {}),
        }
        for name, value in fields.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: a request every few seconds is no news."""
