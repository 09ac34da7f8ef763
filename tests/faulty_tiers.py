"""Tiers in memory that do what disks do on a bad day, and a site that dies between any two steps.

A :class:`Disk` outlives the processes that open it. :class:`Fate` counts what happens to disks and
to the index: at a chosen step something else happens, mostly that the process dies there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import Any, Self

import pytest
import sqlalchemy as sa

import raypacs.index.reader
import raypacs.master.core
import raypacs.storage.late
import raypacs.storage.tier
from raypacs import layout
from raypacs.config import TierSettings
from raypacs.errors import AlreadyExists, NotFound, TierFull, TierUnavailable
from raypacs.index.engine import open_engine
from raypacs.index.writing import Writing
from raypacs.storage.extents import Extent
from raypacs.storage.objects import Buffer, ObjectInfo, as_chunks, checked_path

ROOMY_BYTES = 1 << 40


class Crash(BaseException):
    """The process is killed here. Nobody may catch it but who kills."""


class Fate:
    """Counts steps: puts, deletions and reads of tiers, and transactions that changed something.

    Each is counted when it is done, so to die there is to die between two of them.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.dead = False
        self._left = 0
        self._what: Callable[[], None] = self.die

    def after(self, steps: int, what: Callable[[], None] | None = None) -> None:
        """Let something happen after so many more steps (0: never); by default the process dies."""
        self._left, self._what = steps, what or self.die

    def die(self) -> None:
        """Kill the process: nothing that it does from now on has any effect."""
        self.dead = True
        raise Crash

    def begin(self) -> None:
        """Ask before anything is done: the dead do nothing, in no ``finally`` either."""
        if self.dead:
            raise Crash

    def step(self) -> None:
        """Count one thing that was done."""
        self.steps += 1
        if self._left:
            self._left -= 1
            if not self._left:
                self._what()


class Disk:
    """The objects of one tier, and what is wrong with it.

    ``flip_puts``: so many of the next objects are stored with one wrong bit. ``full``: takes
    nothing. ``away``: answers nothing. ``harmed``: objects that the test damaged or took away.
    """

    def __init__(self, fate: Fate, clock: Callable[[], float]) -> None:
        self.fate = fate
        self.clock = clock
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.away = self.full = False
        self.flip_puts = 0
        self.harmed: set[str] = set()
        self.deleted: Callable[[str], None] = lambda path: None

    def flip(self, path: str, at: int) -> None:
        """Damage a bit of an object, as a disk does."""
        data, put_s = self.objects[path]
        self.objects[path] = _flipped(data, at), put_s
        self.harmed.add(path)

    def lose(self, path: str) -> None:
        """Take an object away, as a disk does."""
        del self.objects[path]
        self.harmed.add(path)

    def heal(self) -> None:
        """Nothing more goes wrong from now on; what is damaged stays so."""
        self.away = self.full = False
        self.flip_puts = 0


DISKS: dict[str, Disk] = {}
"""The disks of the walk that runs, by URL."""


