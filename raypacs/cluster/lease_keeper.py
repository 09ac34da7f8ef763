"""Keeps a lease while its item is worked on, from a thread of its own.

Planning, and waiting for tasks, may take longer than a lease: whoever works must not have to think
of it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from raypacs.errors import RaypacsError, StaleLease
from raypacs.records import Lease

_log = logging.getLogger(__name__)


class LeaseKeeper:
    """Renews ``lease`` every ``every_s`` seconds inside its ``with`` block.

    A call that fails is repeated after another ``every_s``; one that says the lease is stale ends
    it, which :meth:`check` tells.
    """

    def __init__(self, lease: Lease, renew: Callable[[Lease], Lease], every_s: float) -> None:
        self._lease, self._renew, self._every_s = lease, renew, every_s
        self._ended = threading.Event()
        self._lost: StaleLease | None = None
        self._thread = threading.Thread(target=self._keep, daemon=True, name="lease-keeper")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Not joined: a call to a master that is away takes its time, and harms nothing.
        self._ended.set()

    def check(self) -> None:
        """Raise StaleLease once somebody else owns the item."""
        if self._lost is not None:
            raise self._lost

    def _keep(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self._lease = self._renew(self._lease)
            except StaleLease as exc:
                self._lost = exc
                return
            except RaypacsError as exc:
                _log.warning("lease not renewed", extra={"why": str(exc)})
