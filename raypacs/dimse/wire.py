"""The network side of an association: reads in large pieces, waits without polling.

pynetdicom's own socket reads 4096 bytes at a time and is polled a thousand times a second. This
one keeps its interface (so the library's state machine works on it unchanged) and adds reading
straight into a given buffer.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from typing import Any

from pynetdicom.transport import AssociationSocket

_STAGING_BYTES = 64 * 1024


class Disconnected(OSError):
    """The peer closed the connection, or sent nothing within the network timeout."""


class WireSocket(AssociationSocket):
    """An association's socket with a staging buffer for what arrives in small pieces."""

    def __init__(self, assoc: Any, client_socket: socket.socket) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self._staged = bytearray(_STAGING_BYTES)
        self._start = 0
        self._end = 0
        self._poll = select.poll()
        self._poll.register(client_socket, select.POLLIN)
        client_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        timeout = assoc.network_timeout
        if timeout is not None:
            client_socket.settimeout(None)  # the kernel keeps the time, so that WAITALL works
            wait = struct.pack("ll", int(timeout), int(timeout % 1 * 1e6))
            client_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
            client_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)

    @property
    def ready(self) -> bool:
        """Whether there is something to read (the end of the connection counts)."""
        if self._end > self._start:
            return True
        if self.socket is None or not self._is_connected:
            return False
        return bool(self._poll.poll(0))

    def recv(self, nr_bytes: int) -> bytearray:
        """Read ``nr_bytes``, fewer if the connection ends (the library's interface)."""
        data = bytearray(nr_bytes)
        got = self._fill(memoryview(data))
        return data if got == nr_bytes else data[:got]

    def read(self, nr_bytes: int) -> bytes:
        """Read exactly ``nr_bytes``, few of them. Raises Disconnected."""
        if nr_bytes > _STAGING_BYTES:
            data = bytearray(nr_bytes)
            self.read_into(memoryview(data))
            return bytes(data)
        while self._end - self._start < nr_bytes:
            if self._start == self._end or self._start + nr_bytes > _STAGING_BYTES:
                self._compact()
            got = self._recv_into(memoryview(self._staged)[self._end :], 0)
            if got == 0:
                raise Disconnected("the connection ended within a PDU")
            self._end += got
        start, self._start = self._start, self._start + nr_bytes
        return bytes(memoryview(self._staged)[start : start + nr_bytes])

    def unread(self, data: bytes) -> None:
        """Put back what :meth:`read` returned last."""
        self._start -= len(data)
        self._staged[self._start : self._start + len(data)] = data

    def read_into(self, view: memoryview) -> None:
        """Fill ``view``. Raises Disconnected."""
        if self._fill(view) != len(view):
            raise Disconnected("the connection ended within a PDU")

    def skip(self, nr_bytes: int) -> None:
        """Read and drop. Raises Disconnected."""
        scratch = memoryview(bytearray(min(nr_bytes, _STAGING_BYTES)))
        while nr_bytes > 0:
            piece = scratch[: min(nr_bytes, len(scratch))]
            self.read_into(piece)
            nr_bytes -= len(piece)

    def _fill(self, view: memoryview) -> int:
        """Fill ``view`` from the staging buffer, then from the network; return how much came."""
        got = min(self._end - self._start, len(view))
        view[:got] = memoryview(self._staged)[self._start : self._start + got]
        self._start += got
        while got < len(view):
            count = self._recv_into(view[got:], socket.MSG_WAITALL)
            if count == 0:
                break
            got += count
        return got

    def _recv_into(self, view: memoryview, flags: int) -> int:
        if self.socket is None:
            return 0
        try:
            return self.socket.recv_into(view, 0, flags)
        except BlockingIOError as exc:  # SO_RCVTIMEO
            raise Disconnected("nothing came within the network timeout") from exc

    def _compact(self) -> None:
        kept = self._end - self._start
        self._staged[:kept] = self._staged[self._start : self._end]
        self._start, self._end = 0, kept

    def send_at_once(self, data: bytes) -> None:
        """Send ``data`` and acknowledge what comes next without delay.

        A sender with Nagle's algorithm holds back the last piece of a message until the one
        before it was acknowledged: without a quick acknowledgement that costs it 40 ms.
        """
        if self.socket is None:
            raise Disconnected("the connection is closed")
        self.socket.sendall(data)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class Waiter:
    """Waits for data on a socket or for a word from another thread, whichever comes first."""

    def __init__(self) -> None:
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._watched: socket.socket | None = None

    def wait(self, sock: socket.socket, timeout_s: float) -> bool:
        """Return True if ``sock`` can be read, False when woken or after ``timeout_s``."""
        if self._watched is not sock:
            self._poll.register(sock, select.POLLIN)
            self._watched = sock
        found = dict(self._poll.poll(timeout_s * 1000))
        if self._wake in found:
            os.eventfd_read(self._wake)
            return False
        return bool(found)

    def wake(self) -> None:
        """End a wait, or the next one."""
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Let go of the descriptor."""
        with self._lock:
            os.close(self._wake)
            self._wake = -1
