"""A real node adopts a folder tree: served, prepared, written out, and not a byte of it changed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from nodes import Node, start, stop, write_config
from pydicom.fileset import FileSet

from raypacs.synthetic import generate_ct_series

SLICES = 6


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies in folders of any name, beside other files."""
    folder = tmp_path_factory.mktemp("archive")
    for seed in (501, 502):
        place = folder / f"patient {seed}" / "images"
        generate_ct_series(place, slices=SLICES, rows=64, columns=64, seed=seed)
        for number, path in enumerate(sorted(place.iterdir())):
            path.rename(path.with_name(f"IMG{number}"))
    (folder / "README").write_text("not DICOM")
    (folder / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"?" * 40)
    return folder


@pytest.fixture(scope="module")
def old_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("site")
    running = start(write_config(folder, dashboard=False), folder / "data")
    yield running
    assert stop(running) == 0


def _print(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
    }


def _told(node: Node, *words: str, check: bool = True) -> Any:
    return json.loads(node.cli(*words, "--json", check=check).stdout)


def test_an_archive_is_adopted_served_prepared_and_written_out(
    old_node: Node, archive: Path, tmp_path: Path
) -> None:
    node, before = old_node, _print(archive)
    report = tmp_path / "report.jsonl"
    told = _told(node, "adopt", str(archive), "--name", "old", "--report", str(report))
    assert (told["state"], told["tier"], told["progress"]["indexed"]) == (
        "COMPLETED",
        "old",
        2 * SLICES,
    )
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert {line["path"] for line in lines} == {"README", "broken.dcm"}

    web = DICOMwebClient(f"{node.url}/dicom-web")
    studies = [pydicom.Dataset.from_json(one) for one in web.search_for_studies()]
    assert len(studies) == 2
    uid = studies[0].StudyInstanceUID
    sent = {
        dataset.SOPInstanceUID: dataset
        for dataset in map(pydicom.dcmread, archive.rglob("IMG*"))
        if dataset.StudyInstanceUID == uid
    }
    _frames_agree(web, sent)
    time.sleep(6)  # longer than quiet_s: nothing is prepared that nobody asked for
    assert node.status()["instances"]["prepared"] == 0

    again = _told(node, "adopt", str(archive), "--prepare")
    assert (again["progress"]["known"], again["progress"]["indexed"]) == (2 * SLICES, 0)
    assert _told(node, "wait", "--prepared", uid)["prepared"] == SLICES
    assert _told(node, "show", uid)["series"][0]["forms"] == {"htj2k": SLICES}
    _frames_agree(web, sent)

    out = tmp_path / "out"
    assert _told(node, "get", uid, str(out))["left_out"] == {}
    written = {one.SOPInstanceUID: Path(one.path) for one in FileSet(out / "DICOMDIR")}
    assert written.keys() == sent.keys()
    for sop, path in written.items():
        assert path.read_bytes() == Path(str(sent[sop].filename)).read_bytes()

    assert _told(node, "delete", uid, "--yes")["deleted_objects"] == 2
    kept = _told(node, "adopt", str(archive))
    assert (kept["progress"]["refused"], kept["progress"]["known"]) == (SLICES, SLICES)
    assert node.cli("show", uid, check=False).returncode == 4
    assert _print(archive) == before


def _frames_agree(web: DICOMwebClient, sent: dict[str, pydicom.Dataset]) -> None:
    for sop, dataset in sent.items():
        (frame,) = web.retrieve_instance_frames(
            dataset.StudyInstanceUID,
            dataset.SeriesInstanceUID,
            sop,
            frame_numbers=[1],
            media_types=("application/octet-stream",),
        )
        assert np.array_equal(np.frombuffer(frame, "<u2").reshape(64, 64), dataset.pixel_array)
