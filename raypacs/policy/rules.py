"""What to compress, how, or copy as it is (FEATURES A6).

1. The first configured rule that matches decides; its name is the reason. A rule that says `lossy`
   prepares without loss as well: the lossy object is a new one (`policy.deriving`).
2. A rule (or no rule) that says `htj2k` still needs pixels that can be coded without loss, from a
   lossless source: integer samples, one or three a pixel (`htj2k`), floating-point ones
   (`wavelet`), or single bits (`bits`). Everything else is copied as received, with the reason.

Pure: an instance record and the rules in, a choice out. What only the pixels themselves can tell
(values outside Bits Stored, damaged frames) is found while preparing, and then copied as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from raypacs import dicom
from raypacs.compression import CompressionRule, matches, matches_uid
from raypacs.records import InstanceRecord

HTJ2K = "htj2k"
WAVELET = "wavelet"
BITS = "bits"
COPIED = "copied"

_JPEG = "1.2.840.10008.1.2.4."
# Always lossy, or nothing in the codestream says if not. What may be lossless (JPEG-LS .81, JPEG
# 2000 .91, HTJ2K .203) is looked at while preparing (`codec.inbound`).
_LOSSY = {
    _JPEG + "50": "JPEG baseline",
    _JPEG + "51": "JPEG extended",
    _JPEG + "53": "JPEG spectral selection",
    _JPEG + "55": "JPEG full progression",
    _JPEG + "93": "JPEG 2000 Part 2",
    _JPEG + "111": "JPEG XL recompression of JPEG",
    _JPEG + "112": "JPEG XL",
}
# Their pixels are at a server (PS3.5 annexes A.6 to A.9).
_JPIP = frozenset(_JPEG + number for number in ("94", "95", "204", "205"))
_VIDEO = frozenset(_JPEG + str(number) for number in range(100, 109)) | frozenset(
    f"{_JPEG}{number}.1" for number in range(100, 107)
)
# Their samples are names, not amounts.
_LABELS = frozenset({"1.2.840.10008.5.1.4.1.1.66.7"})  # Label Map Segmentation Storage
_ITEM_HEADER_BYTES = 8
# Codestreams of deeper colour are read by OpenJPH alone, which makes them: no second opinion.
_DEEPEST_COLOUR_BITS = 16
_PHOTOMETRIC = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_RCT": 3,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The form an instance gets in the web cache, and why.

    ``nearest``: its low resolutions are samples picked out, for averages of them mean nothing.
    """

    form: str
    reason: str
    nearest: bool = False


def choose(record: InstanceRecord, rules: Iterable[CompressionRule] = ()) -> Choice:
    """Return how an instance goes into the web cache; see the top of this module."""
    rule = first_match(record, rules)
    if rule is not None and rule.action == "copy":
        return Choice(COPIED, f"rule {rule.name}")
    obstacle = _obstacle(record)
    if obstacle:
        return Choice(COPIED, obstacle)
    reason = f"rule {rule.name}" if rule is not None else ""
    return Choice(_form(record), reason, nearest=_is_nearest(record))


def _form(record: InstanceRecord) -> str:
    if record.bits_allocated == 1:
        return BITS
    return WAVELET if record.bits_stored == 0 else HTJ2K


def _is_nearest(record: InstanceRecord) -> bool:
    labels = record.photometric == "PALETTE COLOR" or record.sop_class_uid in _LABELS
    return labels and record.bits_allocated != 1


def first_match(record: InstanceRecord, rules: Iterable[CompressionRule]) -> CompressionRule | None:
    """Return the rule that decides over an instance; None: there is none."""
    return next((rule for rule in rules if _matches(rule, record)), None)


def _matches(rule: CompressionRule, record: InstanceRecord) -> bool:
    """Whether every condition of a rule holds; one that is not set always does."""
    frame_bits = record.rows * record.columns * record.samples * record.bits_allocated
    sizes = (
        (rule.min_size_bytes, record.size_bytes, rule.max_size_bytes),
        (rule.min_frame_bytes, frame_bits // 8, rule.max_frame_bytes),
        (rule.min_frames, record.frames, rule.max_frames),
        (rule.min_rows, record.rows, rule.max_rows),
        (rule.min_columns, record.columns, rule.max_columns),
    )
    if not all(least <= size and (not most or size <= most) for least, size, most in sizes):
        return False
    texts = ((rule.modalities, record.modality), (rule.sources, record.source))
    if not all(
        not patterns or any(matches(one, text) for one in patterns) for patterns, text in texts
    ):
        return False
    uids = (
        (rule.sop_classes, record.sop_class_uid),
        (rule.transfer_syntaxes, record.transfer_syntax_uid),
    )
    return all(not patterns or matches_uid(patterns, uid) for patterns, uid in uids)


def _obstacle(record: InstanceRecord) -> str:
    """Return why the pixels cannot become HTJ2K, as far as the header tells; '' if they can."""
    if record.transfer_syntax_uid in _JPIP:
        return "pixels that are fetched by JPIP"
    if record.frames == 0:
        return "no pixels"
    if record.transfer_syntax_uid in _VIDEO:
        return "video"
    lossy = _LOSSY.get(record.transfer_syntax_uid)
    if lossy:
        return f"lossy compressed ({lossy})"
    if record.bits_stored == 0:
        return _no_floats(record) or _too_few_bytes(record)
    samples = _PHOTOMETRIC.get(record.photometric)
    if samples is None:
        return f"Photometric Interpretation {record.photometric or 'missing'}"
    if samples != record.samples:
        return f"{record.samples} samples per pixel with {record.photometric}"
    if samples == 3 and record.bits_stored > _DEEPEST_COLOUR_BITS:
        return f"colour of {record.bits_stored} bits stored"
    if record.bits_allocated not in (1, 8, 16, 32):
        return f"{record.bits_allocated} bits allocated"
    if record.bits_allocated == 32 and record.transfer_syntax_uid == dicom.EXPLICIT_VR_BE:
        return "big endian samples of 32 bits: readers differ in the order of their words"
    if record.photometric == "YBR_FULL_422" and dicom.is_encapsulated(record.transfer_syntax_uid):
        return "compressed sub-sampled colour (YBR_FULL_422)"
    return _too_few_bytes(record)


def _no_floats(record: InstanceRecord) -> str:
    """Return why pixels without Bits Stored are no floating-point ones; '' if they can be."""
    if record.bits_allocated not in (32, 64):
        return f"{record.bits_allocated} bits allocated without Bits Stored"
    if record.samples != 1 or dicom.is_encapsulated(record.transfer_syntax_uid):
        return "floating-point samples in colour or compressed"
    return ""


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
        samples = 2 if record.photometric == "YBR_FULL_422" else record.samples
        bits = record.rows * record.columns * samples * record.bits_allocated
        needed = record.frames * bits // 8
    return "fewer pixel bytes than frames" if needed > length else ""
