"""DERIVE: a lossy object beside each instance for which a rule wants one (FEATURES A6).

A task reads one instance, encodes its frames, measures what was lost, and writes a new Part 10 file
onto an image tier as an edge does: a marker first, then the file, durably. The files are registered
together with the report of the attempt, and are from then on objects like any other. What cannot be
derived is left out, with the reason; what is there already is not made again.

An attempt that ends without its report removes its files. One whose process was killed leaves its
marker: the node's next start registers what lies there, which gives the same objects.
"""

from __future__ import annotations

import hashlib
import logging
import struct
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from raypacs import dicom, layout
from raypacs.codec import lossy
from raypacs.codec.pixel_layout import PixelLayout, sample_values
from raypacs.config import TierSettings
from raypacs.errors import (
    AlreadyExists,
    MalformedInstance,
    NotFound,
    RaypacsError,
    TierFull,
    TierUnavailable,
    UnsupportedPixels,
)
from raypacs.policy import deriving
from raypacs.policy.deriving import Derivation
from raypacs.records import InstanceRecord, Lease, WorkResult
from raypacs.storage.site import Mounted
from raypacs.storage.tier import Tier
from raypacs.uids import HTJ2K_GENERAL
from raypacs.work.derived_header import Measured, derived_header
from raypacs.work.frame_reader import FrameReader
from raypacs.work.headers import explicit_header
from raypacs.work.icons import with_native_icons
from raypacs.work.run import Site, TaskFailure, Tasks, settings_for
from raypacs.work.source import Scratch, Source, find_tier

_log = logging.getLogger(__name__)
_WHOLE_BYTES = 16 * 1024 * 1024  # a larger object is read by ranges
_LOSSY_IMAGE_COMPRESSION = 0x00282110
_PIXEL_DATA = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"
_REASONS = 3  # told in the warning of the work item; the rest is counted
_NOT_DERIVED = (UnsupportedPixels, MalformedInstance)
# What a decoder may throw at damaged data that nobody foresaw.
_UNFORESEEN = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError),
    *(BufferError, struct.error),
)


