"""A whole site in memory for random walks: two image caches, two libraries, a web cache.

A real master on SQLite, the real intake (without its thread), real runs of work in this thread; the
tiers are :mod:`tests.faulty_tiers`. Made by copying a template, so that it costs milliseconds.
"""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import raypacs.storage.intake
from raypacs import __version__, edges
from raypacs.cluster.dispatcher import Dispatcher
from raypacs.cluster.rooms import Rooms
from raypacs.config import Bootstrap, Settings, TierSettings
from raypacs.dicom import file_meta
from raypacs.errors import NotFound, StaleLease
from raypacs.index import levels
from raypacs.index.sealed_reader import SealedReader
from raypacs.master import Master
from raypacs.policy.kinds import KINDS
from raypacs.policy.levels import Level
from raypacs.policy.retry import After, after
from raypacs.records import Lease, Poll, WorkResult
from raypacs.storage.intake import Intake
from raypacs.storage.late import LateTiers
from raypacs.storage.manifest import Manifests
from raypacs.storage.registrar import Registrar
from raypacs.storage.tier import open_tier
from raypacs.work.kinds import RUNS
from raypacs.work.run import Site, TaskFailure
from raypacs.work.source import find_tier
from tests.dicom_bytes import CT, data_set
from tests.factories import node_info, prepared_series
from tests.faulty_tiers import DISKS, TOKENS, Crash, Disk, Fate, FaultyTier

T = 1_700_000_000.0
TIERS = (
    TierSettings(name="image1", role="image", url="memory://image1", capacity_bytes=4 << 20),
    TierSettings(
        name="image2", role="image", url="memory://image2", order=2, capacity_bytes=8 << 20
    ),
    TierSettings(name="web1", role="web", url="memory://web1", capacity_bytes=8 << 20),
    TierSettings(name="lib1", role="library", url="memory://lib1", capacity_bytes=16 << 20),
    TierSettings(name="lib2", role="library", url="memory://lib2", capacity_bytes=16 << 20),
)
WEB_BYTES = 600


