"""Where the instances of a series lie: the cache that keeps requests away from the index.

A view is good for ``ttl_s``; then the state of the series (number of instances, packs) is asked
for again (one cheap query, in a thread, one flight per series) and it is rebuilt only if that
changed. Pack paths are never reused, so an old view can be late but never wrong about bytes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from raypacs.codec.registry import CODED, HTJ2K
from raypacs.dicom import EXPLICIT_VR_LE, is_encapsulated
from raypacs.errors import NotFound, PackCorrupt, TierUnavailable
from raypacs.records import PackRef, StoredInstance
from raypacs.storage.pack import Pack, PackInstance
from raypacs.web.negotiate import Form
from raypacs.web.object_file import ObjectFile, ObjectFiles
from raypacs.web.services import Services

_log = logging.getLogger("raypacs.web")


@dataclass(frozen=True)
class OpenPack:
    """A published pack: its reader (index and sidecar) and its bytes."""

    ref: PackRef
    reader: Pack
    file: ObjectFile


@dataclass(frozen=True, slots=True)
class Place:
    """One instance: its record, and the pack that holds it (None: not prepared yet)."""

    stored: StoredInstance
    pack: OpenPack | None
    prepared: PackInstance | None

    @property
    def frames(self) -> int:
        """Number of frames; 0 without pixels."""
        return self.prepared.frames if self.prepared is not None else self.stored.record.frames

    @property
    def stored_syntax(self) -> str:
        """Transfer syntax of frames in the web cache, '' if not prepared or in a form without."""
        if self.prepared is None or (self.is_coded and not self.is_htj2k):
            return ""
        return self.prepared.transfer_syntax_uid

    @property
    def is_htj2k(self) -> bool:
        """Whether its frames are HTJ2K codestreams of the pack."""
        return self.prepared is not None and self.prepared.form == HTJ2K

    @property
    def is_coded(self) -> bool:
        """Whether its frames are in one of the pack's own forms: not as received."""
        return self.prepared is not None and self.prepared.form in CODED

    @property
    def original_syntax(self) -> str:
        """Transfer syntax in which frames as received may be had.

        What is prepared in a form without a transfer syntax is had uncompressed, and only so: its
        compressed frames leave with the image cache.
        """
        if self.is_coded and not self.is_htj2k:
            return EXPLICIT_VR_LE
        return self.stored.record.transfer_syntax_uid

    def lies_in_pack(self, form: Form) -> bool:
        """Whether the pack holds each frame of this form in ready bytes."""
        if self.prepared is None:
            return False
        if self.is_coded:
            return self.is_htj2k and form == "stored"
        return self.prepared.table_rows > 0 and is_encapsulated(self.prepared.transfer_syntax_uid)

    @property
    def token(self) -> str:
        """What changes when the bytes served may change; the base of entity tags."""
        record = self.stored.record
        if self.pack is not None:
            return self.pack.ref.token
        # What was adopted may have no checksum; it is served only while size and time are these.
        return record.sha256[:16] or f"{record.size_bytes:x}-{record.received_at_s!r}"


@dataclass
class SeriesView:
    """The instances of one series, in the order of Instance Number, as far as this node knows."""

    study_uid: str
    series_uid: str
    places: dict[str, Place]
    state: tuple[str, ...]
    """What the index said of instances and packs just before the view was made."""
    packs: tuple[OpenPack, ...]
    """The packs that can be read."""
    loaded_at_s: float
    checked_at_s: float

    @cached_property
    def only_pack(self) -> OpenPack | None:
        """The pack that holds exactly the instances of the series, if there is one."""
        if len(self.packs) == 1 and self.packs[0].reader.instances.keys() == self.places.keys():
            return self.packs[0]
        return None


def load_series(
    services: Services, study_uid: str, series_uid: str, known: tuple[OpenPack, ...], now_s: float
) -> SeriesView:
    """Build a view from the index, reusing packs of ``known`` that are open already.

    Raises:
        NotFound: no such series in the study.
    """
    # Before the rest: what changes in between is seen at the next check.
    state = services.series_state(study_uid, series_uid)
    stored = services.series_instances(study_uid, series_uid)
    if not stored:
        raise NotFound(f"no series {series_uid} in study {study_uid}")
    refs = services.locate(series_uid)
    open_packs = {pack.ref.pack_path: pack for pack in known}
    found = [open_packs.get(ref.pack_path) or _open_pack(services, ref) for ref in refs]
    packs = tuple(pack for pack in found if pack is not None)
    holders: dict[str, OpenPack] = {}
    for pack in packs:
        # Later packs win: an instance prepared again is served from its newest form.
        holders.update(dict.fromkeys(pack.reader.instances, pack))
    places = {}
    for one in sorted(stored, key=_instance_order):
        uid = one.record.sop_instance_uid
        holder = holders.get(uid)
        places[uid] = Place(one, holder, holder.reader.instances[uid] if holder else None)
    return SeriesView(study_uid, series_uid, places, state, packs, now_s, now_s)


