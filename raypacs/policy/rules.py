"""What to compress, how, or copy as it is (FEATURES A6).

1. The first configured rule that matches decides; its name is the reason.
2. A rule (or no rule) that says `htj2k` still needs pixels that HTJ2K can carry without loss:
   whole integer samples, one or three a pixel, from a lossless source. Everything else is copied
   as received, with the reason.

Pure: an instance record and the rules in, a choice out. What only the pixels themselves can tell
(values outside Bits Stored, damaged frames) is found while preparing, and then copied as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from raypacs import dicom
from raypacs.config import CompressionRule
from raypacs.records import InstanceRecord

HTJ2K = "htj2k"
COPIED = "copied"

_JPEG = "1.2.840.10008.1.2.4."
_LOSSY = {
    _JPEG + "50": "JPEG baseline",
    _JPEG + "51": "JPEG extended",
    _JPEG + "53": "JPEG spectral selection",
    _JPEG + "55": "JPEG full progression",
    _JPEG + "81": "JPEG-LS near-lossless",
    _JPEG + "91": "JPEG 2000",
    _JPEG + "93": "JPEG 2000 Part 2",
    _JPEG + "111": "JPEG XL recompression of JPEG",
    _JPEG + "112": "JPEG XL",
    _JPEG + "203": "HTJ2K",
}
_VIDEO = frozenset(_JPEG + str(number) for number in range(100, 109)) | frozenset(
    f"{_JPEG}{number}.1" for number in range(100, 107)
)
_LABEL_MAP_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.7"
_ITEM_HEADER_BYTES = 8
_PHOTOMETRIC = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_RCT": 3,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The form an instance gets in the web cache (`htj2k` or `copied`), and why."""

    form: str
    reason: str


def choose(record: InstanceRecord, rules: Iterable[CompressionRule] = ()) -> Choice:
    """Return how an instance goes into the web cache; see the top of this module."""
    rule = next((rule for rule in rules if _matches(rule, record)), None)
    if rule is not None and rule.action == "copy":
        return Choice(COPIED, f"rule {rule.name}")
    obstacle = _obstacle(record)
    if obstacle:
        return Choice(COPIED, obstacle)
    return Choice(HTJ2K, f"rule {rule.name}" if rule is not None else "")


def _matches(rule: CompressionRule, record: InstanceRecord) -> bool:
    wanted = (
        (rule.sop_class_uids, record.sop_class_uid),
        (rule.modalities, record.modality),
        (rule.transfer_syntax_uids, record.transfer_syntax_uid),
        (rule.sources, record.source),
    )
    return record.size_bytes >= rule.min_size_bytes and all(
        not values or value in values for values, value in wanted
    )


def _obstacle(record: InstanceRecord) -> str:
    """Return why the pixels cannot become HTJ2K, as far as the header tells; '' if they can."""
    if record.frames == 0:
        return "no pixels"
    if record.transfer_syntax_uid in _VIDEO:
        return "video"
    lossy = _LOSSY.get(record.transfer_syntax_uid)
    if lossy:
        return f"lossy compressed ({lossy})"
    if record.sop_class_uid == _LABEL_MAP_SEGMENTATION:
        return "label map: averages of labels mean nothing"
    if record.bits_allocated == 1:
        return "1-bit samples"
    if record.bits_stored == 0 or record.bits_allocated == 64:
        return "floating-point or 64-bit samples"
    if record.photometric == "PALETTE COLOR":
        return "PALETTE COLOR: averages of palette entries mean nothing"
    samples = _PHOTOMETRIC.get(record.photometric)
    if samples is None:
        return f"Photometric Interpretation {record.photometric or 'missing'}"
    if samples != record.samples:
        return f"{record.samples} samples per pixel with {record.photometric}"
    return _too_few_bytes(record)


def _too_few_bytes(record: InstanceRecord) -> str:
    """Return why the declared frames cannot all be there; '' if they can.

    Anyone can declare any Number of Frames: work is planned for what the pixel bytes can hold. An
    encapsulated frame takes at least the header of its item (PS3.5 section A.4).
    """
    if record.rows == 0 or record.columns == 0:
        return "no Rows or Columns"
    length = record.pixel_length_bytes
    if dicom.is_encapsulated(record.transfer_syntax_uid):
        needed = record.frames * _ITEM_HEADER_BYTES
        length = length if length > 0 else record.size_bytes
    else:
        bits = record.rows * record.columns * record.samples * record.bits_allocated
        needed = record.frames * bits // 8
    return "fewer pixel bytes than frames" if needed > length else ""
