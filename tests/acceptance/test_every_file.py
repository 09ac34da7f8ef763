"""What becomes of every real file at hand, and that not one sample of it changes.

`docs/every-file.md` is the same as a table (scripts/every_file_table.py). Every claim is checked
by programs that share no code with the encoder: see `tests/independent.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pywt
from conftest import SHARED_DATA
from every_file import COPIED, QUARANTINED, Arrived, arrived, completed, files
from frame_checks import agreement
from gdcm_reader import Gdcm
from independent import Expander, pydicom_frames

from raypacs import dicom
from raypacs.codec import htj2k

KNOWN_REASONS = {
    COPIED: (
        r"no pixels",
        r"video",
        r"lossy compressed(, the header says)? \(.+\)",
        r"irreversible wavelet: lossy JPEG 2000",
        r"JPEG-LS near-lossless",
        r"Photometric Interpretation YBR_ICT",
        r"values outside \d+ bits stored",
        r"after Pixel Data: .+",
        r"two decoders disagree \(.+\)",
        r"sign in the codestream differs from Pixel Representation",
        r"fewer pixel bytes than frames",
        r"big endian samples of 32 bits: .+",
        r"colour of \d+ bits stored",
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
def identified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Arrived, ...]:
    """Pictures that were quarantined for want of an identity, with one."""
    return completed(tmp_path_factory.getbasetemp() / "every-file")


@pytest.fixture(scope="module")
def prepared(every: tuple[Arrived, ...], identified: tuple[Arrived, ...]) -> list[Arrived]:
    """All that were prepared."""
    return [one for one in (*every, *identified) if one.prepared]


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


def test_what_lacks_only_an_identity_is_prepared_or_copied_for_a_known_reason(
    identified: tuple[Arrived, ...],
) -> None:
    for one in identified:
        assert one.outcome != QUARANTINED, (one.name, one.reason)
        known = KNOWN_REASONS[COPIED]
        assert one.prepared or any(re.fullmatch(pattern, one.reason) for pattern in known), (
            one.name,
            one.reason,
        )
    if SHARED_DATA.is_dir():
        assert len(identified) > 10


def test_what_is_not_prepared_stays_as_received(
    every: tuple[Arrived, ...], identified: tuple[Arrived, ...]
) -> None:
    rest = [one for one in (*every, *identified) if not one.prepared]
    assert [one.name for one in rest if not one.as_received] == []


def test_every_prepared_frame_is_the_same_to_all_who_read_it(
    prepared: list[Arrived], peer: Callable[[str], str], tmp_path: Path
) -> None:
    """pydicom and GDCM of the source; imagecodecs, OpenJPEG and `ojph_expand` of the codestreams.

    No decoder but OpenJPH takes more than 16 bits, and its program of Debian 12 does not either.
    Deeper samples are expanded by that of Debian 13 where the peer `openjph` is installed, except
    for colour, which it writes as 16 bits. For those the source stands beside: its native bytes.
    """
    expander = Expander(peer("ojph_expand"))
    wrong = []
    with Gdcm() as gdcm:
        for one in prepared:
            found = agreement(one, gdcm, expander, tmp_path)
            wrong += [f"{one.name}: {text}" for text in found.wrong]
            if not found.of_source:
                wrong.append(f"{one.name}: nobody else reads the source")
            if one.outcome != "htj2k":
                continue
            bits, samples = one.pixels.bits_stored, one.pixels.samples
            assert bool(found.deep) is (bits > 16), one.name
            three = 3 - len(found.deep)
            if len(found.of_codes) < three:
                wrong.append(f"{one.name}: only {found.of_codes} decode it")
            if samples == 1 and expander.deep:
                assert "ojph_expand" in found.of_codes, one.name
    assert wrong == []


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


# Grey levels between the integer wavelet and PyWavelets' real one at 1/2, 1/4, ... 1/32: what the
# rounding of each step adds. A sample that wrapped around would be off by the whole range.
ROUNDING = (2.0, 3.5, 4.5, 5.0, 5.5)
COLOUR_ROUNDING = 2.0  # times that: the colour transform is rounded as well


def test_low_resolutions_are_those_of_pywavelets_within_rounding(prepared: list[Arrived]) -> None:
    """Of the first frame, from the whole codestream and from its low part alone."""
    compared = 0
    for one in prepared:
        told = one.pixels
        if one.outcome != "htj2k" or told.low_own:
            continue
        frames = pydicom_frames(one.native)
        assert frames is not None, one.name
        planes = np.atleast_3d(frames[0].astype(float))
        signed = told.pixel_representation == 1
        half = 1 << (told.bits_stored - 1)
        low, high = (-half, half - 1) if signed else (0, 2 * half - 1)
        code = one.codes()[0]
        for halvings in range(1, min(told.levels, len(ROUNDING)) + 1):
            planes = np.dstack([_halved(plane) for plane in np.moveaxis(planes, 2, 0)])
            small = np.atleast_3d(htj2k.decode_frame(code, skip_resolutions=halvings))
            allowed = ROUNDING[halvings - 1] * (COLOUR_ROUNDING if told.samples == 3 else 1)
            # Above 30 bits the lowest one is left out, to have room for what is outside the range.
            allowed *= 4 if told.bits_stored > 30 else 1
            assert small.shape == planes.shape, one.name
            assert np.abs(small - planes.clip(low, high)).max() <= allowed, (one.name, halvings)
            compared += 1
            if halvings == told.low_halvings:
                prefix = htj2k.decode_frame(
                    one.pack.read_low(one.uid, 1), skip_resolutions=halvings
                )
                assert np.array_equal(np.atleast_3d(prefix), small), one.name
    assert compared > 100


def _halved(plane: np.ndarray) -> np.ndarray:
    """PyWavelets' approximation, in the scale of the pixels; a single row or column mirrors."""
    rows, columns = (-(-side // 2) for side in plane.shape)
    plane = np.pad(plane, [(0, int(side == 1)) for side in plane.shape], mode="edge")
    coarse = pywt.dwt2(plane, "bior2.2", mode="reflect")[0] / 2
    return coarse[1 : 1 + rows, 1 : 1 + columns]
