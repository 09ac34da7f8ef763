"""Tiers that are opened late, and asked with patience: what to do while one is away or hangs.

A process that uses several tiers must neither fail to start nor stop because one of them cannot be
opened (a broken mount, no rights) or never answers (a file server that hangs).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

from raypacs.config import TierSettings
from raypacs.errors import ConfigError, NotFound, RaypacsError, TierUnavailable
from raypacs.storage.extents import GAP_BYTES, Extent
from raypacs.storage.tier import Buffer, ObjectInfo, ObjectWriter, Tier, open_tier

log = logging.getLogger(__name__)

ASK_EVERY_S = 5.0
PATIENCE_S = 10.0

T = TypeVar("T")
Opener = Callable[[TierSettings], Tier]


class LateTier:
    """A tier that is opened when it is first used, and again later while it cannot be opened.

    Whatever keeps it from being opened is a TierUnavailable of every method; asked at most every
    few seconds.
    """

    def __init__(
        self,
        settings: TierSettings,
        opener: Opener = open_tier,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock`` gives seconds that only grow."""
        self.settings = settings
        self.name = settings.name
        self.role = settings.role
        self._opener = opener
        self._clock = clock
        self._tier: Tier | None = None
        self._problem: tuple[float, str] | None = None  # when it was asked last, and why not

    def opened(self) -> Tier:
        """Return the tier itself. Raises TierUnavailable."""
        if self._tier is not None:
            return self._tier
        now = self._clock()
        if self._problem is None or now - self._problem[0] >= ASK_EVERY_S:
            try:
                self._tier = self._opener(self.settings)
                return self._tier
            except (TierUnavailable, ConfigError, NotFound) as exc:
                if self._problem is None or self._problem[1] != str(exc):
                    log.warning("tier unreachable: %s", exc, extra={"tier": self.name})
                self._problem = (now, str(exc))
        raise TierUnavailable(self._problem[1], tier=self.name)

    def ask(self, what: Callable[[Tier], T]) -> T:
        """Run one call on the tier; every method goes through here."""
        return what(self.opened())

    # The contract: see Tier.

    def put_durable(self, path: str, chunks: Iterable[Buffer] | Buffer) -> int:
        """See :meth:`Tier.put_durable`."""
        return self.ask(lambda tier: tier.put_durable(path, chunks))

    def put_transient(self, path: str, chunks: Iterable[Buffer] | Buffer) -> int:
        """See :meth:`Tier.put_transient`."""
        return self.ask(lambda tier: tier.put_transient(path, chunks))

    def create(self, path: str) -> AbstractContextManager[ObjectWriter]:
        """See :meth:`Tier.create`; what is written then is not asked through here any more."""
        return self.ask(lambda tier: tier.create(path))

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """See :meth:`Tier.read`."""
        return self.ask(lambda tier: tier.read(path, start, length))

    def read_ranges(
        self, path: str, extents: Sequence[Extent], *, gap_bytes: int = GAP_BYTES
    ) -> list[bytes]:
        """See :meth:`Tier.read_ranges`."""
        return self.ask(lambda tier: tier.read_ranges(path, extents, gap_bytes=gap_bytes))

    def size(self, path: str) -> int:
        """See :meth:`Tier.size`."""
        return self.ask(lambda tier: tier.size(path))

    def exists(self, path: str) -> bool:
        """See :meth:`Tier.exists`."""
        return self.ask(lambda tier: tier.exists(path))

    def local_path(self, path: str) -> str | None:
        """See :meth:`Tier.local_path`."""
        return self.opened().local_path(path)

    def delete(self, path: str) -> None:
        """See :meth:`Tier.delete`."""
        self.ask(lambda tier: tier.delete(path))

    def walk(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See :meth:`Tier.walk`."""
        yield from self.ask(lambda tier: tier.walk(prefix))

    def prune(self, prefix: str) -> None:
        """See :meth:`Tier.prune`."""
        self.ask(lambda tier: tier.prune(prefix))

    def capacity_bytes(self) -> int:
        """See :meth:`Tier.capacity_bytes`."""
        return self.ask(lambda tier: tier.capacity_bytes())

    def free_bytes(self) -> int:
        """See :meth:`Tier.free_bytes`."""
        return self.ask(lambda tier: tier.free_bytes())

    def recount_bytes(self) -> int:
        """See :meth:`Tier.recount_bytes`."""
        return self.ask(lambda tier: tier.recount_bytes())


class LateTiers:
    """The tiers of the settings as one process sees them, each opened when it is asked for.

    Opening has a limit of time; an open tier is asked directly.
    """

    def __init__(self, settings: Iterable[TierSettings], opener: Opener = open_tier) -> None:
        guard = Guard(opener)
        self._open: Opener = lambda one: guard(one).opened()
        self._tiers = {tier.name: LateTier(tier, self._open) for tier in settings}
        self._now: Callable[[], Iterable[TierSettings]] = tuple

    def follow(self, now: Callable[[], Iterable[TierSettings]]) -> None:
        """Ask ``now`` for the tiers of the moment where a name is not known yet.

        A tier is added, and what lies there registered, before every process has new settings.
        """
        self._now = now

    def of_role(self, role: str) -> list[LateTier]:
        """Return the tiers of a role in their order, opened or not."""
        chosen = [tier for tier in self._tiers.values() if tier.role == role]
        return sorted(chosen, key=lambda tier: tier.settings.order)

    def __call__(self, name: str) -> Tier:
        """Return an open tier.

        Raises:
            NotFound: the settings have no such tier.
            TierUnavailable: it cannot be opened just now.
        """
        if name not in self._tiers:
            added = next((tier for tier in self._now() if tier.name == name), None)
            if added is None:
                raise NotFound(f"no tier {name!r} on this node", tier=name)
            # Two threads at once: the first one's stays.
            self._tiers.setdefault(name, LateTier(added, self._open))
        return self._tiers[name].opened()


class GuardedTier(LateTier):
    """A tier for a caller that must never hang: each call has a thread and a time limit.

    While a call hangs, every other one raises TierUnavailable at once. A call that was given up
    may still come to its end in its thread; its outcome is not known to anybody.
    """

    def __init__(
        self, settings: TierSettings, opener: Opener = open_tier, *, patience_s: float = PATIENCE_S
    ) -> None:
        super().__init__(settings, opener)
        self._patience_s = patience_s
        self._turn = threading.Lock()
        self._running: threading.Thread | None = None

    def opened(self) -> Tier:
        """Return the tier itself; opened without delay, as the caller decides when to ask.

        Raises:
            TierUnavailable, ConfigError: it cannot be opened.
        """
        if self._tier is None:
            self._tier = self._opener(self.settings)
        return self._tier

    def reopen(self) -> None:
        """Open it anew, as after it was away. Raises TierUnavailable, ConfigError."""

        def anew() -> None:
            self._tier = None
            self.opened()

        self._limited(anew)

    def walk(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See :meth:`Tier.walk`: the whole listing within one limit of time."""
        yield from self.ask(lambda tier: list(tier.walk(prefix)))

    def ask(self, what: Callable[[Tier], T]) -> T:
        """Run one call in a thread of its own. Raises TierUnavailable where it hangs."""
        return self._limited(lambda: what(self.opened()))

    def _limited(self, what: Callable[[], T]) -> T:
        if not self._turn.acquire(timeout=self._patience_s):
            raise self._hangs()
        try:
            if self._running is not None and self._running.is_alive():
                raise self._hangs()
            call = _Call(what)
            # A daemon: a call that never returns must not keep the process from ending.
            name = f"tier {self.name}"
            self._running = threading.Thread(target=call.run, name=name, daemon=True)
            self._running.start()
            if not call.done.wait(self._patience_s):
                raise self._hangs()
            self._running.join()
        finally:
            self._turn.release()
        return call.result()

    def _hangs(self) -> TierUnavailable:
        return TierUnavailable(
            f"tier {self.name} does not answer for {self._patience_s:g} s", tier=self.name
        )


def limited(what: Callable[[], T], name: str, patience_s: float = PATIENCE_S) -> T:
    """Run one call in a thread of its own. Raises TierUnavailable where it hangs."""
    call = _Call(what)
    threading.Thread(target=call.run, name=name, daemon=True).start()
    if not call.done.wait(patience_s):
        raise TierUnavailable(f"{name} does not answer for {patience_s:g} s")
    return call.result()


class _Call(Generic[T]):
    """A call in another thread, and what came of it."""

    def __init__(self, what: Callable[[], T]) -> None:
        self._what = what
        self.done = threading.Event()
        self._answer: list[T] = []
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._answer.append(self._what())
        except (RaypacsError, OSError, RuntimeError, ValueError, TypeError, LookupError) as exc:
            self._error = exc
        finally:
            self.done.set()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        if not self._answer:  # what no tier should raise: its thread has told the log
            raise TierUnavailable("a call ended without an answer")
        return self._answer[0]


class Guard:
    """Opens tiers guarded, and remembers those that hang: they are not asked a second time."""

    def __init__(self, opener: Opener = open_tier, *, patience_s: float = PATIENCE_S) -> None:
        self._opener = opener
        self._patience_s = patience_s
        self._tiers: dict[TierSettings, GuardedTier] = {}

    def __call__(self, settings: TierSettings) -> GuardedTier:
        """Open a tier anew. Raises TierUnavailable, ConfigError."""
        if settings not in self._tiers:
            self._tiers[settings] = GuardedTier(settings, self._opener, patience_s=self._patience_s)
        tier = self._tiers[settings]
        tier.reopen()
        return tier
