"""A local web server of pages, each made when it is first opened."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

from cad2pose.viewer.page import render_template, style

HOST = "127.0.0.1"
_NAMES, _HTTP = (HOST, "localhost"), 80
_KEPT = 8  # pages


@dataclass(frozen=True)
class ListedImage:
    """An image on the list.

    Args:
        name: for people.
        path: of the file.
        boxes: how many detections it has; without any it has no page.
    """

    name: str
    path: str
    boxes: int


class ViewerServer(ThreadingHTTPServer):
    """Serves the list of images at `/` and their pages at `/image/NUMBER`, to this machine alone.

    Requests that name another host are refused, so that no page of another site can read these through a name of its
    own that leads here.

    Args:
        images: on the list.
        page: makes the page of one of them, by its place on the list; a ValueError or OSError of it is shown.
        port: to listen at; 0 takes a free one.

    Raises:
        OSError: if the port is taken or may not be used; the message says what to do.
        ValueError: for a port that is none.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, images: Sequence[ListedImage], page: Callable[[int], str], port: int) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"port is {port}; it must be 1 to 65535, or 0 for a free one")
        self.images, self._page = tuple(images), page
        self._lock, self._pages = Lock(), dict[int, str]()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = "is taken by another program" if error.errno == errno.EADDRINUSE else "may not be used"
            raise OSError(
                f"port {port} of {HOST} {why}; give another with --port, or --port 0 for a free one"
            ) from None

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.server_port}/"

    def page(self, index: int) -> str:
        """A page; one is made at a time, and the last few are kept."""
        with self._lock:
            if index not in self._pages:
                made = self._page(index)
                while len(self._pages) >= _KEPT:
                    self._pages.pop(next(iter(self._pages)))
                self._pages[index] = made
            return self._pages[index]


class _Handler(BaseHTTPRequestHandler):
    server: ViewerServer  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "cad2pose", ""

    def do_GET(self) -> None:  # the name that http.server calls
        port = self.server.server_port
        own = [f"{name}:{port}" for name in _NAMES] + (list(_NAMES) if port == _HTTP else [])  # browsers leave it out
        if self.headers.get("Host", "") not in own:
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", "this server answers to its own address only")
            return
        path = self.path.partition("?")[0]
        wanted = re.fullmatch(r"/image/(\d{1,9})", path)
        if path == "/" and len(self.server.images) == 1:
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", "/image/0")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path == "/":
            rows = [{"index": i, **vars(image)} for i, image in enumerate(self.server.images)]
            self._answer(HTTPStatus.OK, "text/html", render_template("list.html", rows=rows, style=style()))
        elif wanted and int(wanted[1]) < len(self.server.images):
            self._image(int(wanted[1]))
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", "there is no such page; the list of images is at /")

    def _image(self, index: int) -> None:
        try:
            page = self.server.page(index)
        except Exception as error:  # a GPU without memory, say; the server goes on
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", f"no page could be made: {error}")
            return
        self._answer(HTTPStatus.OK, "text/html", page)

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        with suppress(ConnectionError):  # whoever asked has left
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal shows what was asked for, not every request."""
