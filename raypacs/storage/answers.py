"""What the intake asks of the index, and what it answers to whoever brought an object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raypacs.records import AsideRecord, InstanceRecord, Outcome, Registered
from raypacs.storage.tier import Buffer

# DIMSE status of C-STORE (PS3.4 table B.2-1, PS3.7 annex C).
SUCCESS = 0x0000
DUPLICATE_SOP_INSTANCE = 0x0111
OUT_OF_RESOURCES = 0xA700
DATA_SET_MISMATCH = 0xA900


@dataclass(frozen=True, slots=True)
class IntakePorts:
    """What the intake asks of the index, as plain callables.

    ``known`` answers (sha256, transfer syntax UID, path) of the served instance or None.
    ``register`` and ``aside`` are idempotent. ``grant`` answers the bytes granted of a tier, 0
    when it is full. ``aside_known`` says if bytes (SOP Instance UID, sha256) are kept aside.
    ``known_sealed`` answers as ``known`` for an instance of a sealed series, found by its Study,
    Series and SOP Instance UID. ``register`` may leave out answers: those records wait.
    ``served`` answers for the same UIDs the record of the served instance; ``checksums`` is told
    the SHA-256 of such that had none, as they were adopted. ``other_sender`` is told the Study UID,
    source and address of who sent what was known already. ``in_library``: whether a series (Study
    and Series UID) left the image tiers and a library has it, proven.
    """

    known: Callable[[str], tuple[str, str, str] | None]
    register: Callable[[list[InstanceRecord]], list[Registered]]
    aside: Callable[[AsideRecord], None]
    grant: Callable[[str, int], int]
    aside_known: Callable[[str, str], bool] = lambda sop_instance_uid, sha256: False
    known_sealed: Callable[[str, str, str], tuple[str, str, str] | None] = lambda *uids: None
    served: Callable[[str, str, str], InstanceRecord | None] = lambda *uids: None
    checksums: Callable[[list[tuple[InstanceRecord, str]]], object] = lambda told: None
    other_sender: Callable[[str, str, str], object] = lambda study_uid, source, peer: None
    in_library: Callable[[str, str], bool] = lambda study_uid, series_uid: False


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of one object, with the DIMSE status to answer and a reason for people."""

    outcome: Outcome
    status: int
    reason: str = ""
    sop_instance_uid: str = ""
    sop_class_uid: str = ""
    study_uid: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    """One object as received: the parts that make its file, and what the sender said of it."""

    parts: tuple[Buffer, ...]
    dataset: Buffer
    size_bytes: int
    source: str
    received_at_s: float
    study_uid: str = ""
    sop_instance_uid: str = ""
    sop_class_uid: str = ""
