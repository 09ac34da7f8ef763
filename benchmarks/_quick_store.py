"""An S3 server that costs as little as it can, so that what is measured is the client.

Objects lie in memory, no signature is checked. Enough of the interface for a series: PUT (with
``If-None-Match: *``), GET and HEAD with ranges, DELETE, uploads in parts. Run as a program it
prints its port and serves until its standard input ends.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
from email.utils import formatdate
from urllib.parse import parse_qs

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_DATE = formatdate(usegmt=True)


class Store:
    """The objects, by path."""

    def __init__(self) -> None:
        self.objects: dict[str, list[bytes]] = {}
        self._parts: dict[str, dict[int, bytes]] = {}
        self._lock = threading.Lock()

    def answer(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[str, list[str], list[bytes | memoryview]]:
        """Return status, headers and the pieces of the body."""
        key, _, query = target.partition("?")
        asked = parse_qs(query, keep_blank_values=True)
        if "uploadId" in asked or "uploads" in asked:
            return self._upload(method, key, asked, body)
        if method == "PUT":
            with self._lock:
                if headers.get("if-none-match") == "*" and key in self.objects:
                    return "412 Precondition Failed", [], []
                self.objects[key] = [body]
            return "200 OK", [], []
        if method == "DELETE":
            self.objects.pop(key, None)
            return "204 No Content", [], []
        if method == "HEAD" and key.count("/") == 1:
            return "200 OK", [], []
        data = self.objects.get(key)
        if data is None:
            return "404 Not Found", [], []
        size = sum(map(len, data))
        found = _RANGE.fullmatch(headers.get("range", ""))
        if found is None:
            return "200 OK", [], list(data)
        start = int(found[1])
        end = min(int(found[2] or size), size - 1)
        return (
            "206 Partial Content",
            [f"Content-Range: bytes {start}-{end}/{size}"],
            _cut(data, start, end + 1),
        )

    def _upload(
        self, method: str, key: str, asked: dict[str, list[str]], body: bytes
    ) -> tuple[str, list[str], list[bytes | memoryview]]:
        name = asked.get("uploadId", [""])[0]
        if "uploads" in asked:
            name = f"u{len(self._parts)}"
            self._parts[name] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId>"
            return "200 OK", [], [f"{text}</InitiateMultipartUploadResult>".encode()]
        if method == "PUT":
            self._parts[name][int(asked["partNumber"][0])] = body
            return "200 OK", [], []
        parts = self._parts.pop(name, {})
        if method == "POST":
            self.objects[key] = [parts[number] for number in sorted(parts)]
        answer = b"<CompleteMultipartUploadResult><ETag>0</ETag></CompleteMultipartUploadResult>"
        return "200 OK", [], [answer]


def _cut(data: list[bytes], start: int, stop: int) -> list[bytes | memoryview]:
    found: list[bytes | memoryview] = []
    for one in data:
        if start < len(one) and stop > 0:
            found.append(memoryview(one)[max(0, start) : stop])
        start, stop = start - len(one), stop - len(one)
    return found


def serve(store: Store, client: socket.socket) -> None:
    """Answer the requests of one connection."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = client.makefile("rb", 1 << 16)
    with client:
        while line := reader.readline():
            method, target, _ = line.decode().split()
            headers: dict[str, str] = {}
            while one := reader.readline().strip():
                name, _, value = one.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            if headers.get("expect"):
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = reader.read(int(headers.get("content-length", 0)))
            status, more, data = store.answer(method, target, headers, body)
            head = [f"HTTP/1.1 {status}", 'ETag: "0"', f"Last-Modified: {_DATE}", *more]
            head += [f"Content-Length: {sum(map(len, data))}", "", ""]
            client.sendall("\r\n".join(head).encode())
            for piece in data if method != "HEAD" else ():
                client.sendall(piece)


def main() -> None:
    """Serve until the standard input ends."""
    store = Store()
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(store, client), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