class FaultyTier:
    """A tier on a :class:`Disk`."""

    def __init__(self, settings: TierSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self.role = settings.role

    def opened(self) -> Self:
        """Return itself: as a tier that is opened late does."""
        return self

    def _disk(self) -> Disk:
        disk = DISKS[self.settings.url]
        disk.fate.begin()
        if disk.away:
            raise TierUnavailable(f"tier {self.name} is away", tier=self.name)
        return disk

    def put_durable(self, path: str, chunks: Iterable[Buffer] | Buffer) -> int:
        with self.create(path) as writer:
            for chunk in as_chunks(chunks):
                writer.write(chunk)
            return writer.commit()

    put_transient = put_durable

    def create(self, path: str) -> FaultyWriter:
        return FaultyWriter(self, path)

    def keep(self, path: str, data: bytes) -> int:
        disk = self._disk()
        if checked_path(path) in disk.objects:
            raise AlreadyExists(f"tier {self.name} has {path!r} already", path=path)
        if len(data) > self.free_bytes():
            raise TierFull(f"tier {self.name} is full", tier=self.name)
        if disk.flip_puts and data and not path.startswith(("site/", "epochs/", "intake/")):
            disk.flip_puts -= 1
            disk.harmed.add(path)
            data = _flipped(data, len(data) // 2)
        disk.objects[path] = data, disk.clock()
        disk.fate.step()
        return len(data)

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        disk = self._disk()
        data = self._data(disk, path)
        disk.fate.step()
        return data[start : None if length is None else start + length]

    def read_ranges(
        self, path: str, extents: Sequence[Extent], *, gap_bytes: int = 0
    ) -> list[bytes]:
        data = self.read(path)
        return [data[offset : offset + length] for offset, length in extents]

    def _data(self, disk: Disk, path: str) -> bytes:
        if path not in disk.objects:
            raise NotFound(f"tier {self.name} has no object {path!r}", tier=self.name, path=path)
        return disk.objects[path][0]

    def stat(self, path: str) -> ObjectInfo:
        disk = self._disk()
        return ObjectInfo(path, len(self._data(disk, path)), disk.objects[path][1])

    def size(self, path: str) -> int:
        return self.stat(path).size_bytes

    def exists(self, path: str) -> bool:
        return path in self._disk().objects

    def local_path(self, path: str) -> str | None:
        return None

    def delete(self, path: str) -> None:
        disk = self._disk()
        self._data(disk, path)
        del disk.objects[path]
        disk.deleted(path)
        disk.fate.step()

    def walk(self, prefix: str = "") -> Iterator[ObjectInfo]:
        disk = self._disk()
        for path in sorted(disk.objects):
            if path.startswith(prefix) and path in disk.objects:
                data, put_s = disk.objects[path]
                yield ObjectInfo(path, len(data), put_s)

    def prune(self, prefix: str) -> None:
        self._disk()

    def capacity_bytes(self) -> int:
        return self.settings.capacity_bytes or ROOMY_BYTES

    def free_bytes(self) -> int:
        if self._disk().full:
            return 0
        return max(0, self.capacity_bytes() - self.recount_bytes())

    def recount_bytes(self) -> int:
        return sum(len(data) for data, _ in self._disk().objects.values())


class FaultyWriter:
    """One new object; nothing is visible unless it is committed."""

    def __init__(self, tier: FaultyTier, path: str) -> None:
        self._tier, self._path = tier, path
        self._data = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._data.clear()

    def write(self, data: Buffer) -> int:
        self._data += data
        return len(data)

    def tell(self) -> int:
        return len(self._data)

    def commit(self) -> int:
        return self._tier.keep(self._path, bytes(self._data))


def _flipped(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


class _Direct:
    """Opens tiers without a thread for each call: these never hang."""

    def __init__(self, opener: Callable[[TierSettings], Any], *, patience_s: float = 0.0) -> None:
        self._opener = opener

    def __call__(self, settings: TierSettings) -> Any:
        return self._opener(settings)


class _Tokens:
    """Random numbers of paths, the same in each walk that does the same."""

    def __init__(self) -> None:
        self.number = 0

    def token_hex(self, size: int) -> str:
        self.number += 1
        return f"{self.number * 0x9E3779B97F4A7C15 % (1 << 8 * size):0{2 * size}x}"


TOKENS = _Tokens()


@cache
def _engine(url: str, *, read_only: bool = False) -> sa.Engine:
    """Open each engine once: one that is disposed of connects anew, and keeps what it compiled."""
    return open_engine(url, read_only=read_only)


@contextmanager
def faulty_tiers() -> Iterator[None]:
    """Let ``memory://`` URLs be disks of :data:`DISKS`, and their :class:`Fate` see the index."""
    transaction = Writing.transaction

    @contextmanager
    def seen(self: Writing, now: float, *, durable: bool = False) -> Iterator[Any]:
        fates = {disk.fate for disk in DISKS.values()}
        for fate in fates:
            fate.begin()
        with transaction(self, now, durable=durable) as txn:
            raw = getattr(txn.conn.connection, "driver_connection", None)
            before = getattr(raw, "total_changes", 0)
            yield txn
            changed = raw is None or getattr(raw, "total_changes", -1) != before
        for fate in fates if changed else ():
            fate.step()

    with pytest.MonkeyPatch.context() as patch:
        for module in (raypacs.master.core, raypacs.index.reader):
            patch.setattr(module, "open_engine", _engine)
        patch.setattr(raypacs.storage.tier, "FsspecTier", FaultyTier)
        patch.setattr(raypacs.master.core, "Guard", _Direct)
        patch.setattr(raypacs.storage.late, "Guard", _Direct)
        patch.setattr(layout, "secrets", TOKENS)
        patch.setattr(Writing, "transaction", seen)
        try:
            yield
        finally:
            DISKS.clear()
            _engine.cache_clear()
