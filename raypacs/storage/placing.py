"""The image tiers in their order: an object goes to the first that takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from raypacs.errors import AlreadyExists, RaypacsError, TierFull, TierUnavailable
from raypacs.storage.room import Allotments, Markers
from raypacs.storage.tier import Buffer, Tier


class ImageTiers:
    """Durable puts with room taken beforehand and, for instances, the study marked."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        room: Allotments,
        markers: Markers,
        mounted: Callable[[Tier], bool],
    ) -> None:
        """Write to those of ``tiers`` of which ``mounted`` says that they are there."""
        self._mounted = mounted
        self._tiers = {tier.name: tier for tier in tiers}
        self._room = room
        self._markers = markers

    def __iter__(self) -> Iterator[Tier]:
        return iter(self._tiers.values())

    def __getitem__(self, name: str) -> Tier:
        return self._tiers[name]

    def hold(self, path: str) -> bool:
        """Whether any of the tiers has the object. Raises TierUnavailable."""
        return any(tier.exists(path) for tier in self)

    def put(
        self, path: str, parts: tuple[Buffer, ...], size_bytes: int, marked_study: str = ""
    ) -> str:
        """Put durably on the first tier that takes it; return its name.

        Raises:
            AlreadyExists: the path is taken.
            TierFull, TierUnavailable: no tier took it.
        """
        last: RaypacsError = TierFull("no image tier takes new objects")
        for name, tier in self._tiers.items():
            if tier.settings.read_only:
                continue
            try:
                if not self._mounted(tier):
                    last = TierUnavailable(f"tier {name} is not mounted", tier=name)
                    continue
            except TierUnavailable as exc:
                last = exc
                continue
            if not self._room.take(name, size_bytes):
                last = TierFull(f"tier {name} is full", tier=name)
                continue
            entered = False
            try:
                if marked_study:
                    self._markers.enter(name, marked_study)
                    entered = True
                tier.put_durable(path, parts)
            except (TierFull, TierUnavailable, AlreadyExists) as exc:
                if entered:
                    self._markers.leave(name, marked_study)
                self._room.give_back(name, size_bytes)
                if isinstance(exc, AlreadyExists):
                    raise
                last = exc
                continue
            return name
        raise last
