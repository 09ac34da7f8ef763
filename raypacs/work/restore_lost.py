"""A sealed series whose manifest is gone or damaged: its newest sound container tells its rows.

What lies on image tiers is known by its name, and counts where size and SHA-256 are those of the
container. Everything else is missing, and is brought back like what left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace

from raypacs import layout
from raypacs.config import TierSettings
from raypacs.errors import ContainerCorrupt, ManifestCorrupt, NotFound, TierUnavailable
from raypacs.records import ContainerRef, InstanceRecord
from raypacs.storage.container import Container, Member
from raypacs.storage.tier import Tier
from raypacs.work.recompress import record_of
from raypacs.work.source import find_tier

_PIECE_BYTES = 4 * 1024 * 1024


def told_by(
    refs: Iterable[ContainerRef], generation: int, tiers: tuple[TierSettings, ...], lost: str
) -> Container:
    """Return the first proven container of today's generation that can be opened.

    ``refs``: those of the series; ``lost`` says which manifest cannot be read, and why.

    Raises:
        ManifestCorrupt: there is none. TierUnavailable: its library is away.
    """
    away: TierUnavailable | None = None
    for ref in refs:
        if ref.damaged or not ref.verified_s or ref.generation != generation:
            continue
        try:
            found = Container(find_tier(tiers, ref.tier), ref.path)
        except (NotFound, ContainerCorrupt):
            continue
        except TierUnavailable as exc:
            away = exc
            continue
        if len(found.members) == ref.instance_count:
            return found
    if away is not None:
        raise away
    raise ManifestCorrupt(f"{lost}, and no library has a proven container of all of the series")


class Lying:
    """What lies of a series on image tiers."""

    def __init__(self, tiers: Iterable[Tier], study_uid: str, series_uid: str) -> None:
        """List the series' folder on each. Raises TierUnavailable."""
        self._tiers = {tier.name: tier for tier in tiers}
        folder = f"{layout.study_prefix(study_uid)}{series_uid}/"
        self._found: dict[str, list[tuple[str, str, int]]] = {}
        for tier in self._tiers.values():
            if tier.settings.adopted:
                continue
            for info in tier.walk(folder):
                sop_uid = info.path.removeprefix(folder).removesuffix(".dcm").rpartition(".")[0]
                self._found.setdefault(sop_uid, []).append((tier.name, info.path, info.size_bytes))

    def place_of(self, member: Member) -> InstanceRecord | None:
        """Return an instance with the place where its bytes are as received, None: nowhere."""
        record = replace(record_of(member.row), attributes={})
        places = list(self._found.get(record.sop_instance_uid, ()))
        if (tier := self._tiers.get(record.tier)) is not None and tier.settings.adopted:
            places = [(tier.name, record.path, record.size_bytes)]
        # Where it was when it was archived comes first.
        for name, path, size in sorted(places, key=lambda place: place[1] != record.path):
            found = replace(record, tier=name, path=path)
            if size == record.size_bytes and _digest(self._tiers[name], found) == member.sha256:
                return found
        return None


def _digest(tier: Tier, record: InstanceRecord) -> str:
    """Return the SHA-256 of the data set that lies there, '' where it cannot be read."""
    digest, at = hashlib.sha256(), record.dataset_offset_bytes
    try:
        if tier.size(record.path) != record.size_bytes:
            return ""
        while at < record.size_bytes:
            piece = tier.read(record.path, at, min(_PIECE_BYTES, record.size_bytes - at))
            if not piece:
                return ""
            digest.update(piece)
            at += len(piece)
    except NotFound:
        return ""
    return digest.hexdigest()


def mounted(
    tiers: tuple[TierSettings, ...], names: Iterable[str], is_there: Callable[[Tier], bool]
) -> list[Tier]:
    """Return tiers by name. Raises TierUnavailable: one is away, so nobody knows what it has."""
    found = [find_tier(tiers, name) for name in sorted(names)]
    for tier in found:
        if not is_there(tier):
            raise TierUnavailable(f"tier {tier.name} is not mounted", tier=tier.name)
    return found
