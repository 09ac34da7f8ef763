"""The image tiers in their order: an object goes to the first that takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from raypacs.errors import AlreadyExists, RaypacsError, TierFull, TierUnavailable
from raypacs.storage.room import Allotments, Markers
from raypacs.storage.tier import Buffer, Tier

Landing = Callable[[str], Sequence[str]]
"""Study UID ('' of what is kept aside by day) to names of image tiers, the first to try first."""


class ImageTiers:
    """Durable puts with room taken beforehand and, for instances, the study marked."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        room: Allotments,
        markers: Markers,
        mounted: Callable[[Tier], bool],
        landing: Landing | None = None,
    ) -> None:
        """Write to those of ``tiers`` of which ``mounted`` says that they are there.

        ``landing`` says in which order they are tried for a study (default: that of ``tiers``).
        """
        self._landing = landing
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

    def _ranked(self, study_uid: str) -> list[Tier]:
        if self._landing is None:
            return list(self)
        first = [self._tiers[name] for name in self._landing(study_uid) if name in self._tiers]
        # What nobody ranked comes last: better there than refused.
        return first + [tier for tier in self if tier not in first]

    def put(
        self,
        path: str,
        parts: tuple[Buffer, ...],
        size_bytes: int,
        marked_study: str = "",
        *,
        first: str = "",
    ) -> str:
        """Put durably on the first tier that takes it; return its name.

        ``first``: the tier to begin with; '': in their order.

        Raises:
            AlreadyExists: the path is taken.
            TierFull, TierUnavailable: no tier took it.
        """
        last: RaypacsError = TierFull("no image tier takes new objects")
        for tier in sorted(self._ranked(marked_study), key=lambda one: one.name != first):
            name = tier.name
            if not tier.settings.takes_new:
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
