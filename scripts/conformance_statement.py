"""Write docs/conformance-statement.md from the code: python scripts/conformance_statement.py

What the code decides (transfer syntaxes, statuses, search keys, resources, limits) is read from it;
the words around are here. A test keeps the document current.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from unittest.mock import MagicMock

from pydicom import charset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import UID, CTImageStorage
from pynetdicom import AllStoragePresentationContexts

from raypacs import __version__, dicom
from raypacs.codec.inbound import MAYBE_LOSSLESS, is_decoded
from raypacs.config import Bootstrap, Settings
from raypacs.dimse.scp import PROCESSING_FAILURE, preferred_first
from raypacs.dimse.server import DicomSpec
from raypacs.index import attributes, search
from raypacs.policy import rules
from raypacs.records import InstanceRecord
from raypacs.storage import answers
from raypacs.web.dicomweb import create_dicomweb
from raypacs.web.negotiate import MEDIA_OF_SYNTAX
from raypacs.web.qido import MOST_RESULTS
from raypacs.web.store import CANNOT_UNDERSTAND, WRONG_STUDY

DOCUMENT = Path(__file__).parent.parent / "docs" / "conformance-statement.md"
_TEXT = Path(__file__).parent / "conformance_statement.txt"

# In PS3.6 since pydicom 3.0.
_NEWER = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.9.100.1": "Waveform Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.9.100.2": "Waveform Acquisition Presentation State Storage",
}
# Real-time video (PS3.22) is not stored.
_NOT_STORED = "1.2.840.10008.1.2.7"


def document() -> str:
    """Return the whole document."""
    spec = DicomSpec(host="", port=0, ae_title="")
    bootstrap = Bootstrap.model_fields
    return _TEXT.read_text(encoding="utf-8").format(
        version=__version__,
        implementation_class_uid=dicom.IMPLEMENTATION_CLASS_UID,
        implementation_version_name=dicom.IMPLEMENTATION_VERSION_NAME,
        ae_title=bootstrap["ae_title"].default,
        dicom_port=bootstrap["dicom_port"].default,
        http_port=bootstrap["http_port"].default,
        host=bootstrap["host"].default,
        maximum_pdu=spec.maximum_pdu_bytes,
        maximum_associations=spec.maximum_associations,
        network_timeout=spec.network_timeout_s,
        max_instance_bytes=Settings().max_instance_bytes,
        most_results=MOST_RESULTS,
        transfer_syntaxes=_transfer_syntaxes(),
        statuses=_statuses(),
        wrong_study=f"{WRONG_STUDY:04X}",
        search_keys=_search_keys(),
        resources=_resources(),
        media_types=_media_types(),
        character_sets=_character_sets(),
        sop_classes=_sop_classes(),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def name_of(uid: str) -> str:
    """Return the name of PS3.6."""
    return _NEWER.get(uid, UID(uid).name)


def stored_syntaxes() -> list[str]:
    """Return the transfer syntaxes of PS3.6 that objects are stored in, by UID."""
    known = dicom.KNOWN_TRANSFER_SYNTAXES | MEDIA_OF_SYNTAX.keys()
    known |= {dicom.ENCAPSULATED_UNCOMPRESSED, *dicom.DEFLATED, *rules._JPIP}
    kept = [uid for uid in known if not uid.startswith(_NOT_STORED)]
    return sorted(kept, key=lambda uid: [int(part) for part in uid.split(".")])


def _transfer_syntaxes() -> str:
    rows = ([name_of(uid), uid, str(preference(uid)), _prepared(uid)] for uid in stored_syntaxes())
    return _table(["transfer syntax", "UID", "order", "pixels in the web cache"], rows)


def preference(uid: str) -> int:
    """Return 1, 2 or 3: which goes before which where a context proposes several."""
    others = (dicom.EXPLICIT_VR_LE, dicom.EXPLICIT_VR_BE)
    # The order proposed holds among equals: who is no worse than one that follows stays first.
    worse_than = [preferred_first([uid, other])[0] != uid for other in others]
    return 1 + sum(worse_than)


def _prepared(transfer_syntax_uid: str) -> str:
    """Return what becomes of an ordinary grey image in a syntax, as far as the syntax decides."""
    choice = rules.choose(_record(transfer_syntax_uid))
    if choice.form == rules.COPIED:
        return f"as received: {choice.reason}"
    if dicom.is_encapsulated(transfer_syntax_uid) and not is_decoded(transfer_syntax_uid):
        return "as received: not decoded by this version"
    if transfer_syntax_uid in MAYBE_LOSSLESS:
        return "HTJ2K where header and codestream say that it is lossless, else as received"
    return "HTJ2K"


def _record(transfer_syntax_uid: str) -> InstanceRecord:
    return InstanceRecord(
        study_uid="1.2",
        series_uid="1.2.3",
        sop_instance_uid="1.2.3.4",
        sop_class_uid=CTImageStorage,
        transfer_syntax_uid=transfer_syntax_uid,
        tier="",
        path="",
        size_bytes=1 << 20,
        sha256="",
        dataset_offset_bytes=0,
        source="",
        received_at_s=0.0,
        modality="CT",
        instance_number=1,
        rows=64,
        columns=64,
        frames=1,
        samples=1,
        bits_allocated=16,
        bits_stored=12,
        high_bit=11,
        pixel_representation=0,
        photometric="MONOCHROME2",
        planar_configuration=0,
        pixel_offset_bytes=1024,
        pixel_length_bytes=2 * 64 * 64,
        attributes={},
    )


def _statuses() -> str:
    rows = (
        ("Success", answers.SUCCESS, "Durable, or identical bytes were stored before"),
        (
            "Refused: Out of Resources",
            answers.OUT_OF_RESOURCES,
            "No room, too large, or the same instance is being received at this moment",
        ),
        (
            "Error: Data Set does not match SOP Class",
            answers.DATA_SET_MISMATCH,
            "SOP Class or Instance UID differs from the command; kept aside",
        ),
        (
            "Error: Cannot understand",
            CANNOT_UNDERSTAND,
            "Malformed or cut off; kept aside with the reason",
        ),
        (
            "Error: Duplicate SOP Instance",
            answers.DUPLICATE_SOP_INSTANCE,
            "Stored before with other bytes; these are kept aside, the first are served",
        ),
        ("Error: Processing failure", PROCESSING_FAILURE, "A fault in raypacs"),
    )
    return _table(
        ["service status", "code", "when"],
        ([name, f"{code:04X}", when] for name, code, when in rows),
    )


def _search_keys() -> str:
    levels = (
        ("Study", [*search._STUDY_COLUMNS, "ModalitiesInStudy", *attributes.STUDY_KEYWORDS]),
        ("Series", [*search._SERIES_COLUMNS, *attributes.SERIES_KEYWORDS]),
        ("Instance", search._INSTANCE_KEYWORDS),
    )
    rows = [
        [level, keyword, f"({tag >> 16:04X},{tag & 0xFFFF:04X})", _matching(keyword)]
        for level, keywords in levels
        for tag, keyword in sorted((tag_for_keyword(one) or 0, one) for one in set(keywords))
    ]
    return _table(["level", "attribute", "tag", "matching"], rows)


def _matching(keyword: str) -> str:
    vr = dictionary_VR(keyword)
    if keyword in attributes.DATES | attributes.TIMES:
        return "single value, range"
    if keyword in attributes.PERSON_NAMES:
        return "single value, wild card; any case, any component group"
    if vr == "UI":
        return "single value, list of UIDs"
    if keyword in ("Modality", "ModalitiesInStudy"):
        return "single value, list, wild card"
    return "single value" if vr in ("US", "IS") else "single value, wild card"


def _resources() -> str:
    """List what the DICOMweb application routes, and the frames, which go before it."""
    found: dict[str, set[str]] = {}
    for route in create_dicomweb(MagicMock()).routes:
        methods = getattr(route, "methods", None) or set()
        found.setdefault(getattr(route, "path", ""), set()).update(methods)
    found["/studies/{study}/series/{series}/instances/{instance}/frames/{frames}"] = {"GET", "HEAD"}
    rows = (
        [f"`{path.replace(':path', '')}`", ", ".join(sorted(found[path]))] for path in sorted(found)
    )
    return _table(["resource", "methods"], rows)


def _media_types() -> str:
    found: dict[str, list[str]] = {}
    for uid, media in MEDIA_OF_SYNTAX.items():
        found.setdefault(media, []).append(uid)
    rows = ([f"`{media}`", ", ".join(uids)] for media, uids in sorted(found.items()))
    return _table(["media type of frames", "transfer syntaxes"], rows)


def _character_sets() -> str:
    named = sorted(name for name in charset.python_encoding if name)
    return ", ".join(f"`{name}`" for name in named)


def _sop_classes() -> str:
    uids = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    return _table(["SOP class", "UID"], sorted([name_of(uid), uid] for uid in uids))


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
