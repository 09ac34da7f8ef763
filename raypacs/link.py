"""Request and reply between an edge process and the actor that supervises it.

An edge (a DICOM listener or a web worker) is a plain process without Ray. It holds one end of a
``multiprocessing`` pipe; the supervising actor serves the other. When the actor is gone the pipe
closes and the edge ends itself, so no process is left behind.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from raypacs.errors import MasterUnavailable, RaypacsError


class Caller:
    """The edge's end: thread-safe calls with a timeout, and casts that expect no answer."""

    def __init__(self, conn: Connection, *, on_lost: Callable[[], None] | None = None) -> None:
        self._conn = conn
        self._send_lock = threading.Lock()
        self._waiting: dict[int, Future[Any]] = {}
        self._ids = itertools.count(1)
        self._on_lost = on_lost or (lambda: os._exit(3))
        threading.Thread(target=self._receive, name="link-receive", daemon=True).start()

    def call(self, method: str, *args: Any, timeout_s: float = 30.0, **named: Any) -> Any:
        """Call ``method`` in the actor with these arguments and return its result.

        Raises:
            MasterUnavailable: no answer within ``timeout_s``.
            RaypacsError: whatever the method raised.
        """
        number = next(self._ids)
        future: Future[Any] = Future()
        self._waiting[number] = future
        try:
            with self._send_lock:
                self._conn.send((number, method, args, named))
            return future.result(timeout_s)
        except TimeoutError as exc:
            raise MasterUnavailable(f"no answer to {method} within {timeout_s:g} s") from exc
        except OSError as exc:
            raise MasterUnavailable(f"{method}: the supervising actor is gone") from exc
        finally:
            self._waiting.pop(number, None)

    def cast(self, method: str, *args: Any) -> None:
        """Send ``method`` without waiting for an answer; lost if the actor is gone."""
        try:
            with self._send_lock:
                self._conn.send((0, method, args, {}))
        except OSError:
            return

    def _receive(self) -> None:
        while True:
            try:
                number, ok, value = self._conn.recv()
            except (EOFError, OSError):
                break
            future = self._waiting.get(number)
            if future is not None and not future.done():
                if ok:
                    future.set_result(value)
                else:
                    future.set_exception(value)
        self._on_lost()


def serve(
    conn: Connection, handlers: Mapping[str, Callable[..., Any]], *, threads: int = 8
) -> threading.Thread:
    """Serve an edge's calls from ``handlers`` in a thread until the pipe closes."""
    lock = threading.Lock()

    def answer(number: int, method: str, done: Future[Any]) -> None:
        """Send the result, or whatever was raised: a caller without an answer would wait."""
        error = done.exception()
        if error is not None and not isinstance(error, RaypacsError):
            error = RaypacsError(f"{method}: {type(error).__name__}: {error}")
        if number:
            try:
                with lock:
                    conn.send((number, error is None, error or done.result()))
            except OSError:
                return

    def loop() -> None:
        with ThreadPoolExecutor(threads, thread_name_prefix="link") as pool:
            while True:
                try:
                    number, method, args, named = conn.recv()
                except (EOFError, OSError):
                    return
                handler = handlers.get(method, partial(_unknown, method))
                done = pool.submit(handler, *args, **named)
                done.add_done_callback(partial(answer, number, method))

    thread = threading.Thread(target=loop, name="link-serve", daemon=True)
    thread.start()
    return thread


def _unknown(method: str, *_: Any, **__: Any) -> None:
    raise RaypacsError(f"no method {method!r} on this link")
