"""The values that travel between the parts: frozen, picklable, no I/O.

Times are seconds since the Unix epoch in UTC (``_s``); sizes are bytes (``_bytes``); paths are
object paths relative to a tier's URL, always with ``/``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """What became of a received object."""

    STORED = "stored"
    KNOWN = "known"  # identical bytes were there already
    CONFLICT = "conflict"  # same SOP Instance UID, different bytes: kept aside
    QUARANTINED = "quarantined"  # malformed: kept aside with its reason
    REFUSED = "refused"  # nothing kept (tier full, not authorised)
    UNDECIDED = "undecided"  # known or a conflict: only checksums can tell, and one is missing


OUTCOMES = tuple(outcome for outcome in Outcome if outcome is not Outcome.UNDECIDED)
"""What a sender is told: the index's own question is none of them."""


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One stored instance, as the edge that received it describes it to the index.

    ``sha256`` is over the data set bytes as received (without preamble and file meta), so the
    same data set sent through another door is recognised. It is '' for an instance that was adopted
    and not read whole yet; ``received_at_s`` of an adopted one is the time of its file.
    ``attributes`` maps DICOM keywords to text (person names decoded, values joined by a backslash)
    for search (PS3.18 section 10.6).
    ``pixel_offset_bytes`` is the offset of the Pixel Data value in the stored file, -1 without
    pixels; ``pixel_length_bytes`` is -1 for encapsulated (undefined length).
    """

    study_uid: str
    series_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    tier: str
    path: str
    size_bytes: int
    sha256: str
    dataset_offset_bytes: int
    source: str
    received_at_s: float
    modality: str = ""
    instance_number: int | None = None
    rows: int = 0
    columns: int = 0
    frames: int = 0
    samples: int = 0
    bits_allocated: int = 0
    bits_stored: int = 0
    high_bit: int = 0
    pixel_representation: int = 0
    photometric: str = ""
    planar_configuration: int = 0
    pixel_offset_bytes: int = -1
    pixel_length_bytes: int = 0
    attributes: dict[str, str] = field(default_factory=dict)
    peer: str = ""
    """Address of who sent it, as the edge saw it; '' for other doors."""


@dataclass(frozen=True, slots=True)
class AsideRecord:
    """An object kept aside: a conflict or a quarantined one."""

    outcome: Outcome
    tier: str
    path: str
    size_bytes: int
    reason: str
    source: str
    received_at_s: float
    study_uid: str = ""
    sop_instance_uid: str = ""
    sha256: str = ""

    @classmethod
    def conflict(cls, record: InstanceRecord, reason: str) -> AsideRecord:
        """Return an instance as one whose SOP Instance UID other bytes have."""
        return cls(
            outcome=Outcome.CONFLICT,
            tier=record.tier,
            path=record.path,
            size_bytes=record.size_bytes,
            reason=reason,
            source=record.source,
            received_at_s=record.received_at_s,
            study_uid=record.study_uid,
            sop_instance_uid=record.sop_instance_uid,
            sha256=record.sha256,
        )


@dataclass(frozen=True, slots=True)
class Registered:
    """The index's answer for one InstanceRecord.

    STORED: this path is the served one. KNOWN: identical bytes are served from another path; the
    edge may delete the copy it just wrote. CONFLICT: other bytes are served; this copy is kept.
    REFUSED: the study was deleted meanwhile and these bytes go with it. QUARANTINED: the index
    cannot hold the record; its bytes are kept and listed as kept aside. UNDECIDED: nothing was
    changed; tell the checksums of this and of the served one, and ask again.
    """

    sop_instance_uid: str
    path: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on one item: every report carries it (items are leased, never owned).

    ``token`` is random and part of every object path the attempt writes, so paths are never
    reused and a dead attempt's objects can be told apart.
    """

    item_id: int
    kind: str
    study_uid: str
    generation: int
    attempt: int
    token: str
    epoch: int
    node: str
    expires_at_s: float
    priority: int = 10
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Poll:
    """What a dispatcher tells the master with each poll: its heartbeat as well.

    ``running``: (item id, token) of the leases it holds; ``free``: how many more it would run.
    """

    node: str
    boot: str
    kinds: tuple[str, ...]
    running: tuple[tuple[int, str], ...]
    free: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """The master's answer to a Poll.

    ``stop``: tokens that are not current any more (cancelled, expired, given to another): end the
    work, leave nothing half-written, report nothing. ``renewed``: (token, expires_at_s, priority),
    the priority as it is now.
    """

    leases: tuple[Lease, ...] = ()
    renewed: tuple[tuple[str, float, int], ...] = ()
    stop: tuple[str, ...] = ()
    poll_after_s: float = 0.5


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """The master's answer to a node's heartbeat.

    ``problems``: why it gets no work, or not all of it. ``take_master``: it was asked to take the
    master over (`raypacs master move`).
    """

    problems: tuple[str, ...] = ()
    take_master: bool = False


