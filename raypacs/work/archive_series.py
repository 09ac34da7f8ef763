"""One series into one library: written durably, read back whole from there, and compared.

Source bytes are compared with the index's SHA-256 while they are read, so what is damaged in a
cache never becomes an archived copy. Runs as a task of its own; safe to repeat.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from raypacs.config import TierSettings
from raypacs.errors import (
    AlreadyExists,
    ContainerCorrupt,
    ManifestCorrupt,
    NotFound,
    RaypacsError,
    TierFull,
    TierUnavailable,
)
from raypacs.records import ArchivedSeries, CheckedContainer, ContainerRef, InstanceRecord
from raypacs.storage import manifest
from raypacs.storage.adopted import check_unchanged
from raypacs.storage.checksums import pieces
from raypacs.storage.container import (
    AS_RECEIVED,
    HTJ2K,
    Container,
    ContainerWriter,
    Incoming,
    forget_cached,
)
from raypacs.storage.site import belongs
from raypacs.storage.tier import Buffer, Tier
from raypacs.work.recompress import as_received, differs, recompressed, record_of
from raypacs.work.source import find_tier

# Larger instances are read twice, by ranges: their CRC-32 stands before their bytes.
_WHOLE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SeriesOrder:
    """A series to archive: ``manifest`` (tier, path) says of what, ``path`` where to.

    ``others``: containers of it in any library, from which instances are read that lie nowhere
    else. ``bytes_per_s`` 0: as fast as it goes. ``site_id``: whose marker the library must carry,
    as a folder whose disk is not mounted looks like an empty library ('': any will do).
    """

    study_uid: str
    series_uid: str
    token: str
    library: str
    path: str
    manifest: tuple[str, str]
    form: str
    others: tuple[ContainerRef, ...] = ()
    bytes_per_s: float = 0.0
    site_id: str = ""


@dataclass(frozen=True, slots=True)
class NotArchived:
    """Why a series is not in a library; ``library`` '': it is not the library's fault."""

    series_uid: str
    library: str
    why: str
    retryable: bool = True
    waits: bool = False
    checked: tuple[CheckedContainer, ...] = ()


@dataclass(frozen=True, slots=True)
class Rescued:
    """A series that is proven; containers that were to give instances of it are damaged."""

    archived: ArchivedSeries
    checked: tuple[CheckedContainer, ...]


class _SourceLost(RaypacsError):
    """An instance cannot be read, or is not what was received."""

    def __init__(self, why: str, *, waits: bool = False) -> None:
        super().__init__(why)
        self.waits = waits


def archive_series(
    order: SeriesOrder, tiers: tuple[TierSettings, ...]
) -> ArchivedSeries | Rescued | NotArchived:
    """Write a series into a library and prove it; say why not, where it cannot be."""
    try:
        library = mounted(find_tier(tiers, order.library), order.site_id)
    except TierUnavailable as exc:
        why = f"library {order.library}: {exc}"
        return NotArchived(order.series_uid, order.library, why, waits=True)
    try:
        told = manifest.decode(find_tier(tiers, order.manifest[0]).read(order.manifest[1]))
    except NotFound as exc:  # reopened meanwhile: the next attempt sees what there is then
        return _failed(order, f"its manifest is gone: {exc}")
    except ManifestCorrupt as exc:
        return _failed(order, f"{order.manifest[1]} on {order.manifest[0]}: {exc}", retryable=False)
    except TierUnavailable as exc:
        return _failed(order, str(exc), waits=True)
    source = _Instances(order, tiers)
    outcome = _tried(order, library, told, source)
    damaged = tuple(source.damaged.values())
    if isinstance(outcome, NotArchived):
        return replace(outcome, checked=damaged)
    return Rescued(outcome, damaged) if damaged else outcome


def _tried(
    order: SeriesOrder, library: Tier, told: manifest.Manifest, source: _Instances
) -> ArchivedSeries | NotArchived:
    pace = pacing(order.bytes_per_s)
    writer = ContainerWriter(order.study_uid, order.series_uid, dict(told.attributes))
    try:
        return _written(order, library, writer, source.incoming(told.rows()), pace)
    except _SourceLost as exc:
        return _failed(order, str(exc), retryable=False, waits=exc.waits)
    except (TierFull, TierUnavailable) as exc:
        why = f"library {order.library}: {exc}"
        return NotArchived(order.series_uid, order.library, why, waits=True)
    except (ContainerCorrupt, NotFound) as exc:
        why = f"{order.path} on {order.library}, read back: {exc}"
        return NotArchived(order.series_uid, order.library, why)


