"""Storing over HTTP: STOW-RS (PS3.18 section 10.5) and the REST ingest, through the one intake.

Parts are read one at a time; a few are being made durable while the next one arrives.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterable
from typing import Any

from raypacs import dicom
from raypacs.errors import MalformedInstance
from raypacs.records import OUTCOMES, Outcome
from raypacs.storage.intake import Intake, Stored
from raypacs.web.multipart import Part, read_parts

# Failure Reason (0008,1197), PS3.18 table 10.5.3-2 and PS3.4 annex B.2.3.
PROCESSING_FAILURE = 0x0110
DUPLICATE = 0x0111
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
WRONG_STUDY = 0xC409

_TYPES = ("application/dicom",)
_IN_FLIGHT = 4
_STUDY_INSTANCE_UID = 0x0020000D


async def ingest(
    intake: Intake,
    content_type: str,
    chunks: AsyncIterable[bytes],
    *,
    source: str,
    limit_bytes: int,
    study_uid: str = "",
    peer: str = "",
) -> list[Stored]:
    """Store every part of a request body; outcomes in the order sent. ``peer``: who sends it.

    With ``study_uid`` instances of other studies are refused (PS3.18 section 10.5.1.1).

    Raises:
        Problem: 400 not multipart, 415 not DICOM.
    """
    done: list[Stored] = []
    flying: deque[asyncio.Task[Stored]] = deque()
    try:
        async for part in read_parts(content_type, chunks, limit_bytes=limit_bytes, types=_TYPES):
            flying.append(
                asyncio.create_task(
                    asyncio.to_thread(_store, intake, part, (source, peer), study_uid)
                )
            )
            if len(flying) >= _IN_FLIGHT:
                done.append(await flying.popleft())
        while flying:
            done.append(await flying.popleft())
    finally:
        # The request broke off: what is being stored is finished all the same.
        await asyncio.gather(*flying, return_exceptions=True)
    return done


def _store(intake: Intake, part: Part, sender: tuple[str, str], study_uid: str) -> Stored:
    kind = part.headers.get("content-type", _TYPES[0]).partition(";")[0].strip().lower()
    if part.oversize:
        return Stored(Outcome.REFUSED, OUT_OF_RESOURCES, "longer than max_instance_bytes")
    if kind not in _TYPES:
        return Stored(Outcome.REFUSED, CANNOT_UNDERSTAND, f"a part of type {kind!r}")
    if study_uid:
        refused = _of_other_study(part.body, study_uid)
        if refused is not None:
            return refused
    return intake.store_part10(part.body, source=sender[0], peer=sender[1])


def _of_other_study(data: bytes, study_uid: str) -> Stored | None:
    """Return the refusal of an instance that is not of the study; malformed ones go on."""
    try:
        meta = dicom.split_part10(data)
        if meta.transfer_syntax_uid in dicom.DEFLATED:
            header = dicom.inflated_header(data, meta.dataset_offset)
        else:
            header = dicom.scan(data, meta.transfer_syntax_uid, meta.dataset_offset)
        found = header.text(_STUDY_INSTANCE_UID)
    except MalformedInstance:
        return None
    if found == study_uid:
        return None
    return Stored(
        Outcome.REFUSED,
        WRONG_STUDY,
        f"of study {found}, not {study_uid}",
        meta.sop_instance_uid,
        meta.sop_class_uid,
        found,
    )


def _is_stored(stored: Stored) -> bool:
    return stored.outcome in (Outcome.STORED, Outcome.KNOWN)


def stow_answer(objects: list[Stored], root: str, study_uid: str) -> tuple[int, bytes]:
    """Return status and DICOM JSON body of a STOW-RS response (PS3.18 section 10.5.3).

    200 all stored, 202 some, 409 none; 507 none because there is no room.
    """
    stored = [item for item in objects if _is_stored(item)]
    failed = [item for item in objects if not _is_stored(item)]
    result: dict[str, Any] = {}
    studies = {item.study_uid for item in stored}
    if study_uid or len(studies) == 1:
        url = f"{root}/studies/{study_uid or studies.pop()}"
        result["00081190"] = {"vr": "UR", "Value": [url]}
    if failed:
        result["00081198"] = {"vr": "SQ", "Value": [_failed(item) for item in failed]}
    if stored:
        result["00081199"] = {"vr": "SQ", "Value": [_referenced(item, root) for item in stored]}
    body = json.dumps(result).encode()
    if not failed:
        return 200, body
    if stored:
        return 202, body
    no_room = all(item.status == OUT_OF_RESOURCES for item in failed)
    return (507 if no_room else 409), body


def _uids(item: Stored) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if item.sop_class_uid:
        result["00081150"] = {"vr": "UI", "Value": [item.sop_class_uid]}
    if item.sop_instance_uid:
        result["00081155"] = {"vr": "UI", "Value": [item.sop_instance_uid]}
    return result


def _failed(item: Stored) -> dict[str, Any]:
    reason = item.status or PROCESSING_FAILURE
    return {**_uids(item), "00081197": {"vr": "US", "Value": [reason]}}


def _referenced(item: Stored, root: str) -> dict[str, Any]:
    url = f"{root}/studies/{item.study_uid}"
    return {**_uids(item), "00081190": {"vr": "UR", "Value": [url]}}


def rest_answer(objects: list[Stored]) -> dict[str, Any]:
    """Return the body of the REST ingest."""
    counts = {outcome.value: 0 for outcome in OUTCOMES}
    for item in objects:
        counts[item.outcome.value] += 1
    return {
        "objects": [
            {
                "outcome": item.outcome.value,
                "status": item.status,
                "reason": item.reason,
                "sop_instance_uid": item.sop_instance_uid,
                "sop_class_uid": item.sop_class_uid,
                "study_uid": item.study_uid,
            }
            for item in objects
        ],
        "counts": counts,
        "study_uids": sorted({item.study_uid for item in objects if _is_stored(item)}),
    }
