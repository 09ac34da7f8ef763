"""Status of a study (FEATURES B7): which there are, and which change is one.

Pure. A person may set any status; what raypacs concludes by itself only ever raises it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from raypacs.errors import InvalidQuery
from raypacs.records import InstanceRecord

NEW, DICTATED, REPORTED, APPROVED = "new", "dictated", "reported", "approved"
STATUSES = (NEW, DICTATED, REPORTED, APPROVED)
FLAGS = ("exported", "his_verified", "committed")
# Structured reports (PS3.6 table A-1); what is verified is the document (PS3.3 section C.17.2).
_REPORTS = "1.2.840.10008.5.1.4.1.1.88."
_VERIFIED = "VERIFIED"


def raised(before: str, wanted: str) -> str:
    """Return the later one of two statuses."""
    return max(before, wanted, key=_rank)


def _rank(status: str) -> int:
    return STATUSES.index(status) if status in STATUSES else 0


def approves(record: InstanceRecord) -> bool:
    """Whether an instance is a report whose Verification Flag (0040,A493) is VERIFIED."""
    flag = record.attributes.get("VerificationFlag", "").strip()
    return flag == _VERIFIED and record.sop_class_uid.startswith(_REPORTS)


def approved_by(records: Iterable[InstanceRecord]) -> str:
    """Return the SOP Instance UID of the first verified report; '' without one."""
    return next((record.sop_instance_uid for record in records if approves(record)), "")


def checked(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is to be set of a study.

    Raises:
        InvalidQuery: nothing, no such key or status, or a flag that is neither true nor false.
    """
    known = ("status", *FLAGS)
    for name, value in changes.items():
        if name not in known:
            raise InvalidQuery(f"{name}: {_nearest(name, known)}", key=name)
        if name == "status" and value not in STATUSES:
            raise InvalidQuery(f"status: no {value!r}; {_nearest(str(value), STATUSES)}", key=name)
        if name != "status" and not isinstance(value, bool):
            raise InvalidQuery(f"{name} is true or false, not {value!r}", key=name)
    if not changes:
        raise InvalidQuery(f"nothing to set; there are {', '.join(known)}")
    return dict(changes)


def _nearest(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