@dataclass(frozen=True, slots=True)
class DeriveContext:
    """What every task of one DERIVE shares.

    ``tiers`` are all tiers an instance may lie on; ``targets``, in this order, those that are
    written to. ``boot`` names the attempt in markers.
    """

    token: str
    boot: str
    site_id: str
    tiers: tuple[TierSettings, ...]
    targets: tuple[TierSettings, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An instance of which nothing was made, and why."""

    sop_instance_uid: str
    reason: str


class DeriveRun:
    """One leased DERIVE of a study."""

    def __init__(self, lease: Lease, site: Site) -> None:
        self._lease, self._site = lease, site
        self._context: DeriveContext | None = None
        self._out: dict[str, Derivation] = {}  # by SOP Instance UID of the source: not heard of yet
        self._made: list[InstanceRecord] = []

    def run(self, tasks: Tasks) -> WorkResult:
        """Make what the rules want and the study does not have yet."""
        records = [stored.record for stored in self._site.instances(self._lease.study_uid)]
        compression = settings_for(self._site, self._lease.study_uid).compression
        orders = deriving.wanted(records, compression)
        if not orders:
            return WorkResult()
        targets = self._targets()
        if not targets:
            return WorkResult(error="waits for a tier: no image tier takes objects", waits=True)
        self._context = context = DeriveContext(
            token=self._lease.token,
            boot=f"{self._site.boot}-derive-{self._lease.token}",
            site_id=self._site.site_id(),
            tiers=self._site.settings.tiers,
            targets=targets,
        )
        self._out = {one.record.sop_instance_uid: one for one in orders}
        for uid, one in self._out.items():
            slim = replace(one, record=replace(one.record, attributes={}))
            tasks.submit(uid, derive_instance, slim, context)
        result = self._finish(tasks)
        if result.waits:
            for tier in targets:
                self._site.refused(tier.name)
        return result

    def clean_up(self, *, reported: bool) -> None:
        """Remove what was written and is not in the index, then the markers."""
        del reported  # the index tells: a report may count whose answer was not heard
        context = self._context
        if context is None:
            return
        stored = self._site.instances(self._lease.study_uid)
        kept = {(one.record.tier, one.record.path) for one in stored}
        places = {(record.tier, record.path) for record in self._made}
        places |= {
            (tier.name, _path(one, context))
            for one in self._out.values()
            for tier in context.targets
        }
        for name, path in sorted(places - kept):
            _remove(find_tier(context.tiers, name), path, study_uid=self._lease.study_uid)
        for target in context.targets:
            tier = find_tier(context.tiers, target.name)
            _remove(tier, layout.intake_marker(context.boot, self._lease.study_uid))

    def _targets(self) -> tuple[TierSettings, ...]:
        """Return the image tiers that may be written to now, in the order in which they fill."""
        room = self._site.available_bytes()
        return tuple(
            sorted(
                (
                    tier
                    for tier in self._site.settings.tiers
                    if tier.role == "image" and tier.takes_new and room.get(tier.name, 0) > 0
                ),
                key=lambda tier: tier.order,
            )
        )

    def _finish(self, tasks: Tasks) -> WorkResult:
        left: list[LeftOut] = []
        for uid, value in tasks.finished():
            if isinstance(value, TaskFailure) and not value.crashed:
                late = [one for one in tasks.cancel() if isinstance(one, InstanceRecord)]
                self._made += late
                return replace(value.as_result(), records=tuple(self._made))
            if isinstance(value, TaskFailure):
                left.append(LeftOut(uid, "a decoder crashed on it"))
                continue
            del self._out[uid]
            if isinstance(value, LeftOut):
                left.append(value)
            else:
                self._made.append(value)
        return WorkResult(records=tuple(self._made), warning=_warning(left))


def _warning(left: Sequence[LeftOut]) -> str:
    """Say what was left out, the most frequent reasons first."""
    if not left:
        return ""
    reasons = Counter(one.reason for one in left).most_common()
    told = "; ".join(f"{count}: {reason}" for reason, count in reasons[:_REASONS])
    return f"nothing lossy was made of {len(left)} instances ({told})"


def derive_instance(wanted: Derivation, context: DeriveContext) -> InstanceRecord | LeftOut:
    """Make and write the object that a rule wants of an instance; safe to repeat.

    Raises:
        NotFound, TierUnavailable: the instance cannot be read.
        TierFull, TierUnavailable: no image tier takes the object.
    """
    uid = wanted.record.sop_instance_uid
    try:
        data = _derived(wanted, find_tier(context.tiers, wanted.record.tier))
        record = _described(data, context)
    except (*_NOT_DERIVED, *_UNFORESEEN) as exc:
        if isinstance(exc, RaypacsError):
            if not isinstance(exc, _NOT_DERIVED):
                raise
            return LeftOut(uid, str(exc))
        _log.exception("nothing lossy made", extra={"sop": uid})
        return LeftOut(uid, f"cannot be transcoded: {type(exc).__name__}")
    return replace(record, tier=_put(data, record, context))


def _derived(wanted: Derivation, tier: Tier) -> bytes:
    """Return the new Part 10 file."""
    record = wanted.record
    pixels = PixelLayout.of(record)
    with Source(tier, record, Scratch(), whole_bytes=_WHOLE_BYTES) as source:
        header = source.header()
        if header.text(_LOSSY_IMAGE_COMPRESSION) == "01":
            raise UnsupportedPixels("compressed with loss before, as (0028,2110) says")
        if source.pixel_tag() != dicom.PIXEL_DATA:
            raise UnsupportedPixels("floating-point samples")
        frames = _encoded(FrameReader(source, pixels), pixels, wanted)
        photometric = pixels.decoded_photometric
        raw = pixels.decoded_bytes * pixels.frames
        text = derived_header(
            explicit_header(
                header,
                photometric=photometric,
                interleaved=pixels.samples > 1,
                high_bit=pixels.bits_stored - 1 if pixels.shift else None,
            ),
            wanted,
            _measured(frames, raw),
            photometric="YBR_ICT" if photometric == "RGB" else photometric,
        )
        if dicom.is_encapsulated(record.transfer_syntax_uid):
            text = with_native_icons(text, record.transfer_syntax_uid)
    meta = dicom.file_meta(
        record.sop_class_uid, wanted.sop_instance_uid, HTJ2K_GENERAL, deriving.SOURCE
    )
    return b"".join([meta, text, *_encapsulated([frame.data for frame in frames])])


def _encoded(
    reader: FrameReader, pixels: PixelLayout, wanted: Derivation
) -> list[lossy.LossyFrame]:
    return [
        lossy.encode(
            sample_values(reader.read(number), pixels),
            ratio=wanted.rule.ratio,
            psnr_db=wanted.rule.psnr_db,
            bits_stored=pixels.bits_stored,
            signed=pixels.signed,
            colour_transform=pixels.decoded_photometric == "RGB",
        )
        for number in range(pixels.frames)
    ]


def _measured(frames: Sequence[lossy.LossyFrame], raw_bytes: int) -> Measured:
    return Measured(
        ratio=raw_bytes / sum(len(frame.data) for frame in frames),
        psnr_db=min(frame.loss.psnr_db for frame in frames),
        max_error=max(frame.loss.max_error for frame in frames),
    )


def _encapsulated(codes: Iterable[bytes]) -> list[bytes]:
    """Return Pixel Data of one fragment a frame, with a Basic Offset Table (PS3.5 annex A.4)."""
    padded = [code + b"\0" * (len(code) % 2) for code in codes]
    offsets = [0]
    for code in padded[:-1]:
        offsets.append(offsets[-1] + 8 + len(code))
    # An empty table is allowed, and all there is for offsets beyond 32 bits.
    table = struct.pack(f"<{len(offsets)}I", *offsets) if offsets[-1] < 1 << 32 else b""
    parts = [_PIXEL_DATA, _ITEM, struct.pack("<I", len(table)), table]
    for code in padded:
        parts += [_ITEM, struct.pack("<I", len(code)), code]
    return [*parts, _END]


def _described(data: bytes, context: DeriveContext) -> InstanceRecord:
    """Describe a new object as an edge describes what it receives; its tier is not known yet."""
    part10 = dicom.split_part10(data)
    record = dicom.describe(
        data,
        transfer_syntax_uid=part10.transfer_syntax_uid,
        dataset_offset=part10.dataset_offset,
        tier="",
        path="",
        size_bytes=len(data),
        sha256=hashlib.sha256(memoryview(data)[part10.dataset_offset :]).hexdigest(),
        source=deriving.SOURCE,
        received_at_s=time.time(),
    )
    path = layout.instance(
        record.study_uid, record.series_uid, record.sop_instance_uid, context.token
    )
    return replace(record, path=path)


def _path(wanted: Derivation, context: DeriveContext) -> str:
    return layout.instance(
        wanted.record.study_uid, wanted.series_uid, wanted.sop_instance_uid, context.token
    )


@lru_cache(maxsize=2)
def _mounted(site_id: str) -> Mounted:
    return Mounted(site_id)


def _put(data: bytes, record: InstanceRecord, context: DeriveContext) -> str:
    """Write an object durably onto the first target that takes it; return the tier's name.

    Raises:
        TierFull, TierUnavailable: none did.
    """
    last: RaypacsError = TierFull("no image tier takes new objects")
    for target in context.targets:
        try:
            tier = find_tier(context.tiers, target.name)
            if not _mounted(context.site_id)(tier):
                last = TierUnavailable(f"tier {tier.name} is not mounted", tier=tier.name)
                continue
            _mark(tier, layout.intake_marker(context.boot, record.study_uid))
            # A task that was cut off after writing leaves its file.
            if tier.exists(record.path):
                tier.delete(record.path)
            tier.put_durable(record.path, data)
        except (TierFull, TierUnavailable) as exc:
            last = exc
            continue
        return tier.name
    raise last


def _mark(tier: Tier, path: str) -> None:
    """Leave the attempt's marker, one for all its tasks."""
    if tier.exists(path):
        return
    try:
        tier.put_durable(path, b"")
    except AlreadyExists:
        return  # another task of it was faster


def _remove(tier: Tier, path: str, *, study_uid: str = "") -> None:
    try:
        tier.delete(path)
    except NotFound:
        return
    if study_uid:
        tier.prune(layout.study_prefix(study_uid))
