"""A real node archives, evicts, restores and verifies: by the commands an operator would use."""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from nodes import Node, start, stop, write_config

from raypacs.synthetic import generate_ct_series

SLICES = 5
PATIENCE_S = 90
NATIVE = str(pydicom.uid.ExplicitVRLittleEndian)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("autopilot")
    running = start(write_config(folder, dashboard=False), folder / "data")
    yield running
    assert stop(running) == 0


@pytest.fixture(scope="module")
def sent(site: Node, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two studies, received and prepared: study UID to the folder of its files."""
    found = {}
    for seed in (701, 702):
        folder = tmp_path_factory.mktemp(f"sent{seed}")
        generate_ct_series(folder, slices=SLICES, rows=64, columns=64, seed=seed)
        uid = str(pydicom.dcmread(next(iter(sorted(folder.rglob("*.dcm"))))).StudyInstanceUID)
        told(site, "ingest", str(folder))
        found[uid] = folder
    for uid in found:
        told(site, "wait", "--prepared", uid)
    return found


def told(node: Node, *words: str) -> Any:
    return json.loads(node.cli(*words, "--json").stdout)


def until(what: Callable[[], Any]) -> Any:
    """Ask until the answer is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := what()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.3)
    return answer


def copies(node: Node, uid: str) -> dict[str, dict[str, Any]]:
    return {copy["tier"]: copy for copy in told(node, "show", uid)["study"]["copies"]}


def datasets(folder: Path) -> dict[str, str]:
    """SOP Instance UID to SHA-256 of the pixel data."""
    found = {}
    for path in folder.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        found[str(dataset.SOPInstanceUID)] = hashlib.sha256(dataset.PixelData).hexdigest()
    return found


def retrieved(node: Node, uid: str) -> tuple[int, dict[str, str]]:
    """Retrieve a study as received (PS3.18 section 10.4)."""
    answer = httpx.get(
        f"{node.url}/dicom-web/studies/{uid}",
        headers={
            "Accept": f'multipart/related; type="application/dicom"; transfer-syntax={NATIVE}'
        },
        timeout=PATIENCE_S,
    )
    found = {}
    if answer.status_code == 200:
        boundary = answer.headers["content-type"].partition("boundary=")[2].split(";")[0].strip('"')
        for part in answer.content.split(b"--" + boundary.encode())[1:-1]:
            dataset = pydicom.dcmread(BytesIO(part.partition(b"\r\n\r\n")[2]))
            assert dataset.file_meta.TransferSyntaxUID == NATIVE
            found[str(dataset.SOPInstanceUID)] = hashlib.sha256(dataset.PixelData).hexdigest()
    return answer.status_code, found


@pytest.mark.timeout(600)  # a node, and three dozen commands of a process each
def test_archived_evicted_viewed_verified(
    site: Node, sent: dict[str, Path], tmp_path: Path
) -> None:
    node, library = site, tmp_path / "library"
    library.mkdir()
    first, second = sent
    # Not archived: nothing leaves, whatever the level.
    assert node.cli("cache", "evict", "--study", first, "--json", check=False).returncode != 0
    told(node, "tier", "add", "shelf", library.as_uri(), "--role", "library")
    told(node, "archive", "now", first, second)
    until(lambda: all(copies(node, u).get("shelf", {}).get("archive_proven") for u in sent))

    # Any tool opens what lies there.
    for path in library.rglob("*.zip"):
        with zipfile.ZipFile(path) as file:
            assert file.testzip() is None
            names = [name for name in file.namelist() if name.endswith(".dcm")]
            assert len(names) == SLICES
            for name in names:
                pydicom.dcmread(BytesIO(file.read(name)))

    told(node, "cache", "evict", "--study", first)
    told(node, "cache", "evict", "--study", first, "--tier", "web1")
    assert set(copies(node, first)) == {"shelf"}
    image = next(
        Path(t["url"].removeprefix("file://"))
        for t in told(node, "tier", "list")
        if t["name"] == "image1"
    )
    until(lambda: not list((image / "studies" / first).rglob("*.dcm")))
    status, found = retrieved(node, first)  # restored meanwhile
    assert (status, found) == (200, datasets(sent[first]))
    assert "image1" in until(lambda: copies(node, first))
    events = [one["event"] for one in told(node, "why", first)["events"]]
    assert {"archived", "evicted", "restored"} <= set(events)

    # A flipped byte in the library: found, and the cached copy stays.
    node.cli("queue", "halt", "ARCHIVE")
    (path,) = (library / "studies" / second).rglob("*.zip")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    node.cli("archive", "verify", second, "--json", check=False)
    until(lambda: not copies(node, second)["shelf"]["archive_proven"])
    assert node.cli("cache", "evict", "--study", second, "--json", check=False).returncode != 0
    assert list((image / "studies" / second).rglob("*.dcm"))

    # It is archived again by itself, from the cached copy; then it may go.
    node.cli("queue", "resume", "ARCHIVE")
    until(lambda: copies(node, second)["shelf"]["archive_proven"])
    told(node, "cache", "evict", "--study", second)
    assert all(one["difference_bytes"] == 0 for one in told(node, "tier", "recount")["ledger"])