@dataclass(frozen=True, slots=True)
class PreparedInstance:
    """How one instance went into the web cache: 'htj2k' or 'copied', with the reason."""

    sop_instance_uid: str
    form: str
    reason: str
    frames: int
    raw_bytes: int
    prepared_bytes: int
    transfer_syntax_uid: str
    lossless_proven: bool


@dataclass(frozen=True, slots=True)
class PreparedSeries:
    """One published pack (with its header sidecar) of one series."""

    study_uid: str
    series_uid: str
    token: str
    tier: str
    pack_path: str
    header_path: str
    pack_bytes: int
    header_bytes: int
    instances: tuple[PreparedInstance, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class ArchivedSeries:
    """A container of a series in a library: durable, read back, and found whole.

    ``based_on``: path of the manifest it was made of; ``generation``: the lease's. ``form``:
    ``as received`` or ``htj2k``.
    """

    study_uid: str
    series_uid: str
    tier: str
    path: str
    token: str
    form: str
    sha256: str
    size_bytes: int
    instance_count: int
    based_on: str


@dataclass(frozen=True, slots=True)
class MovedSeries:
    """A series whose instances lie elsewhere now, as its new manifest says; durable, compared.

    ``based_on``: path of the manifest that it takes the place of; the same as ``manifest_path``
    where that stays. ``tier_bytes``: (tier, objects, bytes) of all its instances by where they lie
    now, on image tiers. ``objects``: (tier, path, bytes) of those that the attempt wrote.
    ``left``: (tier, objects, bytes) of tiers where instances of ``based_on`` lay and where none of
    those objects is kept. ``is_lost``: ``based_on`` cannot be read, a container told its rows; what
    it listed beyond them nobody knows.
    """

    study_uid: str
    series_uid: str
    manifest_tier: str
    manifest_path: str
    manifest_bytes: int
    based_on: str
    tier_bytes: tuple[tuple[str, int, int], ...]
    objects: tuple[tuple[str, str, int], ...] = ()
    left: tuple[tuple[str, int, int], ...] = ()
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class StudyPlaces:
    """Where the index says that the instances of a study lie.

    ``manifests``: (series UID, tier, path, bytes) of those in force, none of an open study.
    ``gone``: paths of manifests whose instances left the image tiers, or are about to. ``tiers``:
    image tiers with a copy.
    """

    manifests: tuple[tuple[str, str, str, int], ...] = ()
    gone: frozenset[str] = frozenset()
    tiers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class MovedAside:
    """An object kept aside that was copied to another tier, read back, and found equal.

    ``explained``: path of the reason beside it, where it has one; ``from_explained``: of the old
    one.
    """

    from_tier: str
    from_path: str
    tier: str
    path: str
    explained: str = ""
    from_explained: str = ""


@dataclass(frozen=True, slots=True)
class CheckedContainer:
    """What reading a library's container showed: ``why`` it cannot be relied on, '' if it can."""

    tier: str
    path: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class ContainerRef:
    """A container of a series as the index knows it.

    ``damaged``: why it cannot be relied on; ``verified_s``: when it was last read whole, 0 for one
    that was found and not read yet.
    """

    study_uid: str
    series_uid: str
    tier: str
    path: str
    form: str
    sha256: str
    size_bytes: int
    instance_count: int
    generation: int
    damaged: str = ""
    verified_s: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkResult:
    """What a dispatcher reports for a lease: packs published, or why not, and if to try again.

    ``waits``: the attempt found no room or no tier, as ``error`` says; it does not count as a try.
    ``warning``: done, with something an operator should read (state WARNING).
    ``died``: worker processes died under it, again and again; that counts as a death of the
    attempt, not as a try. ``records``: objects of the study that the attempt made and wrote
    durably; they are registered together with the end of the attempt. ``archived``, ``moved`` and
    ``checked``: what ARCHIVE, MIGRATE or RESTORE, and VERIFY did; they count also where the attempt
    failed on something else. ``restored``: instances of a study that is not sealed, as they lie on
    image tiers again.
    """

    packs: tuple[PreparedSeries, ...] = ()
    error: str = ""
    retryable: bool = True
    waits: bool = False
    warning: str = ""
    died: bool = False
    records: tuple[InstanceRecord, ...] = ()
    archived: tuple[ArchivedSeries, ...] = ()
    moved: tuple[MovedSeries, ...] = ()
    checked: tuple[CheckedContainer, ...] = ()
    restored: tuple[InstanceRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class PackRef:
    """Where one published pack of a series lies."""

    tier: str
    pack_path: str
    header_path: str
    token: str


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """The read side's view of an instance: its record, and how it was prepared ('' = not yet)."""

    record: InstanceRecord
    form: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node says of itself when it joins and with each heartbeat."""

    name: str
    host: str
    boot: str
    roles: tuple[str, ...]
    cores: int
    dicom_port: int
    http_port: int
    version: str
    bootstrap_hash: str
    pid: int
    ray_node_id: str = ""
    tiers: tuple[str, ...] | None = None
    """Names of the tiers it reaches; None until it has looked for the first time."""
    kinds: tuple[str, ...] = ("PREPARE",)
    """Kinds of work it can do."""