class InlineRegistrar(Registrar):
    """Registers when it is told to, in the caller's thread."""

    def __init__(
        self,
        register: Callable[..., Any],
        done: Callable[..., None],
        *,
        interval_s: float,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._register, self._done, self._tick = register, done, tick
        self.interval_s = interval_s
        self._changed = threading.Condition()
        self._pending = {}
        self._hurry = self._closing = False

    def flush(self, timeout_s: float) -> bool:
        sent = self._send(list(self._pending.values()))
        self._tick()
        return sent

    def close(self, timeout_s: float) -> bool:
        return self.flush(timeout_s)


class Tasks:
    """The tasks of a run, each done when its turn comes; failures are values, as in the cluster."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Hashable, Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, key: Hashable, function: Callable[..., Any], *args: Any) -> None:
        self._waiting.append((key, function, args))

    def finished(self) -> Iterator[tuple[Any, Any]]:
        while self._waiting:
            key, function, args = self._waiting.pop(0)
            yield key, guarded(function, *args)

    def cancel(self) -> list[Any]:
        self._waiting.clear()
        return []


def guarded(function: Callable[..., Any], *args: Any) -> Any:
    """As ``cluster.tasks.guarded``, but what nobody foresaw is raised: it is a fault of ours."""
    try:
        return function(*args)
    except StaleLease:
        raise
    except (raypacs.errors.RaypacsError, OSError) as exc:
        then, what = after(exc)
        if then is After.WAIT:
            return TaskFailure(f"waits for {what}: {exc}", True, waits=True)
        return TaskFailure(f"{type(exc).__name__}: {exc}", then is After.TRY)


class TinyPrepare:
    """What a PREPARE does to tiers and index, without pixels: a pack and its sidecar a series."""

    def __init__(self, lease: Lease, site: Site) -> None:
        self._lease, self._site = lease, site
        self._written: list[tuple[Any, str]] = []

    def run(self, tasks: Any) -> WorkResult:
        webs = [one for one in self._site.settings.tiers if one.role == "web"]
        tier = find_tier(self._site.settings.tiers, webs[0].name)
        by_series: dict[str, list[Any]] = {}
        for one in self._site.unprepared(self._lease.study_uid):
            find_tier(self._site.settings.tiers, one.record.tier).read(one.record.path)
            by_series.setdefault(one.record.series_uid, []).append(one)
        packs = []
        for stored in by_series.values():
            pack = prepared_series(
                stored, self._lease, tier=tier.name, pack_bytes=WEB_BYTES * len(stored)
            )
            pack = replace(pack, header_bytes=10)
            for path, size in ((pack.pack_path, pack.pack_bytes), (pack.header_path, 10)):
                self._written.append((tier, path))
                tier.put_durable(path, bytes(size))
            packs.append(pack)
        return WorkResult(tuple(packs))

    def clean_up(self, *, reported: bool) -> None:
        for tier, path in () if reported else self._written:
            try:
                tier.delete(path)
            except NotFound:
                continue


class Template:
    """A site as it is at some moment, to be copied."""

    def __init__(self, index: Path, site: AutopilotSite, told: Any = None) -> None:
        """Keep the site as it is; ``told`` is whatever the test wants to know of it later."""
        site.raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copyfile(site.folder / "index.sqlite", index)
        self.index, self.told = index, told
        self.now, self.boots, self.tokens = site.now, site.boots, TOKENS.number
        self.settings = site.settings
        self.objects = {name: dict(disk.objects) for name, disk in site.disks.items()}


def new_site(folder: Path, migrated: Path, **settings: Any) -> AutopilotSite:
    """Make a site that never was, of a migrated, empty index."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copyfile(migrated, folder / "index.sqlite")
    site = AutopilotSite(folder)
    site.apply(tiers=TIERS, **settings)
    site.beat()
    site.tick()
    return site


class AutopilotSite:
    """The site of one walk; time stands still until told.

    All walks of a process go by the same ``folder``: so they have the same engines, whose compiled
    statements are most of what a walk costs otherwise.
    """

    def __init__(self, folder: Path, template: Template | None = None) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'index.sqlite'}"
        self.now, self.boots, TOKENS.number = T, 0, 0
        self.settings = Settings(tiers=TIERS)
        self.fate = Fate()
        self.disks = {tier.name: Disk(self.fate, lambda: self.now) for tier in TIERS}
        if template is not None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            shutil.copyfile(template.index, folder / "index.sqlite")
            self.now, self.boots = template.now + 1, template.boots
            self.settings, TOKENS.number = template.settings, template.tokens
            for name, disk in self.disks.items():
                disk.objects = dict(template.objects[name])
        DISKS.clear()
        DISKS.update({tier.url: self.disks[tier.name] for tier in TIERS})
        self.bootstrap = Bootstrap(data_dir=folder, node_name="n1", index_url=self.url)
        self._intake: Intake | None = None
        self._in_master = 0
        self.master = self._master()
        self.manifests = Manifests(lambda name: find_tier(self.settings.tiers, name))
        self.reader = SealedReader(self.url, self.manifests.rows)
        raw = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
        raw.row_factory = sqlite3.Row
        self.raw = raw

    def _master(self) -> Master:
        master = Master(self.url, self.folder, clock=lambda: self.now, chance=lambda: 1.0)
        master._due.stats_s = float("inf")  # Parquet is none of what is looked at here
        return master

    def close(self) -> None:
        """Let everything go, whatever state it is in."""
        self.fate.dead = False
        self.raw.close()
        self.reader.close()
        self.master._reader.close()
        self.master._engine.dispose()

    # Life and death

    @property
    def boot(self) -> str:
        """This life of the node."""
        return f"b{self.boots}"

    def restart_master(self) -> None:
        """Another master takes over; the one before is not asked."""
        self.master._reader.close()
        self.master._engine.dispose()
        self.master = self._master()

    def everything_dies(self) -> None:
        """Kill every process, and start them all again; what edges left is recovered."""
        self.fate.after(0)
        self.fate.dead = False
        lost = self.boot
        self._intake = None
        self.boots += 1
        self.restart_master()
        self.master.node_seen(_node(self.boot, self.settings.tiers))
        self.recover()
        self.master.release_grants(f"n1/{lost}")

    def recover(self) -> None:
        """Register what earlier lives of the edge left durable and unregistered."""
        self.intake.recover_lost([f"b{number}" for number in range(self.boots)])

    @contextmanager
    def may_crash(self, after_steps: int) -> Iterator[None]:
        """Kill everything after so many more steps (0: nothing is killed), and start it again."""
        self.fate.after(after_steps)
        try:
            yield
        except Crash:
            self.everything_dies()
        finally:
            self.fate.after(0)

    @contextmanager
    def meanwhile(self, after_steps: int, what: Callable[[], None]) -> Iterator[None]:
        """Let something happen after so many steps of tiers, not within an event of the master."""

        def happens() -> None:
            if self._in_master:
                self.fate.after(1, happens)
            else:
                what()

        self.fate.after(after_steps, happens)
        try:
            yield
        finally:
            self.fate.after(0)

    # Receiving

    @property
    def intake(self) -> Intake:
        """The edge of this life."""
        if self._intake is None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(raypacs.storage.intake, "Registrar", InlineRegistrar)
                self._intake = edges.make_intake(
                    self.bootstrap,
                    self.settings,
                    self.boot,
                    self.reader,
                    self.call,
                    LateTiers(self.settings.tiers, open_tier),
                )
        return self._intake

    def call(self, event: str, *args: Any, **named: Any) -> Any:
        """Raise an event, as an edge does."""
        self._in_master += 1
        try:
            return getattr(self.master, event)(*args, **named)
        finally:
            self._in_master -= 1

    # Work

    def beat(self) -> None:
        """The node is heard."""
        self.master.node_seen(_node(self.boot, self.settings.tiers))

    def tick(self) -> None:
        """What the master does about every second."""
        self.beat()
        self.now += 1.1
        self.master.tick()

    def leases(self, *kinds: str, most: int = 10) -> list[Lease]:
        """Take work."""
        self.beat()
        asked = Poll("n1", self.boot, kinds or tuple(RUNS), (), most)
        return list(self.master.poll(asked).leases)

    def attempt(self, lease: Lease) -> WorkResult | None:
        """Do what a dispatcher does for one lease; None where it was lost."""
        make = TinyPrepare if lease.kind == "PREPARE" else RUNS[lease.kind]
        run = make(lease, self.ports())
        try:
            result = guarded(run.run, Tasks())
            if isinstance(result, TaskFailure):
                result = result.as_result()
            (answer,) = self.call("report_many", [(lease, result)])
            if isinstance(answer, StaleLease):
                raise answer
        except StaleLease:
            self._clean_up(run, reported=False)
            return None
        self._clean_up(run, reported=True)
        return result

    def _clean_up(self, run: Any, *, reported: bool) -> None:
        try:
            run.clean_up(reported=reported)
        except (raypacs.errors.RaypacsError, OSError):
            return  # the master's sweep comes after it

    def ports(self) -> Site:
        """What a run may ask: wired as the dispatcher wires it."""
        edge = Dispatcher.__new__(Dispatcher)
        edge._reader, edge._master = self.reader, SimpleNamespace(call=self.call)  # type: ignore[assignment]
        edge._settings = self.reader.settings()[1]
        edge._cores, edge._boot = 2, self.boot
        edge._rooms = Rooms(self.reader.ledger, lambda: self.now)
        return edge._site()

    # Settings

    def apply(self, **changes: Any) -> None:
        """Change settings; every process hears of them."""
        version, settings = self.master.settings()
        self.settings = Settings.model_validate({**dict(settings), **changes})
        self.master.apply_settings(self.settings, "test", version)
        if self._intake is not None and self._intake.flush(1):
            self._intake = None

    def level(self, tier: str, level: str) -> None:
        """Let a cache have a level, as if it had been judged."""
        row = self.reader.ledger()[tier]
        need = 0 if level == "green" else 2 << 20
        detail = {"hours_p50": 1.0, "need_bytes": need, "available_bytes": row.available_bytes}
        detail |= {"need_bytes_amber": need, "need_bytes_red": need}
        with self.master._writer.transaction(self.now) as txn:
            told = levels.LevelRow(tier, Level(level), self.now, self.now, detail)
            levels.keep(txn, [told])

    # Looking

    def unregistered(self) -> set[str]:
        """SOP Instance UIDs of what is durable and not in the index yet."""
        return set() if self._intake is None else set(self._intake._registrar._pending)

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Ask the database itself."""
        return self.raw.execute(query, values).fetchall()

    def tier(self, name: str) -> FaultyTier:
        """Return a tier."""
        return FaultyTier(next(one for one in self.settings.tiers if one.name == name))


def _node(boot: str, tiers: tuple[TierSettings, ...]) -> Any:
    return replace(
        node_info("n1", boot=boot),
        version=__version__,
        kinds=tuple(KINDS),
        tiers=tuple(tier.name for tier in tiers),
    )


def instance(study: str, number: int, *, variant: int = 0) -> bytes:
    """A file of a few hundred bytes; series 1 has the odd numbers; ``variant``: other pixels."""
    series = f"{study}.{1 + number % 2}"
    sop = f"{series}.{number}"
    pixels = bytes([number, variant + 1]) * 16
    body = data_set(sop, study=study, series=series, pixels=pixels)
    return file_meta(CT, sop, "1.2.840.10008.1.2.1", "TEST") + body


def sop_of(study: str, number: int) -> str:
    """The SOP Instance UID of :func:`instance`."""
    return f"{study}.{1 + number % 2}.{number}"
