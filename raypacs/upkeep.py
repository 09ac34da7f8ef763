"""What the master does on tiers: markers of site and epoch, sweeping attempts, deleting by intent.

Sweeps touch web tiers only, and only objects whose path carries a dead attempt's token; paths are
never reused, so even a master that was replaced meanwhile cannot hit a live object.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from raypacs import layout
from raypacs.config import TierSettings
from raypacs.errors import (
    AlreadyExists,
    ConfigError,
    NotFound,
    RaypacsError,
    StaleEpoch,
    TierFull,
    TierUnavailable,
)
from raypacs.index.ledger import TierSeen
from raypacs.index.site import Site
from raypacs.records import PackRef
from raypacs.storage.site import belongs, leave_marker, site_of
from raypacs.storage.tier import Tier

__all__ = [
    "Check",
    "TierSet",
    "belongs",
    "delete",
    "put_checked",
    "site_of",
    "sweep_attempt",
    "sweep_parts",
]

log = logging.getLogger(__name__)

Check = Callable[[], None]
"""Raises StaleEpoch if another master took over."""

Served = Callable[[str], Mapping[str, Sequence[PackRef]]]
"""A study's packs in the index, by series UID."""


class TierSet:
    """The tiers as one master reaches them: those that carry its site's marker."""

    def __init__(self, opener: Callable[[TierSettings], Tier]) -> None:
        self._opener = opener
        self._tiers: dict[str, Tier | None] = {}  # None: unreachable at the last look
        self._unchecked: set[str] = set()  # names opened since the last mark()
        self._marked: set[str] = set()  # URLs that carry our marker
        self._sequence = 0  # what the newest markers say
        self.problems: dict[str, str] = {}
        """Name of each tier that cannot be used, and why."""

    def open(self, wanted: Iterable[TierSettings], site: Site) -> None:
        """Open tiers that are new, changed or were unreachable; forget those not wanted.

        One that does not carry the site's marker is unreachable, unless it was never adopted.

        Raises:
            ConfigError: the index is new, and a tier belongs to a site.
        """
        opened: dict[str, Tier | None] = {}
        self.problems = {}
        for settings in wanted:
            tier = self._tiers.get(settings.name)
            try:
                if tier is None or tier.settings != settings:
                    self._unchecked.add(settings.name)
                    tier = self._opener(settings)
                found = site_of(tier)
            except RaypacsError as exc:  # whatever it is: the other tiers must go on
                tier, why = None, str(exc)
            else:
                why = _not_ours(settings, found, site)
            if why:
                log.warning("tier unreachable: %s", why, extra={"tier": settings.name})
                self.problems[settings.name] = why
                tier = None
            opened[settings.name] = tier
        self._tiers = opened

    def check(self, new: Iterable[TierSettings], old: Iterable[TierSettings]) -> None:
        """Refuse new or changed tiers that can never be opened.

        One that is only away just now is none of them.

        Raises:
            ConfigError: says which, and why.
        """
        known = set(old)
        for settings in new:
            if settings in known:
                continue
            try:
                self._opener(settings)
            except TierUnavailable as exc:
                log.warning("tier unreachable: %s", exc, extra={"tier": settings.name})

    def try_open(self, settings: TierSettings) -> None:
        """See that a tier can be used now. Raises ConfigError, TierUnavailable."""
        self._opener(settings)

    def reachable(self, role: str = "") -> list[Tier]:
        """Return the open tiers (of a role)."""
        return [t for t in self._tiers.values() if t is not None and role in ("", t.role)]

    def newest_marker(self) -> tuple[int, int]:
        """Return the highest epoch, and the highest change, that any reachable tier is marked with.

        (0, 0) without any marker.
        """
        newest = (0, 0)
        for tier in self.reachable():
            try:
                epoch, sequence = _newest_marker(tier)
            except TierUnavailable as exc:
                self._lose(tier, exc)
            else:
                newest = max(newest[0], epoch), max(newest[1], sequence)
        return newest

    def adopt(self, site: Site, adopted: Callable[[str, str], None], check: Check) -> None:
        """Leave the site's marker on tiers that have none yet; ``adopted`` is told (URL, name).

        Raises:
            StaleEpoch: ``check`` did, which is called right before each write.
        """
        for tier in self.reachable():
            url = tier.settings.url
            if url in site.adopted:
                continue
            try:
                if not site_of(tier) and not tier.settings.read_only:
                    check()
                    leave_marker(tier, site.site_id)
                if site_of(tier) == site.site_id:
                    adopted(url, tier.name)
            except TierUnavailable as exc:
                self._lose(tier, exc)
            except TierFull as exc:
                log.warning("no site marker: %s", exc, extra={"tier": tier.name})

    def mark(self, epoch: int, sequence: int, check: Check) -> None:
        """Leave the epoch's and the newest change's marker on reachable tiers without it.

        Raises:
            StaleEpoch: a tier was used by this or a later epoch (of another, restored index), or
                ``check`` raised it: then no marker of this epoch was left.
        """
        for tier in self.reachable():
            if tier.name not in self._unchecked and sequence == self._sequence:
                continue
            try:
                newest = _newest_marker(tier)
                ours = tier.settings.url in self._marked
                if newest[0] > epoch or (newest[0] == epoch and not ours):
                    raise _used(tier, newest[0], epoch)
                if newest < (epoch, sequence):
                    _leave_marker(tier, epoch, sequence, check)
            except TierUnavailable as exc:
                self._lose(tier, exc)
            else:
                self._marked.add(tier.settings.url)
                self._unchecked.discard(tier.name)
        self._sequence = sequence

    def still_there(self, tier: Tier, site_id: str) -> bool:
        """Whether the tier carries the site's marker just now; else it is given up until it does.

        To be asked before missing bytes count as deleted or lost: nothing is found in a folder
        whose disk is not mounted.
        """
        try:
            if belongs(tier, site_id):
                return True
            self._lose(tier, TierUnavailable("it does not carry this site's marker"))
        except TierUnavailable as exc:
            self._lose(tier, exc)
        return False

    def seen(self, used_bytes: Mapping[str, int]) -> list[TierSeen]:
        """See every tier: its capacity as set, or what the ledger has used plus what is free."""
        found = []
        for name, tier in self._tiers.items():
            capacity_bytes = None if tier is None else _capacity(tier, used_bytes.get(name, 0))
            reachable = capacity_bytes is not None
            found.append(TierSeen(name, capacity_bytes or 0, reachable=reachable))
        return found

    def _lose(self, tier: Tier, exc: TierUnavailable) -> None:
        log.warning("tier unreachable: %s", exc, extra={"tier": tier.name})
        self._tiers[tier.name] = None
        self.problems[tier.name] = str(exc)


