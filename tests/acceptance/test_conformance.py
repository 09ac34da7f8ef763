"""Prepared objects in the eyes of others: two validators, dcmtk, GDCM, pydicom and Orthanc.

Each prepared instance goes to all of them twice: as it is stored (HTJ2K) and in Explicit VR Little
Endian, as a node gives it to whoever asks for no transfer syntax.

Orthanc is 550 MB and needs root, so `scripts/peers` does not install it and its test is skipped
where `python -m benchmarks peers install orthanc` was not run, in CI too: it is the one peer of
the tests that is not required there.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from every_file import Arrived, arrived, completed, sign_dropped, words_swapped
from gdcm_reader import Gdcm
from independent import OPENJPEG_BITS, pydicom_frames, repaired
from validators import dciodvfy, dicom_validator, header_only, named_jpeg_2000, written

from benchmarks.figure import MissingPeer
from benchmarks.orthanc import Orthanc, start_orthanc

Peer = Callable[[str], str]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> list[Arrived]:
    """Every real file at hand that was prepared."""
    folder = tmp_path_factory.getbasetemp() / "every-file"
    found = [one for one in (*arrived(folder), *completed(folder)) if one.prepared]
    assert len(found) > 50
    return found


def _forms(one: Arrived) -> Iterator[tuple[str, bytes]]:
    """Yield the ways an instance is given away: as codestreams where it has some, and native."""
    if one.outcome == "htj2k":
        yield "as stored", one.stored()
    yield "native", one.native


def test_dciodvfy_finds_nothing_that_it_does_not_find_in_the_source(
    prepared: list[Arrived], peer: Peer
) -> None:
    peer("dciodvfy")
    with ThreadPoolExecutor(2) as pool:
        found = [line for lines in pool.map(_new_by_dciodvfy, prepared) for line in lines]
    assert found == []


def _new_by_dciodvfy(one: Arrived) -> list[str]:
    source = repaired(one.path.read_bytes())
    before = dciodvfy(source)
    new = []
    for form, data in _forms(one):
        after = dciodvfy(named_jpeg_2000(data) if form == "as stored" else data)
        if before is None or after is None:
            # What it gives up on as it is, is judged by its header.
            known, after = (dciodvfy(header_only(each)) for each in (source, data))
        else:
            known = before
        assert known is not None, one.name
        assert after is not None, one.name
        new += [f"{one.name} {form}: {error}" for error in after - known]
    return new


def test_dicom_validator_finds_nothing_that_it_does_not_find_in_the_source(
    prepared: list[Arrived],
) -> None:
    new = []
    for one in prepared:
        before = dicom_validator(repaired(one.path.read_bytes()))
        for form, data in _forms(one):
            new += [f"{one.name} {form}: {error}" for error in dicom_validator(data) - before]
    assert new == []


def test_the_validators_find_what_is_wrong(prepared: list[Arrived], peer: Peer) -> None:
    """Otherwise finding nothing would mean nothing."""
    peer("dciodvfy")
    one = next(one for one in prepared if one.pixels.samples == 3)
    good = one.native
    assert b"\x28\0\x06\0US" in good
    at = good.index(b"\x28\0\x06\0US")  # Planar Configuration
    without = good[:at] + good[at + 10 :]
    assert dicom_validator(without) - dicom_validator(good)
    before, after = dciodvfy(good), dciodvfy(without)
    assert before is not None
    assert after is not None
    assert after - before


def test_dcmtk_opens_them_and_shows_the_same_picture(
    prepared: list[Arrived], peer: Peer, tmp_path: Path
) -> None:
    dcmdump, dcm2pnm = peer("dcmdump"), peer("dcm2pnm")

    def picture(path: Path) -> bytes:
        out = path.with_suffix(".pnm")
        done = subprocess.run([dcm2pnm, "-q", path, out], capture_output=True, check=False)
        return out.read_bytes() if done.returncode == 0 and out.exists() else b""

    def check(numbered: tuple[int, Arrived]) -> list[str]:
        number, one = numbered
        wrong = []
        for form, data in _forms(one):
            path = written(data, tmp_path / f"{number}-{form.replace(' ', '-')}.dcm")
            done = subprocess.run([dcmdump, "-q", path], capture_output=True, check=False)
            if done.returncode or done.stderr:
                wrong.append(f"{one.name} {form}: dcmdump: {done.stderr.decode('latin-1')}")
        source = written(one.path.read_bytes(), tmp_path / f"{number}-source.dcm")
        shown = picture(source)
        if shown and not words_swapped(one) and shown != picture(tmp_path / f"{number}-native.dcm"):
            wrong.append(f"{one.name}: dcm2pnm shows another picture")
        for path in tmp_path.glob(f"{number}-*"):
            path.unlink()
        return wrong

    with ThreadPoolExecutor(2) as pool:
        found = [line for lines in pool.map(check, enumerate(prepared)) for line in lines]
    assert found == []


def test_gdcm_and_pydicom_open_them_and_decode_the_codestreams(
    prepared: list[Arrived], tmp_path: Path
) -> None:
    """Both have OpenJPEG for HTJ2K, which decodes at most 16 bits."""
    wrong = []
    with Gdcm() as gdcm:
        for one in prepared:
            for form, data in _forms(one):
                path = written(data, tmp_path / "one.dcm")
                if not gdcm.opens(path):
                    wrong.append(f"{one.name} {form}: GDCM does not open it")
                if form != "as stored" or one.pixels.bits_stored > OPENJPEG_BITS:
                    continue
                native = pydicom_frames(one.native)
                for name, frames in (
                    ("GDCM", gdcm.frames(path)),
                    ("pydicom", pydicom_frames(data)),
                ):
                    if native is None or frames is None or not np.array_equal(frames, native):
                        wrong.append(f"{one.name}: {name} decodes other frames")
    assert wrong == []


@contextlib.contextmanager
def _orthanc() -> Iterator[Orthanc]:
    try:
        with start_orthanc(OverwriteInstances=True, SyncStorageArea=False) as running:
            yield running
    except MissingPeer as exc:
        pytest.skip(f"{exc}: python -m benchmarks peers install orthanc")


def test_orthanc_stores_them_reads_them_and_gives_them_back(prepared: list[Arrived]) -> None:
    """Its pictures of a native instance are those it makes of the source, where it makes any."""
    wrong = []
    with _orthanc() as orthanc:
        for one in prepared:
            source = _In(orthanc, repaired(one.path.read_bytes()))
            listed = source.get("frames")
            shown = b"" if sign_dropped(one) else source.get("preview")
            for form, data in _forms(one):
                stored = _In(orthanc, data)
                if stored.get("file") != data:
                    wrong.append(f"{one.name} {form}: another file comes back")
                tags = json.loads(stored.get("simplified-tags"))
                if tags["SOPInstanceUID"] != one.uid:
                    wrong.append(f"{one.name} {form}: {tags['SOPInstanceUID']}")
                if stored.get("frames") != listed:
                    wrong.append(f"{one.name} {form}: other frames than in the source")
                if form == "native" and shown and stored.get("preview") != shown:
                    wrong.append(f"{one.name}: another picture")
                if form == "as stored" and listed:
                    first = stored.get("frames/0/raw")
                    if first.rstrip(b"\0") != _first_code(one):
                        wrong.append(f"{one.name}: another codestream")
    assert wrong == []


def _first_code(one: Arrived) -> bytes:
    """The first codestream without the byte that fills its fragment."""
    return one.codes()[0].rstrip(b"\0")


class _In:
    """An instance in Orthanc; a later one of the same SOP Instance UID takes its place."""

    def __init__(self, orthanc: Orthanc, data: bytes) -> None:
        request = urllib.request.Request(f"{orthanc.url}/instances", data=data, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            self._url = f"{orthanc.url}/instances/{json.load(answer)['ID']}"

    def get(self, what: str) -> bytes:
        """Return what Orthanc answers; nothing where it cannot."""
        try:
            with urllib.request.urlopen(f"{self._url}/{what}", timeout=60) as answer:
                body: bytes = answer.read()
        except urllib.error.HTTPError as exc:
            if exc.code not in (400, 415):  # its words for "cannot"
                raise
            return b""
        return body