def _written(
    order: SeriesOrder,
    library: Tier,
    writer: ContainerWriter,
    instances: Iterable[Incoming],
    pace: Callable[[int], None],
) -> ArchivedSeries:
    chunks = _paced(writer.chunks(instances), pace)
    try:
        library.put_durable(order.path, chunks)
    except AlreadyExists:
        # The process died after it wrote; the same bytes come again, or the proof says so.
        for _ in chunks:
            pass
    prove(library, order.path, writer.sha256, pace)
    forms = {member.form for member in writer.members}
    return ArchivedSeries(
        study_uid=order.study_uid,
        series_uid=order.series_uid,
        tier=order.library,
        path=order.path,
        token=order.token,
        form=HTJ2K if HTJ2K in forms else AS_RECEIVED,
        sha256=writer.sha256,
        size_bytes=writer.size_bytes,
        instance_count=len(writer.members),
        based_on=order.manifest[1],
    )


def prove(
    library: Tier, path: str, sha256: str, pace: Callable[[int], None] = lambda size: None
) -> None:
    """Read a container whole, from the disk and not from memory, and compare all that it has.

    Raises:
        ContainerCorrupt: what is damaged. NotFound, TierUnavailable: it cannot be read.
    """
    forget_cached(library, path)
    Container(library, path).check(differs, sha256, pace)


def mounted(tier: Tier, site_id: str) -> Tier:
    """Return the tier if it carries the site's marker. Raises TierUnavailable: it does not."""
    if site_id and not belongs(tier, site_id):
        raise TierUnavailable(f"tier {tier.name} is not mounted", tier=tier.name)
    return tier


def check_containers(
    refs: tuple[ContainerRef, ...], tiers: tuple[TierSettings, ...], site_id: str
) -> list[CheckedContainer]:
    """Read containers whole; say of each why it cannot be relied on, '' if it can.

    Raises:
        TierUnavailable: a library cannot be read: that says nothing of what it holds.
    """
    found = []
    for ref in refs:
        library = mounted(find_tier(tiers, ref.tier), site_id)
        try:
            prove(library, ref.path, ref.sha256)
            why = ""
        except NotFound:
            mounted(library, site_id)  # not unmounted meanwhile
            why = "not there"
        except ContainerCorrupt as exc:
            why = str(exc)
        found.append(CheckedContainer(ref.tier, ref.path, why))
    return found


@dataclass(frozen=True, slots=True)
class CheckedSeries:
    """What reading a found container whole showed; ``archived`` counts if it is ``sound``."""

    archived: ArchivedSeries
    checked: tuple[CheckedContainer, ...]

    @property
    def sound(self) -> bool:
        """Whether it can be relied on."""
        return not any(one.why for one in self.checked)


def check_series(
    ref: ContainerRef,
    archived: ArchivedSeries,
    tiers: tuple[TierSettings, ...],
    site_id: str,
) -> CheckedSeries | NotArchived:
    """Read a container whole that was found in a library; say so if that cannot be read now."""
    try:
        return CheckedSeries(archived, tuple(check_containers((ref,), tiers, site_id)))
    except TierUnavailable as exc:
        return NotArchived("", ref.tier, f"library {ref.tier}: {exc}", waits=True)


def pacing(bytes_per_s: float) -> Callable[[int], None]:
    """Return what to call with each number of bytes: it sleeps as long as the rate wants."""
    if bytes_per_s <= 0:
        return lambda size: None
    free_s = time.monotonic()

    def pace(size: int) -> None:
        nonlocal free_s
        now = time.monotonic()
        free_s = max(free_s, now) + size / bytes_per_s  # no burst after a pause
        time.sleep(free_s - now)

    return pace


def _paced(chunks: Iterable[Buffer], pace: Callable[[int], None]) -> Iterator[Buffer]:
    for chunk in chunks:
        pace(len(chunk))
        yield chunk


def _failed(
    order: SeriesOrder, why: str, *, retryable: bool = True, waits: bool = False
) -> NotArchived:
    return NotArchived(order.series_uid, "", why, retryable=retryable, waits=waits)