def _not_ours(settings: TierSettings, found: str, site: Site) -> str:
    """Say why the site may not use a tier that carries the marker ``found``, '' if it may.

    Raises:
        ConfigError: the index is new, and the tier belongs to a site.
    """
    url = settings.url
    if found and not site.site_id:
        raise ConfigError(
            f"tier {settings.name}: {settings.shown_url} belongs to site {found}, and this index "
            "is a new one",
            hint="if that site's index is lost, make it again with `raypacs index rebuild`",
        )
    if found and found != site.site_id:
        return f"{settings.shown_url} belongs to site {found}, this one is {site.site_id}"
    if not found and url in site.adopted and not settings.read_only:
        return f"{settings.shown_url} has lost this site's marker: it is not mounted"
    return ""


def _newest_marker(tier: Tier) -> tuple[int, int]:
    """Return (epoch, change); those of the newest epoch's marker with the newest change."""
    found = [info.path for info in tier.walk(layout.EPOCH_MARKERS)]
    return max(
        ((layout.epoch_of(path), layout.sequence_of(path)) for path in found), default=(0, 0)
    )


def _leave_marker(tier: Tier, epoch: int, sequence: int, check: Check) -> None:
    if tier.settings.read_only:
        return
    body = json.dumps({"epoch": epoch, "sequence": sequence}).encode()
    try:
        put_checked(tier, layout.epoch_marker(epoch, sequence), body, check)
    except AlreadyExists as exc:
        raise _used(tier, epoch, epoch) from exc
    except TierFull as exc:
        # A full tier must not keep the cluster from working; the older marker stays there.
        log.warning("no epoch marker: %s", exc, extra={"tier": tier.name})
        return
    markers = [info.path for info in tier.walk(layout.EPOCH_MARKERS)]
    older = [p for p in markers if (layout.epoch_of(p), layout.sequence_of(p)) < (epoch, sequence)]
    delete(tier, older, check)


