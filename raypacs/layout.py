"""The only module that builds object paths on tiers. Paths carry a random token, never reused.

Image tier::

    studies/{Study}/{Series}/{SOP}.{token}.dcm     one Part 10 file per instance, as received
    studies/{Study}/{Series}/{token}.manifest      what a sealed series consists of
    conflicts/{Study}/{SOP}.{token}.dcm            same SOP Instance UID, different bytes
    quarantine/{yyyymmdd}/{token}.dcm (+ .json)    malformed, with its reason
    intake/{boot}.{Study}                          marker: this process may hold unregistered ones
    intake/{boot}.quarantine-{yyyymmdd}            the same for a day's quarantine

Web tier::

    studies/{Study}/{Series}/{token}.pack (+ .hdr) prepared series and its header sidecar
    attempts/{token}/{part}                        parts of a running attempt
    adoptions/{token}.jsonl.gz                     what an adoption left out, and why

Library tier::

    studies/{Study}/{Series}/{token}.zip           a series: ``docs/container-format.md``

Every tier::

    statistics/{stream}/day={yyyy-mm-dd}/*.parquet on the tier that ``statistics_tier`` names
    probes/{token}                                 written, read and deleted by `tier check`
    site/{site}.json                               marker of the site that the tier belongs to
    erased/{hash}.{milliseconds}.json              a study that was erased, and when
    epochs/{epoch}.{sequence}.json                 marker of the newest master that was here, and of
                                                   the newest change that its index had then
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

from raypacs.errors import MalformedInstance

EPOCH_MARKERS = "epochs/"
SITE_MARKERS = "site/"
TOMBSTONES = "erased/"
ATTEMPTS = "attempts/"
PROBES = "probes/"
STATISTICS = "statistics/"
_UID = re.compile(r"[0-9.]{1,64}")
_OBJECT = re.compile(
    r"""(studies/[0-9.]+/[0-9.]+/([0-9.]+\.)?[0-9a-f]+\.(dcm|manifest|pack|hdr|zip)
    |conflicts/[0-9.]+/[0-9.]+\.[0-9a-f]+\.dcm
    |quarantine/[0-9]{8}/[0-9a-f]+\.(dcm|json)
    |attempts/[0-9a-f]+/.+
    |probes/[0-9a-f]+
    |statistics/[a-z]+/day=[0-9-]+/[0-9a-z.-]+\.parquet
    |adoptions/[0-9a-f]+\.jsonl\.gz
    |erased/[0-9a-f]{64}\.[0-9]+\.json
    |intake/.+|site/.+\.json|epochs/[0-9]+\.[0-9]+\.json)""",
    re.VERBOSE | re.DOTALL,
)


def new_token() -> str:
    """Return 16 random hexadecimal digits (64 bits)."""
    return secrets.token_hex(8)


def is_object(path: str) -> bool:
    """Whether ``path`` may be one that this module builds (another program's may look so too)."""
    return _OBJECT.fullmatch(path) is not None


def checked_uid(uid: str, what: str) -> str:
    """Return ``uid`` if it is safe as one path segment (PS3.5 section 9.1), else raise.

    Raises:
        MalformedInstance: empty, longer than 64 characters, or other than digits and dots.
    """
    if not _UID.fullmatch(uid) or uid.strip(".") == "":
        raise MalformedInstance(
            f"{what} {uid!r} is not a UID (digits and dots, at most 64)", field=what, value=uid
        )
    return uid


def instance(study_uid: str, series_uid: str, sop_uid: str, token: str) -> str:
    """Path of one instance as received."""
    return f"studies/{study_uid}/{series_uid}/{sop_uid}.{token}.dcm"


def with_token(path: str, token: str) -> str:
    """Return the path of the same instance, or object kept aside, under another token."""
    folder, _, name = path.rpartition("/")
    *head, _, ending = name.split(".")
    return "/".join((folder, ".".join((*head, token, ending))))


def study_prefix(study_uid: str) -> str:
    """Folder of one study, on image and web tiers alike."""
    return f"studies/{study_uid}/"


def conflict(study_uid: str, sop_uid: str, token: str) -> str:
    """Path of an object whose SOP Instance UID is taken by other bytes."""
    return f"conflicts/{study_uid}/{sop_uid}.{token}.dcm"


def quarantine(received_at_s: float, token: str) -> str:
    """Path of a malformed object; its reason lies beside it as ``.json``."""
    day = datetime.fromtimestamp(received_at_s, UTC).strftime("%Y%m%d")
    return f"quarantine/{day}/{token}.dcm"


def quarantine_reason(path: str) -> str:
    """Path of the reason beside a quarantined object."""
    return path.removesuffix(".dcm") + ".json"


def marked_by(path: str) -> str:
    """Return what a marker names for an object kept aside: its study, or a day's quarantine."""
    kind, where = path.split("/")[:2]
    return where if kind == "conflicts" else f"{kind}-{where}"


def aside_prefix(marked: str) -> str:
    """Folder of the objects kept aside that :func:`marked_by` names."""
    kind, dash, day = marked.partition("-")
    return f"{kind}/{day}/" if dash else f"conflicts/{marked}/"


def intake_marker(boot: str, marked: str) -> str:
    """Marker that process ``boot`` may hold durable, unregistered objects of ``marked``.

    That is a study, or a day's quarantine (:func:`marked_by`).
    """
    return f"intake/{boot}.{marked}"


def probe(token: str) -> str:
    """Path of an object that only tells if a tier can be written."""
    return f"{PROBES}{token}"


def statistics(name: str) -> str:
    """Path of a file of statistics (``events/day=YYYY-MM-DD/...parquet``)."""
    return f"{STATISTICS}{name}"


def pack(study_uid: str, series_uid: str, token: str) -> str:
    """Path of a prepared series."""
    return f"studies/{study_uid}/{series_uid}/{token}.pack"


def container(study_uid: str, series_uid: str, token: str) -> str:
    """Path of a series in a library."""
    return f"studies/{study_uid}/{series_uid}/{token}.zip"


def header_sidecar(pack_path: str) -> str:
    """Path of the header sidecar of a pack."""
    return pack_path.removesuffix(".pack") + ".hdr"


def token_of(path: str) -> str:
    """Return the attempt that made a pack or a header sidecar."""
    return path.rpartition("/")[2].partition(".")[0]


def manifest(study_uid: str, series_uid: str, token: str) -> str:
    """Path of the manifest of a sealed series, beside its instances."""
    return f"studies/{study_uid}/{series_uid}/{token}.manifest"


def is_manifest(path: str) -> bool:
    """Whether an object's path is that of a manifest."""
    return path.startswith("studies/") and path.endswith(".manifest")


def tombstone(study_key: str, at_s: float) -> str:
    """Path of the mark that a study was erased at ``at_s`` (seconds since the epoch)."""
    return f"{TOMBSTONES}{study_key}.{int(at_s * 1000)}.json"


def erased_at(tombstone_path: str) -> tuple[str, float]:
    """Return the hash of an erased study, and when it was erased; ('', 0) for another path."""
    name = tombstone_path.removeprefix(TOMBSTONES).removesuffix(".json")
    key, _, at = name.partition(".")
    return (key, int(at) / 1000) if key and at.isdecimal() else ("", 0.0)


def site_marker(site_id: str) -> str:
    """Path of the marker of the site that a tier belongs to."""
    return f"{SITE_MARKERS}{site_id}.json"


def site_of(marker_path: str) -> str:
    """Return the site that a marker's path stands for."""
    return marker_path.removeprefix(SITE_MARKERS).removesuffix(".json")


def epoch_marker(epoch: int, sequence: int = 0) -> str:
    """Path of the marker that a master leaves: a new object each, as paths are never reused."""
    return f"{EPOCH_MARKERS}{epoch:012d}.{sequence:015d}.json"


def epoch_of(marker_path: str) -> int:
    """Return the epoch a marker's path stands for, 0 for any other path."""
    return _marks(marker_path)[0]


def sequence_of(marker_path: str) -> int:
    """Return the number of the newest change a marker's path stands for, 0 for any other path."""
    return _marks(marker_path)[1]


def _marks(marker_path: str) -> tuple[int, int]:
    epoch, _, sequence = (
        marker_path.removeprefix(EPOCH_MARKERS).removesuffix(".json").partition(".")
    )
    if not epoch.isdecimal():
        return 0, 0
    return int(epoch), int(sequence) if sequence.isdecimal() else 0


def attempt_prefix(token: str) -> str:
    """Folder of a running attempt's part objects."""
    return f"{ATTEMPTS}{token}/"


def adoption_report(token: str) -> str:
    """Path of the report of an adoption's attempt."""
    return f"adoptions/{token}.jsonl.gz"


def attempt_part(token: str, series_uid: str, number: int) -> str:
    """Path of one chunk's part object."""
    return f"{ATTEMPTS}{token}/{series_uid}.{number:06d}.part"
