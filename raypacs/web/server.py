"""Serving the web edge with uvicorn; several processes share the port (RAY.md 5)."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from dataclasses import dataclass

import uvicorn

from raypacs.web.app import create_app
from raypacs.web.services import Services

_BACKLOG = 1024
_START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class HttpSpec:
    """Where to listen. Port 0 picks a free one. ``cors_origin`` '' sends no CORS headers."""

    host: str = "127.0.0.1"
    port: int = 8104
    cors_origin: str = "*"
    keep_alive_s: int = 30
    """Seconds an idle connection stays open: longer than a reader pauses between two series."""
    shutdown_s: int = 10
    """Seconds that requests under way are given at shutdown."""


class HttpServer:
    """A running server; :meth:`shutdown` finishes what was begun."""

    def __init__(self, server: _Server, sock: socket.socket) -> None:
        self._server = server
        self._socket = sock
        self.port: int = sock.getsockname()[1]
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [sock]}, name="http", daemon=True
        )

    def start(self) -> None:
        """Serve in a thread; returns when requests are answered."""
        self._thread.start()
        if not self._server.ready.wait(_START_TIMEOUT_S):
            raise RuntimeError("the HTTP server did not start")

    def shutdown(self, timeout_s: float = 15.0) -> None:
        """Stop listening, let requests finish, end the thread."""
        self._server.should_exit = True
        self._thread.join(timeout_s)
        self._socket.close()


class _Server(uvicorn.Server):
    """Leaves signals to the process's owner, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Install no signal handlers: the edge process has its own."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell whoever waits."""
        await super().startup(sockets)
        self.ready.set()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket whose port other processes of this user may share.

    Raises:
        OSError: the port is taken by something else.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def serve_http(spec: HttpSpec, services: Services) -> HttpServer:
    """Start serving in this process; returns when it listens.

    Raises:
        OSError: the address or port cannot be used.
    """
    sock = listen(spec.host, spec.port)
    config = uvicorn.Config(
        create_app(services, cors_origin=spec.cors_origin),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=spec.keep_alive_s,
        timeout_graceful_shutdown=spec.shutdown_s,
    )
    server = HttpServer(_Server(config), sock)
    server.start()
    return server
