"""Which instances get a lossy object beside them, and what that is called (FEATURES A6).

A rule of action `lossy` leaves the original as it is: a new object is made, in a series of its own.
Its UIDs follow from the source's and from what the rule asks for, so that whoever makes it again
makes the same one, and one that is there already is seen by its UID.

Pure: records and rules in, orders out.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from raypacs.compression import CompressionRule
from raypacs.policy import rules
from raypacs.records import InstanceRecord
from raypacs.uids import HTJ2K_GENERAL

SOURCE = "raypacs"
"""Source of what raypacs made itself: no rule makes anything of it again."""

MOST_BITS = 16
_NAMESPACE = uuid.UUID("6f1c1c0e-6f0f-5d3b-9a1e-8b1d7f6a2c55")
_CODEC = "HTJ2K irreversible 1"  # another number where the same rule is to give other objects
_PHOTOMETRIC = frozenset(
    {"MONOCHROME1", "MONOCHROME2", "RGB", "YBR_RCT", "YBR_FULL", "YBR_FULL_422"}
)
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# Their samples are measured or calculated values, or names: close to them is wrong.
_NO_PICTURES = {
    _STORAGE + "66.4": "a segmentation",
    _STORAGE + "66.7": "a label map",
    _STORAGE + "66.8": "a height map",
    _STORAGE + "30": "a parametric map",
    _STORAGE + "481.2": "a dose distribution",
}


@dataclass(frozen=True, slots=True)
class Derivation:
    """An object to be made: of which instance, by which rule, under which UIDs."""

    record: InstanceRecord
    rule: CompressionRule
    series_uid: str
    sop_instance_uid: str


def wanted(
    records: Iterable[InstanceRecord], compression: Iterable[CompressionRule]
) -> list[Derivation]:
    """Return what is to be made of the instances of a study, and is not among them yet."""
    every = list(records)
    there = {record.sop_instance_uid for record in every}
    return list(missing(every, compression, there))


def missing(
    records: Iterable[InstanceRecord],
    compression: Iterable[CompressionRule],
    there: Collection[str],
) -> Iterator[Derivation]:
    """Yield what is to be made of ``records`` and is not among the SOP Instance UIDs ``there``."""
    compression = tuple(compression)
    if any(rule.action == "lossy" for rule in compression):
        for record in records:
            found = derivation(record, compression)
            if found is not None and found.sop_instance_uid not in there:
                yield found


def derivation(record: InstanceRecord, compression: Iterable[CompressionRule]) -> Derivation | None:
    """Return what the rules ask to be made of an instance, None: nothing, or it cannot be."""
    rule = rules.first_match(record, compression)
    if rule is None or rule.action != "lossy" or obstacle(record):
        return None
    return Derivation(
        record,
        rule,
        _series_uid(record.series_uid, rule.ratio, rule.psnr_db),
        derived_uid(record.sop_instance_uid, rule),
    )


def obstacle(record: InstanceRecord) -> str:
    """Return why no lossy object is made of an instance, as far as the record tells; '' if it is.

    Only its header tells if it was compressed with loss before it was sent uncompressed.
    """
    if record.source == SOURCE:
        return "made by raypacs itself"
    if record.sop_class_uid in _NO_PICTURES:
        return f"{_NO_PICTURES[record.sop_class_uid]} is not a picture"
    choice = rules.choose(record)
    if choice.form == rules.COPIED:
        return choice.reason
    if choice.form != rules.HTJ2K:
        return "floating-point samples" if record.bits_stored == 0 else "1-bit samples"
    if record.photometric not in _PHOTOMETRIC:
        return f"Photometric Interpretation {record.photometric}"
    if record.bits_stored > MOST_BITS:
        return f"{record.bits_stored} bits a sample are too deep for lossy compression"
    return ""


def derived_uid(uid: str, rule: CompressionRule) -> str:
    """Return the UID that takes the place of ``uid`` in what a rule makes (PS3.5 section B.2)."""
    return _uid(uid, rule.ratio, rule.psnr_db)


def _uid(uid: str, ratio: float, psnr_db: float) -> str:
    asked = f"ratio {ratio:g} psnr {psnr_db:g} dB"
    return f"2.25.{uuid.uuid5(_NAMESPACE, f'{uid} {_CODEC} {asked}').int}"


_series_uid = lru_cache(maxsize=256)(_uid)  # that of one instance after the other


def marker(rule: CompressionRule) -> str:
    """Return what a series' description is marked with."""
    return f"[lossy {rule.ratio:g}:1]" if rule.ratio else f"[lossy {rule.psnr_db:g} dB]"


def explain(
    record: InstanceRecord, compression: Iterable[CompressionRule]
) -> dict[str, str | bool | float]:
    """Say which rule decides over an instance, and what would happen.

    Returns:
        ``rule`` ('': none matches), ``action``, ``form`` and ``reason`` of how it is prepared;
        where the action is `lossy` also ``derives``, and ``why_not`` or the new object's
        ``derived_sop_instance_uid`` and ``derived_series_uid``.
    """
    compression = tuple(compression)
    rule = rules.first_match(record, compression)
    choice = rules.choose(record, compression)
    told: dict[str, str | bool | float] = {
        "rule": rule.name if rule else "",
        "action": rule.action if rule else "htj2k",
        "form": choice.form,
        "reason": choice.reason,
    }
    if rule is None or rule.action != "lossy":
        return told
    found = derivation(record, compression)
    if found is None:
        return told | {"derives": False, "why_not": obstacle(record)}
    return told | {
        "derives": True,
        "transfer_syntax_uid": HTJ2K_GENERAL,
        "derived_sop_instance_uid": found.sop_instance_uid,
        "derived_series_uid": found.series_uid,
        "ratio": rule.ratio,
        "psnr_db": rule.psnr_db,
    }