class _Instances:
    """Reads the instances of a series, each when its turn comes, and checks them."""

    def __init__(self, order: SeriesOrder, tiers: tuple[TierSettings, ...]) -> None:
        self._order, self._tiers = order, tiers
        self.damaged: dict[tuple[str, str], CheckedContainer] = {}
        """Containers that did not give what they should, by tier and path."""

    def incoming(self, rows: Iterable[dict[str, Any]]) -> Iterator[Incoming]:
        """Yield them in the order of ``rows``; raises _SourceLost."""
        for row in rows:
            record = record_of(row)
            try:
                yield self._one(row, record)
            except TierUnavailable as exc:
                raise _SourceLost(f"{record.path} on {record.tier}: {exc}", waits=True) from exc

    def _one(self, row: dict[str, Any], record: InstanceRecord) -> Incoming:
        if self._order.form == HTJ2K and record.tier:
            try:
                return self._recompressed(row, record)
            except RaypacsError as exc:
                if isinstance(exc, TierUnavailable):
                    raise  # anything else says that it stays as received, if it is whole
        return self._as_received(row, record)

    def _recompressed(self, row: dict[str, Any], record: InstanceRecord) -> Incoming:
        found = recompressed(find_tier(self._tiers, record.tier), record)
        return Incoming(
            sop_instance_uid=record.sop_instance_uid,
            length=len(found.data),
            crc32=zlib.crc32(found.data),
            sha256=record.sha256,
            stored_sha256=hashlib.sha256(found.data).hexdigest(),
            form=HTJ2K,
            transfer_syntax_uid=found.transfer_syntax_uid,
            row=row,
            chunks=[found.data],
            original=found.original,
        )

    def _as_received(self, row: dict[str, Any], record: InstanceRecord) -> Incoming:
        """Read an instance once, wherever it is sound; larger ones are read again when written."""
        found = self._from_tier(record) or self._from_library(record)
        return Incoming(
            sop_instance_uid=record.sop_instance_uid,
            length=record.size_bytes,
            crc32=found.crc32,
            sha256=found.sha256,
            stored_sha256=found.stored_sha256,
            form=AS_RECEIVED,
            transfer_syntax_uid=record.transfer_syntax_uid,
            row=row,
            chunks=found.kept or found.again,
        )

    def _from_tier(self, record: InstanceRecord) -> _Read | None:
        """Read an instance from where its row says; None: it is not there."""
        if not record.tier:
            return None
        try:
            tier = find_tier(self._tiers, record.tier)
            check_unchanged(tier, record)
            tier.size(record.path)
            found = _Read.of(record, lambda: pieces(tier, record.path, 0, record.size_bytes))
        except NotFound:
            return None
        if found.why:
            raise _SourceLost(
                f"instance {record.sop_instance_uid} is damaged, so it is not archived: "
                f"{record.path} on {record.tier}: {found.why}"
            )
        return found

    def _from_library(self, record: InstanceRecord) -> _Read:
        """Read an instance from the first container that gives it as it was received."""
        uid = record.sop_instance_uid
        told = [f"{record.path} on {record.tier}"] if record.tier else []
        is_away = False
        for ref in self._order.others:
            try:
                container = Container(find_tier(self._tiers, ref.tier), ref.path)
                container.member(uid)
                found = _Read.of(record, partial(self._pieces_of, ref, container, uid))
                why = found.why
            except TierUnavailable as exc:
                is_away, why = True, str(exc)
            except NotFound as exc:
                why = str(exc)
            except ContainerCorrupt as exc:
                why = self._note(ref, exc)
            if not why:
                return found
            told.append(f"{ref.path} on {ref.tier}: {why}")
        where = "; ".join(told) or "nowhere"
        raise _SourceLost(
            f"instance {uid} is not there, so it is not archived: {where}", waits=is_away
        )

    def _pieces_of(self, ref: ContainerRef, container: Container, uid: str) -> Iterator[bytes]:
        """Yield an instance from a container. Raises ContainerCorrupt, having noted it."""
        try:
            yield from as_received(container, uid)
        except ContainerCorrupt as exc:
            self._note(ref, exc)
            raise

    def _note(self, ref: ContainerRef, exc: ContainerCorrupt) -> str:
        found = CheckedContainer(ref.tier, ref.path, str(exc))
        return self.damaged.setdefault((ref.tier, ref.path), found).why


@dataclass(frozen=True, slots=True)
class _Read:
    """What reading an instance gave; ``why``: how it is not what was received.

    ``kept``: its bytes, of a small one. ``again`` yields them once more.
    """

    kept: list[bytes]
    again: Iterable[bytes]
    crc32: int
    sha256: str
    stored_sha256: str
    why: str

    @classmethod
    def of(cls, record: InstanceRecord, read: Callable[[], Iterator[bytes]]) -> _Read:
        """Read an instance whole. Raises as ``read`` does."""
        kept: list[bytes] = []
        whole, dataset = hashlib.sha256(), hashlib.sha256()
        crc, at = 0, 0
        for piece in read():
            whole.update(piece)
            dataset.update(piece[max(0, record.dataset_offset_bytes - at) :])
            crc = zlib.crc32(piece, crc)
            at += len(piece)
            if record.size_bytes <= _WHOLE_BYTES:
                kept.append(piece)
        why = ""
        if at != record.size_bytes:
            why = f"{at} bytes instead of {record.size_bytes}"
        elif record.sha256 and dataset.hexdigest() != record.sha256:
            why = "its SHA-256 differs from that at its arrival"
        return cls(kept, read(), crc, dataset.hexdigest(), whole.hexdigest(), why)
