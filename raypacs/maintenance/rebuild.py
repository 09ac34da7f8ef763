"""``raypacs index rebuild``, ``reconcile`` and ``sweep``: the index and what lies on the tiers.

For each study: what the tiers hold that the index does not know is registered (from a manifest
where one agrees with what lies there, else from the bytes), packs that are whole are adopted, what
the index knows and no tier holds is listed as lost. Nothing on an image tier is deleted or moved;
what could not be placed is listed, with the reason. Running it again changes nothing more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context

from raypacs import layout, node_file
from raypacs.config import Bootstrap, Settings, default_tiers
from raypacs.errors import ConfigError, MasterUnavailable
from raypacs.index import site
from raypacs.index.engine import migrate, open_engine, version
from raypacs.index.in_use import refuse_in_use
from raypacs.index.reader import IndexReader
from raypacs.index.sealed_reader import SealedReader
from raypacs.index.site import Site
from raypacs.index.writer import IndexWriter
from raypacs.maintenance.inventory import StudyObjects, Unplaced, objects_of, studies_on
from raypacs.maintenance.study import Counts, Study
from raypacs.storage.adopted import AdoptedTier
from raypacs.storage.manifest import Manifests
from raypacs.storage.recovery import describe_aside
from raypacs.storage.site import site_of
from raypacs.storage.tier import Tier, open_tier
from raypacs.upkeep import TierSet, delete

__all__ = [
    "Reinventory",
    "Swept",
    "Unplaced",
    "orphans",
    "rebuild_index",
    "reconcile_index",
    "sweep_index",
]

Progress = Callable[[int, int], None]
"""Told (studies done, studies in all)."""


@dataclass
class Reinventory:
    """What was found, and done unless it was a dry run; sizes in bytes, times in seconds."""

    dry_run: bool
    epoch: int = 0
    studies: int = 0
    counts: Counts = field(default_factory=Counts)
    unplaced: list[Unplaced] = field(default_factory=list)
    """Objects that stay where they are, unknown to the index, and why."""
    lost: list[Unplaced] = field(default_factory=list)
    """What the index knows and no tier holds."""
    ledger_was_wrong: dict[str, int] = field(default_factory=dict)
    """By how many bytes the account of a tier was too high."""
    seconds: float = 0.0


def rebuild_index(
    bootstrap: Bootstrap,
    *,
    now: float,
    settings: Settings | None = None,
    dry_run: bool = False,
    workers: int = 0,
    progress: Progress = lambda done, total: None,
    force: bool = False,
) -> Reinventory:
    """Make the index again from what lies on the tiers; the node must be down.

    ``settings`` are those of the site (default: those in the index, else the embedded ones);
    ``workers`` how many processes parse (0: one a core, 1: none beside this one).

    Raises:
        AlreadyExists: the node, the index' master or another node of it runs (``force``: or may).
        ConfigError: the index is not empty, or the tiers are not all there and of one site.
    """
    return _run(bootstrap, now, settings, dry_run, workers, progress, empty=True, force=force)


def reconcile_index(
    bootstrap: Bootstrap,
    *,
    now: float,
    dry_run: bool = False,
    workers: int = 0,
    progress: Progress = lambda done, total: None,
    force: bool = False,
) -> Reinventory:
    """Make an index that is there agree with the tiers, and let it delete again.

    Raises:
        AlreadyExists: the node, the index' master or another node of it runs (``force``: or may).
        ConfigError: there is no index, or the tiers are not all there and of its site.
    """
    return _run(bootstrap, now, None, dry_run, workers, progress, empty=False, force=force)


def _run(
    bootstrap: Bootstrap,
    now: float,
    given: Settings | None,
    dry_run: bool,
    workers: int,
    progress: Progress,
    *,
    empty: bool,
    force: bool,
) -> Reinventory:
    started = time.monotonic()
    with (
        node_file.held(bootstrap),
        _Opened(bootstrap, given, now, dry_run, empty, force=force) as opened,
    ):
        found = Reinventory(dry_run, epoch=opened.writer.epoch if opened.writer else 0)
        with _pool(opened, workers) as pool:
            uids = sorted(studies_on(opened.tiers) | opened.known_studies())
            for number, uid in enumerate(uids):
                study = Study(opened.reader, opened.writer, opened.tiers, uid, pool, now)
                found.studies += 1
                found.counts += study.agree(objects_of(opened.tiers, uid))
                found.unplaced += study.unplaced
                found.lost += study.lost
                progress(number + 1, len(uids))
        _quarantined(opened, found, now)
        if opened.writer is not None:
            found.ledger_was_wrong = opened.finish(found.counts, now)
    found.seconds = time.monotonic() - started
    return found


class _Opened:
    """Index and tiers of a site whose nodes are down, under an epoch of our own."""

    def __init__(
        self,
        bootstrap: Bootstrap,
        given: Settings | None,
        now: float,
        dry_run: bool,
        empty: bool,
        *,
        agreeing: bool = True,
        force: bool = False,
    ) -> None:
        """Open them; ``agreeing``: nothing may be deleted until :meth:`finish`."""
        self._url = bootstrap.database_url
        self._now = now
        self.reader: IndexReader | None = None
        self.writer: IndexWriter | None = None
        self._engine = open_engine(self._url, read_only=dry_run)
        if not dry_run:
            if version(self._engine) is not None:
                refuse_in_use(self._engine, now, own=bootstrap.name, force=force)
            migrate(self._engine)
        self._read(dry_run)
        number, settings = self.reader.settings() if self.reader else (0, Settings())
        if empty and self.known_studies():
            raise ConfigError(
                "the index is not empty",
                hint="`raypacs index reconcile` compares it with the tiers; or move its file away",
            )
        if not empty and not number:
            raise ConfigError("there is no index yet", hint="`raypacs index rebuild` makes one")
        if given is not None or not number:
            settings = given or Settings(tiers=default_tiers(bootstrap.data_dir))
        self.settings = settings
        self._tier_set = TierSet(open_tier)
        self._tier_set.open(settings.tiers, self._site(settings, dry_run))
        if self._tier_set.problems:
            raise ConfigError(
                "not every tier is there: " + "; ".join(self._tier_set.problems.values()),
                hint="mount them, or take them out of the settings: what cannot be listed "
                "would count as lost",
            )
        self.tiers = self._tier_set.reachable()
        self._refuse_empty()
        if not dry_run:
            self._claim(now, new=number == 0 or given is not None)
            if agreeing and self.writer is not None:
                # Until it is finished nothing may be deleted, whatever ends it before.
                self.writer.need_reconcile("a rebuild or reconcile was not finished", now)
                # Else a later boot buries attempts whose packs are adopted here, and sweeps them.
                self.writer.interrupt(now)

    def _read(self, dry_run: bool) -> None:
        reader = IndexReader(self._url)
        try:
            reader.settings()
        except MasterUnavailable:
            reader.close()
            if not dry_run:
                raise
        else:
            self.reader = reader

    def _site(self, settings: Settings, dry_run: bool) -> Site:
        """Return the site; a new index gets the identity that the tiers carry."""
        known = self.reader.site() if self.reader else Site("", 0, frozenset(), "")
        if known.site_id:
            return known
        found = {site_of(open_tier(tier)) for tier in settings.tiers} - {""}
        if len(found) > 1:
            raise ConfigError(f"the tiers are of several sites: {', '.join(sorted(found))}")
        site_id = next(iter(found), "")
        if site_id and not dry_run:
            site.name_site(self._engine, site_id, self._now)
        return Site(site_id, 0, frozenset(), "")

    def _claim(self, now: float, *, new: bool) -> None:
        marked, self._sequence = self._tier_set.newest_marker()
        self.writer = IndexWriter.claim_epoch(self._engine, [marked], now, sequence=self._sequence)
        if new:
            self.writer.apply_settings(self.settings, "index rebuild", now)
        sequence = self.writer.sequence(now, at_least=self._sequence)
        self._tier_set.mark(self.writer.epoch, sequence, self.check)

    def _refuse_empty(self) -> None:
        """Refuse a tier that may not be mounted: no marker, no object, though the index has some.

        All that was on it would leave the index.
        """
        used = self.reader.ledger() if self.reader else {}
        for tier in self.tiers:
            row = used.get(tier.name)
            if row is None or not row.used_bytes or site_of(tier):
                continue
            found = tier.files() if isinstance(tier, AdoptedTier) else tier.walk("studies/")
            if next(iter(found), None) is None:
                raise ConfigError(
                    f"tier {tier.name} is empty, and the index has {row.used_bytes} bytes on it",
                    hint="mount it, or take it out of the settings",
                )

    def known_studies(self) -> set[str]:
        """Return the studies that the index knows."""
        return self.reader.study_uids() if self.reader else set()

    def finish(self, counts: Counts, now: float) -> dict[str, int]:
        """Make the ledger anew, let the index delete again; return what the ledger had wrong."""
        assert self.writer is not None
        assert self.reader is not None
        writer = self.writer
        self._tier_set.adopt(
            self.reader.site(), lambda url, name: writer.adopt_tier(url, name, now), self.check
        )
        wrong = writer.recount_ledger(now)
        writer.reconciled(counts.as_dict(), now)
        self._tier_set.mark(writer.epoch, writer.sequence(now), self.check)
        return wrong

    def orphans(self) -> list[Unplaced]:
        """Return the objects that nothing in the index knows."""
        tiers = {tier.name: tier for tier in self.tiers}
        reader = SealedReader(self._url, Manifests(tiers.__getitem__).rows)
        try:
            return list(orphans(reader, self.tiers))
        finally:
            reader.close()

    def check(self) -> None:
        """Raise StaleEpoch if a master was started meanwhile."""
        assert self.writer is not None
        with self.writer.transaction(self._now):
            pass

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.reader is not None:
            self.reader.close()
        self._engine.dispose()


@contextmanager
def _pool(opened: _Opened, workers: int) -> Iterator[Executor | None]:
    count = workers or os.cpu_count() or 1
    if count == 1:
        yield None
        return
    # Not forked: this process has threads.
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        yield pool


def _quarantined(opened: _Opened, found: Reinventory, now: float) -> None:
    """Report what is quarantined on the image tiers and not listed in the index."""
    known = opened.reader.aside_places() if opened.reader else set()
    for tier in opened.tiers:
        if tier.role != "image":
            continue
        for info in tier.walk("quarantine/"):
            if not info.path.endswith(".dcm") or (tier.name, info.path) in known:
                continue
            found.counts.asides += 1
            if opened.writer is not None:
                opened.writer.aside(describe_aside(tier, info), now)


@dataclass
class Swept:
    """What a sweep found, and how many objects it deleted."""

    orphans: list[Unplaced]
    deleted: int = 0


_UNKNOWN = "nothing in the index knows it"
_PART = "a part of an attempt that does not run"
_ALONE = "nothing in the index knows it; kept, as no image tier has an object of its study"


def sweep_index(
    bootstrap: Bootstrap, *, now: float, dry_run: bool = True, force: bool = False
) -> Swept:
    """List the objects that nothing in the index knows; else delete packs and parts on web tiers.

    What lies on image tiers is never deleted: ``reconcile`` registers it. Nor is on a web tier what
    does not belong there (instances, say, where the tier's role was changed), or a pack that may be
    all that is left of a study. Deleting needs the node to be down; listing does not, but sees
    what is just being received.

    Raises:
        AlreadyExists: the node, the index' master or another node of it runs (``force``: or may).
        ConfigError: not every tier is there, or the index must be reconciled first.
    """
    if dry_run:
        with _Opened(bootstrap, None, now, True, False) as opened:
            return Swept(opened.orphans())
    with (
        node_file.held(bootstrap),
        _Opened(bootstrap, None, now, False, False, agreeing=False, force=force) as opened,
    ):
        assert opened.reader is not None
        why = opened.reader.reconcile()
        if why:
            raise ConfigError(f"nothing is deleted: {why}", hint="run `raypacs index reconcile`")
        swept = Swept(opened.orphans())
        for tier in opened.tiers:
            if tier.role == "web" and not tier.settings.read_only:
                paths = [
                    one.path
                    for one in swept.orphans
                    if one.tier == tier.name and one.why in (_UNKNOWN, _PART)
                ]
                swept.deleted += delete(tier, paths, opened.check)
                tier.prune("studies/")
        return swept


def orphans(reader: IndexReader, tiers: list[Tier]) -> Iterator[Unplaced]:
    """Yield every object on the tiers that nothing in the index knows.

    ``reader`` is one that knows sealed instances (``SealedReader``). Markers are known by their
    names; so is what attempts that run have written. Raises TierUnavailable.
    """
    for uid in sorted(studies_on(tiers)):
        yield from _unknown(reader, objects_of(tiers, uid))
    asides = reader.aside_places()
    quarantined = asides | {(name, layout.quarantine_reason(path)) for name, path in asides}
    for tier in tiers:
        parts = [info.path for info in tier.walk(layout.ATTEMPTS)]
        live = reader.live_tokens()
        for path in parts:
            if path.split("/")[1] not in live:
                yield Unplaced(tier.name, path, _PART)
        for info in tier.walk("quarantine/"):
            if (tier.name, info.path) not in quarantined:
                yield Unplaced(tier.name, info.path, "quarantined, and not listed")


def _unknown(reader: IndexReader, objects: StudyObjects) -> Iterator[Unplaced]:
    """Yield the objects of a study that nothing in the index knows.

    They were listed before the index is asked, and attempts that run are asked for before what was
    reported: what is published and reported meanwhile is known by the one or the other.
    """
    uid = objects.study_uid
    live = reader.live_tokens()
    known = reader.known_objects(uid)
    places = {*known.asides, *known.doomed, *known.packs}
    places |= {(place[0], header) for place, header in known.packs.items()}
    places |= {(one.record.tier, one.record.path) for one in reader.instances(uid)}
    places |= {(ref.tier, ref.path) for ref in reader.manifests(uid)}
    places |= {(ref.tier, ref.path) for ref in reader.containers(uid)}
    yield from objects.strange
    made = objects.packs.keys() | objects.headers.keys()
    for place in objects.every():
        if place in places or (place in made and layout.token_of(place[1]) in live):
            continue
        alone = not objects.instances and (
            place in objects.packs
            or any(layout.header_sidecar(path) == place[1] for _, path in objects.packs)
        )
        yield Unplaced(*place, _ALONE if alone else _UNKNOWN)
