"""A proxy before the S3 server of the tests that does what object stores do on a bad day."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """One request as the proxy sees it; ``number`` counts from 1."""

    number: int
    method: str
    target: str
    body_bytes: int
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def writes(self) -> bool:
        """Whether it carries an object or a part of one."""
        return self.method == "PUT"


@dataclass(frozen=True)
class Fate:
    """What becomes of a request. By default nothing but being passed on."""

    status: int = 0
    """Not passed on: answered with this status and ``code``."""
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False
    """Not passed on: the connection breaks."""
    hang: bool = False
    """Not passed on, never answered."""
    lose_answer: bool = False
    """Done by the store, but the connection breaks before the answer."""
    body_bytes: int = -1
    """Of the answer's body only so many bytes arrive, then the connection breaks."""
    latency_s: float = 0.0
    bytes_per_s: float = 0.0
    """Of the answer; 0: as fast as it goes."""


PASS = Fate()
Decide = Callable[[Request], Fate]


def first(count: int, fate: Fate, when: Callable[[Request], bool] = lambda one: True) -> Decide:
    """The first ``count`` requests of a kind have this fate, all others pass."""
    left = [count]

    def decide(request: Request) -> Fate:
        if left[0] > 0 and when(request):
            left[0] -= 1
            return fate
        return PASS

    return decide


def full_after(size_bytes: int, status: int = 507, code: str = "XMinioStorageFull") -> Decide:
    """A store with room for so many bytes."""
    left = [size_bytes]

    def decide(request: Request) -> Fate:
        if not request.writes:
            return PASS
        left[0] -= request.body_bytes
        return PASS if left[0] >= 0 else Fate(status=status, code=code)

    return decide


class FaultyStore:
    """The proxy; ``decide`` may be replaced at any time."""

    def __init__(self, upstream: str) -> None:
        url = urlsplit(upstream)
        self._upstream = (url.hostname, url.port)
        self.decide: Decide = lambda request: PASS
        self.seen: list[Request] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer._serve(self.request)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End it; whatever hangs is let go."""
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def count(self, method: str, part: str = "") -> int:
        """How many requests of a method had ``part`` in their target."""
        return sum(one.method == method and part in one.target for one in self.seen)

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                self._one(client)
            except OSError:
                return  # the client went away

    def _one(self, client: socket.socket) -> None:
        reader = client.makefile("rb")
        head = [line] if (line := reader.readline()) else []
        if not head:
            return
        while (line := reader.readline()) not in (b"\r\n", b""):
            head.append(line)
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (one.decode("latin-1").partition(":") for one in head[1:])
        }
        if headers.get("expect"):
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = reader.read(int(headers.get("content-length", 0)))
        method, target, _ = head[0].decode("latin-1").split(" ", 2)
        with self._lock:
            request = Request(len(self.seen) + 1, method, target, len(body), headers)
            self.seen.append(request)
            fate = self.decide(request)
        time.sleep(fate.latency_s)
        if fate.hang:
            self._ended.wait()
        elif fate.reset:
            _break(client)
        elif fate.status:
            client.sendall(_answer(fate, method))
        else:
            self._pass_on(client, [one for one in head if b"xpect:" not in one], body, fate)

    def _pass_on(self, client: socket.socket, head: list[bytes], body: bytes, fate: Fate) -> None:
        with socket.create_connection(self._upstream) as store:
            store.sendall(b"".join(head) + b"\r\n" + body)
            answer = b""
            while piece := store.recv(1 << 20):  # the server closes after each answer
                answer += piece
        if fate.lose_answer:
            _break(client)
            return
        if fate.body_bytes >= 0:
            end = answer.index(b"\r\n\r\n") + 4 + fate.body_bytes
            client.sendall(answer[:end])
            _break(client)
            return
        if not fate.bytes_per_s:
            client.sendall(answer)
            return
        step = max(1, int(fate.bytes_per_s / 20))
        for at in range(0, len(answer), step):
            client.sendall(answer[at : at + step])
            if self._ended.wait(step / fate.bytes_per_s):
                return


def _break(client: socket.socket) -> None:
    """Close with a reset, not in good order."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def _answer(fate: Fate, method: str) -> bytes:
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{fate.code}</Code>'
        f"<Message>as the test wants it</Message></Error>"
    ).encode()
    head = [f"HTTP/1.1 {fate.status} Fault", f"Content-Length: {len(body)}", "Connection: close"]
    head += [f"{name}: {value}" for name, value in fate.headers.items()]
    text = "\r\n".join([*head, "Content-Type: application/xml", "", ""])
    return text.encode() + (b"" if method == "HEAD" else body)


@contextmanager
def faulty_store(upstream: str) -> Iterator[FaultyStore]:
    """Serve before the server at ``upstream``."""
    store = FaultyStore(upstream)
    try:
        yield store
    finally:
        store.stop()
