"""What becomes of every real file at hand, and that not one sample of it changes.

`docs/every-file.md` is the same as a table (scripts/every_file_table.py). Every claim is checked
by programs that share no code with the encoder: see `tests/independent.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from conftest import SHARED_DATA
from every_file import COPIED, QUARANTINED, Arrived, arrived, files, words_swapped
from gdcm_reader import Gdcm
from independent import (
    OPENJPEG_BITS,
    Expander,
    openjpeg_frames,
    pydicom_frames,
    repaired,
    single_bit_frames,
)

from raypacs import dicom
from raypacs.codec import htj2k

KNOWN_REASONS = {
    COPIED: (
        r"no pixels",
        r"video",
        r"lossy compressed \(.+\)",
        r"values outside \d+ bits stored",
        r"after Pixel Data: .+",
        r"two decoders disagree \(.+\)",
        r"sign in the codestream differs from Pixel Representation",
        r"fewer pixel bytes than frames",
        r"not a JPEG 2000 codestream",
        r"\d+ bytes of Pixel Data after the last frame",
    ),
    QUARANTINED: (
        r"(Study|Series) Instance UID \(0020,000[DE]\) '.*' is not a UID .+",
        r"SOP (Class|Instance) UID \(0008,001[68]\) '.*' is not a UID .+",
        r"element \([0-9A-F]{4},[0-9A-F]{4}\) .+",
        r"no DICM prefix at byte 128: .+",
        r"file meta information has no Transfer Syntax UID \(0002,0010\)",
    ),
}


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> tuple[Arrived, ...]:
    """All files, arrived: once for the tests of a session."""
    return arrived(tmp_path_factory.getbasetemp() / "every-file")


@pytest.fixture(scope="module")
def prepared(every: tuple[Arrived, ...]) -> list[Arrived]:
    """Those that were prepared."""
    return [one for one in every if one.prepared]


def test_every_file_has_a_row_and_a_reason_that_is_known(every: tuple[Arrived, ...]) -> None:
    assert [one.name for one in every] == sorted(name for name, _ in files())
    for one in every:
        if one.prepared:
            assert one.instance is not None
            assert one.instance.lossless_proven, one.name
            continue
        known = KNOWN_REASONS[one.outcome]
        assert any(re.fullmatch(pattern, one.reason) for pattern in known), (one.name, one.reason)
    if SHARED_DATA.is_dir():
        counted = Counter(one.outcome for one in every)
        assert counted["htj2k"] > 380
        assert counted[QUARANTINED] <= 30


def test_what_is_not_prepared_stays_as_received(every: tuple[Arrived, ...]) -> None:
    changed = [one.name for one in every if not one.prepared and not one.as_received]
    assert changed == []


def test_pydicom_and_gdcm_find_in_the_source_what_was_prepared(
    prepared: list[Arrived], tmp_path: Path
) -> None:
    """The whole of it, by whole other programs: source in, native instance of the node out."""
    wrong = []
    with Gdcm() as gdcm:
        for one in prepared:
            ours = _native(one, gdcm, tmp_path)
            source = repaired(one.path.read_bytes())
            theirs = pydicom_frames(source)
            if theirs is None:
                theirs = single_bit_frames(source)
            others = None if _gdcm_errs(one) else gdcm.frames(one.path)
            if theirs is None and others is None:
                wrong.append(f"{one.name}: neither reads the source")
            if theirs is not None and not _same_bits(ours, theirs):
                wrong.append(f"{one.name}: not what pydicom reads")
            if others is not None and not _same_bits(ours, others):
                wrong.append(f"{one.name}: not what GDCM reads")
    assert wrong == []


def test_three_independent_decoders_agree_on_every_prepared_frame(
    prepared: list[Arrived], peer: Callable[[str], str], tmp_path: Path
) -> None:
    """imagecodecs (OpenJPH), OpenJPEG in two builds, and OpenJPH's own `ojph_expand`.

    OpenJPEG computes in 32 bits, which is enough for samples of 16; so does `ojph_expand` 0.9 of
    Debian 12. Deeper samples are expanded by Debian 13's where the peer `openjph` is installed,
    but for colour, which it writes as 16 bits. The native instance, which is compared with what
    pydicom and GDCM read in the source, stands beside all of them.
    """
    expander = Expander(peer("ojph_expand"))
    wrong, expanded = [], 0
    with Gdcm() as gdcm:
        for one in prepared:
            if one.outcome != "htj2k":
                continue
            codes, told = one.codes(), one.pixels
            frames = np.stack([_by_imagecodecs(code) for code in codes])
            if not _same_bits(frames, _native(one, gdcm, tmp_path)):
                wrong.append(f"{one.name}: the native instance differs")
            if told.bits_stored <= OPENJPEG_BITS:
                for other in zip(*map(openjpeg_frames, codes), strict=True):
                    if not np.array_equal(np.stack(other).reshape(frames.shape), frames):
                        wrong.append(f"{one.name}: OpenJPEG differs")
            if expander.takes(told.bits_stored, told.samples):
                signed = told.pixel_representation == 1
                again = expander.frames(codes, told.bits_stored, signed=signed)
                expanded += len(again)
                if not np.array_equal(np.stack(again), frames):
                    wrong.append(f"{one.name}: ojph_expand differs")
    assert wrong == []
    assert expanded > 100


def test_every_codestream_says_what_the_header_says(prepared: list[Arrived]) -> None:
    """Depth, sign, size, colour transform and transfer syntax (PS3.5 sections 8.2 and 10.18)."""
    for one in prepared:
        if one.outcome != "htj2k":
            continue
        told = one.pixels
        with_codes = dicom.scan(one.pack.header_bytes(one.uid), dicom.EXPLICIT_VR_LE)
        for code in one.codes():
            header = htj2k.read_main_header(code)
            assert (header.rows, header.columns) == (told.rows, told.columns), one.name
            assert set(header.depths) == {told.bits_stored}, one.name
            assert len(header.depths) == told.samples, one.name
            assert header.signed == (told.pixel_representation == 1), one.name
            assert header.reversible, one.name
            transform = with_codes.text(0x00280004) == "YBR_RCT"
            assert header.colour_transform is transform, one.name
            if told.transfer_syntax_uid == dicom.HTJ2K_LOSSLESS_RPCL:
                assert htj2k.transfer_syntax(code) == dicom.HTJ2K_LOSSLESS_RPCL, one.name
            else:
                assert told.transfer_syntax_uid == dicom.HTJ2K_LOSSLESS, one.name


def _native(one: Arrived, gdcm: Gdcm, folder: Path) -> np.ndarray:
    """Return the frames of the native instance: by pydicom, or GDCM where a value stops that."""
    frames = pydicom_frames(one.native)
    if frames is None:
        path = folder / "native.dcm"
        path.write_bytes(one.native)
        frames = gdcm.frames(path)
    assert frames is not None, one.name
    assert len(frames) == one.pixels.frames, one.name
    return frames


def _gdcm_errs(one: Arrived) -> bool:
    """Whether GDCM 3.2 is known to give something else than all others; pydicom decides there.

    It swaps the bytes of RLE colour of more than 8 bits.
    """
    record = one.record
    assert record is not None
    rle = record.transfer_syntax_uid == dicom.RLE_LOSSLESS
    return (rle and record.samples == 3 and record.bits_allocated > 8) or words_swapped(one)


def _same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays hold the same samples; floating-point ones bit by bit, NaN and all."""
    if first.shape != second.shape:
        return False
    if first.dtype.kind == "f":
        kind = f"u{first.dtype.itemsize}"
        return first.dtype == second.dtype and np.array_equal(first.view(kind), second.view(kind))
    return np.array_equal(first, second)


def _by_imagecodecs(code: bytes) -> np.ndarray:
    """Decode without anything of raypacs; planes come where there is no colour transform."""
    frame = imagecodecs.htj2k_decode(code)
    planes = frame.ndim == 3 and frame.shape[0] == 3 and frame.shape[2] != 3
    if frame.ndim == 3 and frame.shape[0] == frame.shape[2] == 3:
        planes = not htj2k.read_main_header(code).colour_transform
    return frame.transpose(1, 2, 0) if planes else frame
