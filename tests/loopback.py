"""A real HTTP server on 127.0.0.1 in threads, for servers that answer by a function and fail on request."""

from __future__ import annotations

import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Loopback:
    """Serves while it is entered.

    Args:
        handler: Answers the requests; its `owner` is this server.
        port: Where it listens; 0 takes a free one.

    Attributes:
        closing: Set when the server stops, for handlers that hang.
    """

    def __init__(self, handler: type[Handler], port: int = 0) -> None:
        self._handler, self._port = handler, port
        self.closing = threading.Event()

    def __enter__(self) -> Self:
        handler = type("Handler", (self._handler,), {"owner": self})
        self._http = _Server(("127.0.0.1", self._port), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Answers one connection, and says nothing."""

    owner: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def lower_headers(self) -> dict[str, str]:
        """The request's headers, their names in lower case."""
        return {name.lower(): value for name, value in self.headers.items()}

    def send(
        self,
        status: int,
        content: bytes,
        kind: str = "application/json",
        *,
        claimed: int | None = None,
        **headers: str,
    ) -> None:
        """A reply; one that is `claimed` to be longer than it is ends the connection."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) if claimed is None else claimed))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        if claimed is not None:
            self.wfile.flush()
            self.close_connection = True

    def hang_up(self) -> None:
        """Reset the connection."""
        self.close_connection = True
        # Linger 0 turns the close into a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of the server's."""
