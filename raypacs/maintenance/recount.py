"""Every object of the tiers compared with the index, study by study; nothing is changed.

May run while nodes do: what differs is looked at once more, index first, before it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raypacs import layout
from raypacs.config import Bootstrap, TierSettings
from raypacs.errors import ConfigError, ManifestCorrupt, NotFound
from raypacs.index.reader import IndexReader
from raypacs.storage.late import LateTiers
from raypacs.storage.manifest import Manifests
from raypacs.storage.tier import Tier, open_tier

Place = tuple[str, str]


@dataclass
class Recounted:
    """What a look at all objects showed; places are (tier, path).

    ``strangers``: objects that the index does not know; they are left alone.
    """

    objects: int = 0
    size_bytes: dict[str, int] = field(default_factory=dict)
    missing: list[Place] = field(default_factory=list)
    resized: list[Place] = field(default_factory=list)
    strangers: list[Place] = field(default_factory=list)

    @property
    def agree(self) -> bool:
        """Whether index and tiers agree."""
        return not (self.missing or self.resized or self.strangers)


def recount_objects(bootstrap: Bootstrap, name: str = "") -> Recounted:
    """Compare the objects of all tiers (or of one) with the index.

    Raises:
        ConfigError: no such tier. TierUnavailable: one cannot be listed.
    """
    reader = IndexReader(bootstrap.database_url)
    try:
        settings = reader.settings()[1].tiers
        ours = [one for one in settings if name in ("", one.name) and not one.adopted]
        if name and not ours:
            raise ConfigError(f"no tier {name}, or an adopted one, whose files are others'")
        return _Comparison(reader, settings, [open_tier(one) for one in ours]).run()
    finally:
        reader.close()


class _Comparison:
    def __init__(
        self, reader: IndexReader, settings: Sequence[TierSettings], tiers: list[Tier]
    ) -> None:
        self._reader, self._tiers = reader, tiers
        self._rows: Callable[[str, str], list[dict[str, Any]]] = Manifests(LateTiers(settings)).rows
        self._names = {tier.name for tier in tiers}
        self._result = Recounted()

    def run(self) -> Recounted:
        uids = self._reader.study_uids()
        for tier in self._tiers:
            for folder in ("studies/", "conflicts/"):
                uids |= {info.path.split("/")[1] for info in tier.walk(folder)}
        for uid in sorted(uids):
            self._compare(uid, (layout.study_prefix(uid), layout.aside_prefix(uid)))
        self._compare("", ("quarantine/",))
        return self._result

    def _compare(self, uid: str, prefixes: tuple[str, ...]) -> None:
        for again in (False, True):
            expected, optional = self._expected(uid)
            there = {
                (tier.name, info.path): info.size_bytes
                for tier in self._tiers
                for prefix in prefixes
                for info in tier.walk(prefix)
            }
            missing = [one for one in expected if one not in there and one not in optional]
            resized = [one for one, size in expected.items() if there.get(one, size) != size]
            strangers = [one for one in there if one not in expected and one not in optional]
            if again or not (missing or resized or strangers):
                break
        result = self._result
        result.objects += len(there)
        for (name, _), size_bytes in there.items():
            result.size_bytes[name] = result.size_bytes.get(name, 0) + size_bytes
        result.missing += missing
        result.resized += resized
        result.strangers += strangers

    def _expected(self, uid: str) -> tuple[dict[Place, int], set[Place]]:
        """Return (tier, path) to bytes of what should be there, and what may be there or not."""
        known = self._reader.objects_of(uid)
        expected, optional = dict(known.objects), set(known.optional)
        for tier, path in known.in_force:
            for row in self._listed(tier, path):
                expected[row["tier"], row["path"]] = int(row["size_bytes"])
        for where, tier, path in known.leaving:
            for row in self._listed(tier, path):
                if row["tier"] == where:
                    optional.add((where, row["path"]))
        return {one: size for one, size in expected.items() if one[0] in self._names}, optional

    def _listed(self, tier: str, path: str) -> list[dict[str, Any]]:
        try:
            return self._rows(tier, path)
        except (NotFound, ManifestCorrupt):
            return []  # it is missing itself, and told so
