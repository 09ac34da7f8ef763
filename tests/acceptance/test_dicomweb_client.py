"""dicomweb-client reads everything a node has; pixels equal those of two other decoders.

:func:`read_everything` takes the URL of any running node.
"""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import gdcm
import httpx
import imagecodecs
import numpy as np
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from nodes import Node
from pydicom.pixels import pixel_array
from web_world import SAMPLES, World, served

LE = "1.2.840.10008.1.2.1"
AS_RECEIVED = {"Accept": "application/dicom; transfer-syntax=*"}
# Real files have dates like 1997.04.24: passed on as they are, and pydicom says so.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def read_everything(url: str) -> Counter[str]:
    """Read every study, series, instance and frame of a node; return what was compared.

    Every frame of every prepared instance is decoded from its prepared form by OpenJPEG, and
    retrieved uncompressed by dicomweb-client; both equal what pydicom and GDCM decode from the
    instance as received.
    """
    seen: Counter[str] = Counter()
    client = DICOMwebClient(f"{url}/dicom-web")

    def bulk(uri: str) -> bytes:
        """What a BulkDataURI names; it is resolved against the node (RFC 3986)."""
        seen["bulk data"] += 1
        return bytes(client.retrieve_bulkdata(urljoin(url, uri))[0])

    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        for study in client.search_for_studies():
            uid = study["0020000D"]["Value"][0]
            seen["studies"] += 1
            forms = _forms(http, uid)
            metadata = {
                one["00080018"]["Value"][0]: one for one in client.retrieve_study_metadata(uid)
            }
            for row in client.search_for_instances(uid):
                sop = row["00080018"]["Value"][0]
                seen["instances"] += 1
                series = row["0020000E"]["Value"][0]
                header = metadata.pop(sop)
                (again,) = [
                    one
                    for one in client.retrieve_series_metadata(uid, series)
                    if one["00080018"]["Value"][0] == sop
                ]
                assert again == header
                try:
                    assert pydicom.Dataset.from_json(header, bulk).SeriesInstanceUID == series
                except ValueError:
                    seen["values that pydicom refuses"] += 1  # Number of Frames is 1A
                else:
                    if forms[sop] == "htj2k":
                        _compare_frames(client, http, (uid, series, sop), header, seen)
                seen[forms[sop]] += 1
            assert not metadata, "metadata of instances that no search finds"
    return seen


def _forms(http: httpx.Client, study_uid: str) -> dict[str, str]:
    study = http.get(f"/api/v1/studies/{study_uid}").raise_for_status().json()
    return {
        one["sop_instance_uid"]: one["form"]
        for series in study["series"]
        for one in series["objects"]
    }


def _compare_frames(
    client: DICOMwebClient,
    http: httpx.Client,
    uids: tuple[str, str, str],
    header: dict[str, Any],
    seen: Counter[str],
) -> None:
    path = "/dicom-web/studies/{}/series/{}/instances/{}".format(*uids)
    received = http.get(path, headers=AS_RECEIVED).raise_for_status().content
    source = pydicom.dcmread(io.BytesIO(received))
    count = int(source.get("NumberOfFrames", 1) or 1)
    expected = _frames(source, header)
    second = _by_gdcm(received, expected)
    if second is not None:
        assert np.array_equal(second, expected), f"GDCM and pydicom disagree on {uids[2]}"
        seen["two decoders"] += 1
    numbers = list(range(1, count + 1))
    native = client.retrieve_instance_frames(
        *uids, numbers, media_types=(("application/octet-stream", LE),)
    )
    assert len(native) == count
    for number in numbers:
        wanted = expected[number - 1]
        got = np.frombuffer(native[number - 1], wanted.dtype.newbyteorder("<"))
        assert np.array_equal(got.reshape(wanted.shape), wanted), f"{uids[2]} frame {number}"
        prepared = http.get(f"{path}/frames/{number}", headers={"Accept": "image/jphc"})
        assert prepared.status_code == 200
        decoded = imagecodecs.jpeg2k_decode(prepared.content)
        assert np.array_equal(decoded, wanted), f"{uids[2]} frame {number}, prepared"
        seen["frames"] += 1


def _frames(source: pydicom.Dataset, header: dict[str, Any]) -> np.ndarray:
    """All frames as pydicom decodes them: frames x rows x columns [x samples]."""
    array = pixel_array(source, raw=True)
    sides = header["00280010"]["Value"][0], header["00280011"]["Value"][0]
    assert sides == (source.Rows, source.Columns)
    return array if int(source.get("NumberOfFrames", 1) or 1) > 1 else array[np.newaxis]


def _by_gdcm(data: bytes, like: np.ndarray) -> np.ndarray | None:
    """The same from GDCM; None where GDCM cannot read it."""
    path = Path(_Scratch.folder) / "one.dcm"
    path.write_bytes(data)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        return None
    image = reader.GetImage()
    raw: Any = image.GetBuffer()
    raw = raw.encode("utf-8", "surrogateescape") if isinstance(raw, str) else raw
    found = np.frombuffer(raw, like.dtype)
    if found.size != like.size:
        return None
    if like.ndim == 4 and image.GetPlanarConfiguration() == 1:
        frames, rows, columns, samples = like.shape
        return found.reshape(frames, samples, rows, columns).transpose(0, 2, 3, 1)
    return found.reshape(like.shape)


class _Scratch:
    """Where files for GDCM go: it reads from files only."""

    folder = ""


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path) -> None:
    _Scratch.folder = str(tmp_path)


def test_the_samples_of_pydicom(tmp_path: Path) -> None:
    """Everything in the pydicom wheel that the intake takes, prepared without a cluster."""
    seen = _served_from_files(tmp_path / "world", sorted(SAMPLES.glob("*.dcm")))
    assert seen["htj2k"] >= 10
    assert seen["frames"] >= 10
    assert seen["two decoders"] >= 0.9 * seen["htj2k"]
    assert seen["bulk data"] >= 2
    assert seen["values that pydicom refuses"] <= 1
    assert not seen[""]


def test_real_dicom(tmp_path: Path, shared_data: Path) -> None:
    """The same with every kind of real DICOM beside the project."""
    files = [path for path in (shared_data / "dicom").rglob("*") if path.is_file()]
    seen = _served_from_files(tmp_path / "world", sorted(files))
    assert seen["htj2k"] >= 300
    assert seen["two decoders"] >= 0.98 * seen["htj2k"]
    assert not seen[""]


def test_a_node(node: Node) -> None:
    """Everything that a running node has (the session's demo data)."""
    seen = read_everything(node.url)
    assert seen["studies"] >= 2
    assert seen["frames"] >= 100


def _served_from_files(folder: Path, files: list[Path]) -> Counter[str]:
    """Store, prepare and serve files in one process, and read everything."""
    world = World(folder)
    try:
        for path in files:
            world.intake.store_part10(path.read_bytes(), source="TEST")
        assert world.intake.flush(60)
        world.prepare()
        with served(world) as client:
            return read_everything(str(client.base_url))
    finally:
        world.intake.close()
