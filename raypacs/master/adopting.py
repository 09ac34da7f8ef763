"""The master's events about archives that others wrote: adopted, registered, looked at again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from raypacs.config import Settings, TierSettings
from raypacs.errors import ConfigError, StudySealed, TierUnavailable
from raypacs.index.queue import Wish
from raypacs.master.sealing import SealDuties
from raypacs.policy.queue import Priority
from raypacs.records import InstanceRecord, Lease, Registered
from raypacs.storage.overlap import Location, check_adoptable, location

_ORDER = 90  # shown last: nothing is ever written there


class AdoptEvents(SealDuties):
    """Adopting: an archive becomes a tier, its instances rows."""

    def order_adoption(
        self,
        url: str,
        *,
        tier_name: str = "",
        form: str = "folder",
        prepare: bool = False,
        deleted: bool = False,
        who: str = "",
    ) -> dict[str, Any]:
        """Adopt the archive at ``url``: a tier, if it is none yet, and work; return both names.

        ``tier_name``: '' makes one from the URL. ``form``: ``folder`` or ``orthanc``. ``prepare``:
        what is found is prepared, in time. ``deleted``: also what was deleted from the index
        before. Where an adoption of it waits, it is that one.

        Raises:
            ConfigError: it lies in, or holds, another tier; the name is taken.
            TierUnavailable: there is nothing, or it cannot be reached.
        """
        version, settings = self._reader.settings()
        check_adoptable(url)
        places = {one.name: location(one.url) for one in settings.tiers}
        place = location(url)
        tier = next((one for one in settings.tiers if place.is_same(places[one.name])), None)
        if tier is None:
            tier = _new_tier(settings, url, tier_name, form)
            _check_apart(tier, place, settings.tiers, places)
            self._tiers.try_open(tier)
            told = settings.model_copy(update={"tiers": (*settings.tiers, tier)})
            self.apply_settings(told, who, version)
        elif not tier.adopted:
            raise ConfigError(f"{url} is tier {tier.name} of raypacs itself")
        elif tier_name not in ("", tier.name):
            raise ConfigError(f"name: {url} is adopted as {tier.name}")
        else:
            self._tiers.try_open(tier)
        payload = {"tier": tier.name, "prepare": prepare, "deleted": deleted}
        wish = Wish(Priority.LOW, payload=payload, who=who)
        item_id = self._writer.order_adoption(tier.name, wish, self._clock())
        self._polls.changed()
        return {"item_id": item_id, "tier": tier.name}

    def apply_settings(self, new: Settings, who: str, expected_version: int | None = None) -> int:
        """See :meth:`Master.apply_settings`."""
        raise NotImplementedError

    def register_adopted(
        self, records: Sequence[InstanceRecord], *, prepare: bool = False, deleted: bool = False
    ) -> list[Registered]:
        """Register instances where they lie; those of sealed studies whose manifests are away wait.

        Idempotent. A record without an answer is to be told again.
        """
        blocked: set[str] = set()
        while True:
            taken = [record for record in records if record.study_uid not in blocked]
            try:
                return self._writer.register_adopted(
                    taken, self._clock(), prepare=prepare, deleted=deleted
                )
            except StudySealed as exc:
                blocked |= self.reopen(exc)

    def checksums(self, told: Sequence[tuple[InstanceRecord, str]]) -> int:
        """Keep the SHA-256 of instances that were adopted without; return how many. Idempotent.

        Raises:
            TierUnavailable: a study is sealed, and its manifests cannot be read just now.
        """
        while True:
            try:
                return self._writer.checksums(told, self._clock())
            except StudySealed as exc:
                if self.reopen(exc):
                    raise TierUnavailable("manifests cannot be read just now") from exc

    def relocate_adopted(self, record: InstanceRecord, lost: tuple[str, str]) -> bool:
        """Serve an adopted instance from where its file was moved to. Idempotent."""
        return self._writer.relocate(record, lost, self._clock())

    def let_prepare(self, study_uids: Iterable[str]) -> int:
        """Let adopted studies be prepared that are not; return how many become due."""
        return self._writer.let_prepare(study_uids, self._clock())

    def item_progress(self, lease: Lease, progress: Mapping[str, Any]) -> None:
        """Keep how far a running item is. Raises StaleLease."""
        self._writer.item_progress(lease, progress, self._clock())


def _check_apart(
    new: TierSettings,
    place: Location,
    tiers: Iterable[TierSettings],
    places: Mapping[str, Location],
) -> None:
    """Refuse an archive that lies in, or holds, another tier. Raises ConfigError."""
    for tier in tiers:
        other = places[tier.name]
        if place.is_in(other) or other.is_in(place):
            raise ConfigError(
                f"{new.shown_url} and tier {tier.name} ({tier.shown_url}) lie in one another",
                hint="adopt a folder that holds no tier, and lies in none",
            )


def _new_tier(settings: Settings, url: str, name: str, form: str) -> TierSettings:
    taken = {tier.name for tier in settings.tiers}
    if name in taken:
        raise ConfigError(f"name: there is a tier {name} already")
    if form not in ("folder", "orthanc"):
        raise ConfigError(f"format: {form!r} is neither folder nor orthanc")
    if not name:
        last = unquote(url).rstrip("/").rpartition("/")[2].lower()
        last = re.sub(r"[^a-z0-9]+", "-", last).strip("-")
        names = (last or "adopted", *(f"{last or 'adopted'}-{n}" for n in range(2, 1000)))
        name = next(one for one in names if one not in taken)
    return TierSettings.model_validate(
        {
            "name": name,
            "role": "image",
            "url": url,
            "order": _ORDER,
            "read_only": True,
            "adopted": form,
        }
    )
