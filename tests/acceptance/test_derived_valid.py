"""Lossy objects made by a rule pass two validators with no error that their source has not."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from inline_tasks import LEASE, InlineTasks, site
from pydicom.uid import JPEG2000
from stored_series import Store, image, noise, part10
from validators import dciodvfy, dicom_validator, header_only

from raypacs import dicom
from raypacs.codec import htj2k
from raypacs.config import CompressionRule
from raypacs.errors import MalformedInstance
from raypacs.policy import deriving
from raypacs.work.derive import DeriveRun
from tests.conftest import SHARED_DATA

RULE = CompressionRule(name="45 dB", action="lossy", psnr_db=45)
# The validator holds that it may not be present in a DERIVED image; PS3.3 section C.8.13.4 says
# "May be present otherwise".
_WRONG = ("<MRAcquisitionType>",)
_A_FOLDER = 2


def sources() -> Iterator[pytest.ParameterSet]:
    """A few files of every folder of real data, in the order of their names."""
    for folder in sorted((SHARED_DATA / "dicom").glob("*/")) if SHARED_DATA.is_dir() else []:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        objects = [path for path in files if path.suffix not in (".csv", ".md", ".txt", ".json")]
        for path in objects[:_A_FOLDER]:
            yield pytest.param(path, id=f"{folder.name}-{path.name}")


@pytest.fixture(autouse=True)
def _validator(peer: Callable[[str], str]) -> None:
    peer("dciodvfy")


def derived(folder: Path, data: bytes) -> tuple[bytes, str]:
    """Return the new object, or why there is none."""
    store = Store(folder)
    stored = store.add(data)
    why = deriving.obstacle(stored.record)
    if why:
        return b"", why
    found = site(store.settings, [stored], settings={"compression": (RULE,)})
    result = DeriveRun(LEASE, found).run(InlineTasks())
    assert result.error == ""
    if not result.records:
        return b"", result.warning
    return store.image.read(result.records[0].path), ""


def _named_jpeg_2000(data: bytes) -> bytes:
    """Return the file under the name of the older JPEG 2000 (``validators.named_jpeg_2000``)."""
    meta = dicom.split_part10(data)
    head = dicom.file_meta(meta.sop_class_uid, meta.sop_instance_uid, JPEG2000)
    return head + data[meta.dataset_offset :]


def new_errors(source: bytes, made: bytes) -> list[str]:
    """Return what dciodvfy finds wrong with the new object, and not with its source."""
    before = dciodvfy(source)
    after = dciodvfy(_named_jpeg_2000(made))
    if before is None:  # it gives up on deflated data sets
        before = dciodvfy(header_only(source)) or Counter()
    assert after is not None
    uid = str(pydicom.dcmread(io.BytesIO(source), stop_before_pixels=True).SOPInstanceUID)
    # A UID that is wrong is wrong as well where the new object names its source.
    return [one for one in after - before if uid not in one and not any(w in one for w in _WRONG)]


@pytest.mark.parametrize("path", list(sources()))
def test_real_objects(tmp_path: Path, path: Path) -> None:
    data = path.read_bytes()
    try:
        made, why = derived(tmp_path, data)
    except MalformedInstance as exc:
        made, why = b"", str(exc)
    if not made:
        assert why, "whatever is left out has its reason"
        return
    assert new_errors(data, made) == []
    assert dicom_validator(made) - dicom_validator(data) == set()
    dataset = pydicom.dcmread(io.BytesIO(made))
    frame = pydicom.encaps.get_frame(
        dataset.PixelData, 0, number_of_frames=int(dataset.get("NumberOfFrames", 1))
    )
    shape = htj2k.decode_frame(frame.rstrip(b"\0")).shape
    assert shape[:2] == (dataset.Rows, dataset.Columns)


@pytest.mark.parametrize("colour", [False, True])
def test_synthetic_objects(tmp_path: Path, colour: bool) -> None:
    frames = noise(1, 64, 64, bits=8)
    if colour:
        frames = np.stack([noise(1, 64, 64, bits=8, seed=n)[0] for n in range(3)], -1)[None]
    data = part10(image(frames, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT"))
    made, why = derived(tmp_path, data)
    assert why == ""
    assert new_errors(data, made) == []