def _instance_order(stored: StoredInstance) -> tuple[int, str]:
    number = stored.record.instance_number
    return (number if number is not None else 2**31, stored.record.sop_instance_uid)


def _open_pack(services: Services, ref: PackRef) -> OpenPack | None:
    """Open a pack; None if it cannot be read: its instances are served as received then."""
    try:
        tier = services.tier(ref.tier)
        return OpenPack(ref, Pack(tier, ref), ObjectFile(tier, ref.pack_path))
    except (NotFound, PackCorrupt, TierUnavailable) as exc:
        _log.warning("pack %s on %s: %s", ref.pack_path, ref.tier, exc)
        return None


@dataclass
class SeriesViews:
    """The views in use, least recently used first, bounded by instances. Event loop only."""

    services: Services
    most_instances: int = 50_000
    ttl_s: float = 1.0
    clock: Callable[[], float] = time.monotonic
    files: ObjectFiles = field(default_factory=ObjectFiles)
    _views: OrderedDict[tuple[str, str], SeriesView] = field(default_factory=OrderedDict)
    _flights: dict[tuple[str, str], asyncio.Task[SeriesView]] = field(default_factory=dict)
    _instances: int = 0

    def fresh(self, study_uid: str, series_uid: str) -> SeriesView | None:
        """Return the view if it needs no check: a dictionary look-up."""
        view = self._views.get((study_uid, series_uid))
        if view is None or self.clock() - view.checked_at_s > self.ttl_s:
            return None
        return view

    async def view(self, study_uid: str, series_uid: str) -> SeriesView:
        """Return a checked view of the series.

        Raises:
            NotFound: no such series in the study.
        """
        view = self.fresh(study_uid, series_uid)
        return view if view is not None else await self._join(study_uid, series_uid)

    async def place(self, study_uid: str, series_uid: str, sop_uid: str) -> Place:
        """Return one instance's place.

        Raises:
            NotFound: no such instance in the series.
        """
        view = await self.view(study_uid, series_uid)
        place = view.places.get(sop_uid)
        if place is None and self.clock() - view.loaded_at_s > self.ttl_s / 4:
            # It may have arrived since; asked of the index at most a few times a second.
            view.checked_at_s = -self.ttl_s
            view.loaded_at_s = -1.0
            place = (await self._join(study_uid, series_uid)).places.get(sop_uid)
        if place is None:
            raise NotFound(f"no instance {sop_uid} in series {series_uid} of study {study_uid}")
        return place

    def forget(self, study_uid: str) -> None:
        """Drop the views of a study (it was deleted through this process)."""
        for key in [key for key in self._views if key[0] == study_uid]:
            self._instances -= len(self._views.pop(key).places)

    async def _join(self, study_uid: str, series_uid: str) -> SeriesView:
        """Wait for the one flight that checks this series."""
        key = (study_uid, series_uid)
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._check(key, self._views.get(key)))
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        # Shielded: a client that goes away must not cancel what others wait for.
        return await asyncio.shield(flight)

    async def _check(self, key: tuple[str, str], old: SeriesView | None) -> SeriesView:
        try:
            view = await asyncio.to_thread(self._checked, key, old)
        except NotFound:
            self.forget(key[0])
            raise
        replaced = self._views.pop(key, None)
        self._instances += len(view.places) - (len(replaced.places) if replaced else 0)
        self._views[key] = view
        while self._instances > self.most_instances and len(self._views) > 1:
            _, dropped = self._views.popitem(last=False)
            self._instances -= len(dropped.places)
        return view

    def _checked(self, key: tuple[str, str], old: SeriesView | None) -> SeriesView:
        study_uid, series_uid = key
        now = self.clock()
        self.services.touched([study_uid])
        if old is not None and old.loaded_at_s >= 0:
            state = self.services.series_state(study_uid, series_uid)
            if state and state == old.state:
                old.checked_at_s = now
                return old
        return load_series(self.services, study_uid, series_uid, old.packs if old else (), now)