def put_checked(tier: Tier, path: str, data: bytes, check: Check) -> None:
    """Put an object whose path nobody else uses, unless another master took over.

    ``check`` is called right before and after: what a master wrote that was stopped in between is
    taken away again.

    Raises:
        StaleEpoch: ``check`` did; the object is not there.
        AlreadyExists, TierFull, TierUnavailable.
    """
    check()
    tier.put_durable(path, data)
    try:
        check()
    except StaleEpoch:
        _delete(tier, path)
        raise


def _used(tier: Tier, marker: int, epoch: int) -> StaleEpoch:
    return StaleEpoch(
        f"tier {tier.name} was used by epoch {marker}; this master is of epoch {epoch}",
        epoch=epoch,
        claimed=marker,
    )


def _capacity(tier: Tier, used_bytes: int) -> int | None:
    """Return its capacity as set, or what is used plus what is free; None: unreachable.

    One that is set is not compared with the tier: that would list all its objects.
    """
    if tier.settings.capacity_bytes:
        return tier.settings.capacity_bytes
    try:
        return used_bytes + tier.free_bytes()
    except TierUnavailable as exc:
        log.warning("tier unreachable: %s", exc, extra={"tier": tier.name})
        return None


def sweep_attempt(tier: Tier, token: str, study_uid: str, check: Check, served: Served) -> int:
    """Delete a dead attempt's parts, packs and header sidecars; return how many objects.

    ``served`` is asked right before each pack: one that the index lists is never deleted, whatever
    else is said of its attempt.

    Raises:
        StaleEpoch: ``check`` did; what was not deleted yet stays.
    """
    parts = [info.path for info in tier.walk(layout.attempt_prefix(token))]
    packs = [
        info.path
        for info in tier.walk(layout.study_prefix(study_uid))
        if info.path.rpartition("/")[2].startswith(f"{token}.")
    ]
    count = delete(tier, parts, check)
    count += delete(tier, _unserved(tier, packs, study_uid, served), check)
    if parts:
        tier.prune(layout.attempt_prefix(token))
    if packs:
        tier.prune(layout.study_prefix(study_uid))
    return count


def _unserved(tier: Tier, paths: Iterable[str], study_uid: str, served: Served) -> Iterator[str]:
    for path in paths:
        known = [ref for refs in served(study_uid).values() for ref in refs]
        if any(ref.tier == tier.name and path in (ref.pack_path, ref.header_path) for ref in known):
            log.error("a dead attempt's pack is served", extra={"tier": tier.name, "path": path})
        else:
            yield path


def sweep_parts(tier: Tier, live_tokens: Callable[[], set[str]], check: Check) -> int:
    """Delete parts of attempts that do not run; return how many objects.

    The walk comes first: an attempt seen there that does not run now has ended.

    Raises:
        StaleEpoch: ``check`` did; what was not deleted yet stays.
    """
    parts = [info.path for info in tier.walk(layout.ATTEMPTS)]
    if not parts:
        return 0
    live = live_tokens()
    dead = [path for path in parts if path.removeprefix(layout.ATTEMPTS).split("/")[0] not in live]
    count = delete(tier, dead, check)
    tier.prune(layout.ATTEMPTS)
    return count


def delete(tier: Tier, paths: Iterable[str], check: Check) -> int:
    """Delete objects; return how many were there.

    ``check`` is called right before each: a master may have been stopped for hours between its
    decision and the deletion, and another one may have decided otherwise meanwhile.

    Raises:
        StaleEpoch: ``check`` did; what was not deleted yet stays.
    """
    count = 0
    for path in paths:
        check()
        count += _delete(tier, path)
    return count


def _delete(tier: Tier, path: str) -> bool:
    try:
        tier.delete(path)
    except NotFound:
        return False
    return True
