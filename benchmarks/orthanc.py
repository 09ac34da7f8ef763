"""Start the peer Orthanc as a user would run it: durable, DICOMweb plugin on, its own storage."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.figure import MissingPeer

AE_TITLE = "ORTHANC"
DICOM_WEB = "/dicom-web"

# Accept headers of PS3.18 section 8.7.3; what Orthanc makes of them is told in peers.py.
FRAMES_AS_STORED = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
FRAMES_NATIVE = 'multipart/related; type="application/octet-stream"'


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc: its ports on loopback, process id and version."""

    version: str
    dicom_port: int
    http_port: int
    pid: int
    log: Path

    @property
    def label(self) -> str:
        """Name and version, for a figure's ``beside``."""
        return f"Orthanc {self.version}"

    @property
    def url(self) -> str:
        """Base URL of the REST API."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb(self) -> str:
        """Base URL of DICOMweb (PS3.18)."""
        return self.url + DICOM_WEB

    def upload(self, data: bytes) -> None:
        """Store one Part 10 file by the REST API.

        Raises:
            urllib.error.HTTPError: refused.
        """
        request = urllib.request.Request(f"{self.url}/instances", data=data, method="POST")
        request.add_header("Content-Type", "application/dicom")
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()

    def raw_frame_urls(self) -> list[str]:
        """URLs of frame 1 of every instance in Orthanc's own REST API, as stored."""
        with urllib.request.urlopen(f"{self.url}/instances", timeout=60) as answer:
            return [f"{self.url}/instances/{one}/frames/0/raw" for one in json.load(answer)]

    def statistics(self) -> dict[str, Any]:
        """Return Orthanc's `/statistics` (counts and bytes)."""
        with urllib.request.urlopen(f"{self.url}/statistics", timeout=60) as answer:
            return json.load(answer)


@contextlib.contextmanager
def start_orthanc(**options: Any) -> Iterator[Orthanc]:
    """Run Orthanc on free loopback ports with an empty storage; end it and remove it after.

    ``options`` are added to its configuration (see :func:`configuration`).

    Raises:
        MissingPeer: not installed, or not root.
        RuntimeError: it did not answer in time; holds the tail of its log.
    """
    version = peers.require("orthanc")
    if os.geteuid() != 0:
        raise MissingPeer("orthanc", why="starting it by chroot needs root")
    home = Path(tempfile.mkdtemp(prefix="orthanc-", dir=peers.TRIXIE / "tmp"))
    dicom_port, http_port = free_ports(2)
    inside = Path("/") / home.relative_to(peers.TRIXIE)
    settings = configuration(str(inside / "db"), dicom_port, http_port) | options
    (home / "db").mkdir()
    (home / "orthanc.json").write_text(json.dumps(settings, indent=2))
    log = home / "log"
    command = ["chroot", str(peers.TRIXIE), "/usr/sbin/Orthanc", str(inside / "orthanc.json")]
    try:
        with log.open("wb") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL)
        try:
            running = Orthanc(version, dicom_port, http_port, process.pid, log)
            _wait_until_ready(running, process)
            yield running
        finally:
            stop(process)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def configuration(storage: str, dicom_port: int, http_port: int) -> dict[str, Any]:
    """Return Orthanc's configuration: Debian's default but for what is listed here.

    - own folder and ports, loopback, no authentication (raypacs is measured the same way);
    - `SyncStorageArea` true: an instance is on the disk before it is acknowledged (Orthanc's
      default, written down because raypacs is measured the same way);
    - DICOMweb plugin on (`/dicom-web/`), the other plugins off: they are not used;
    - `DicomThreadsCount` 4, `HttpThreadsCount` 50, `MaximumStorageCacheSize` 128 MB, `KeepAlive`
      and `TcpNoDelay` true: Debian's values.
    """
    return {
        "Name": "benchmark",
        "StorageDirectory": storage,
        "IndexDirectory": storage,
        "SyncStorageArea": True,
        "StorageCompression": False,
        "OverwriteInstances": False,
        "MaximumStorageCacheSize": 128,
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
        "DicomWeb": {"Enable": True, "Root": f"{DICOM_WEB}/", "EnableWado": False},
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "HttpPort": http_port,
        "HttpThreadsCount": 50,
        "KeepAlive": True,
        "TcpNoDelay": True,
        "DicomAet": AE_TITLE,
        "DicomPort": dicom_port,
        "DicomThreadsCount": 4,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "UnknownSopClassAccepted": True,
        "AcceptedTransferSyntaxes": ["1.2.840.10008.1.*"],
    }


def free_ports(count: int) -> list[int]:
    """Return ``count`` TCP ports that are free on loopback now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def stop(process: subprocess.Popen[bytes], *, timeout_s: float = 20.0) -> None:
    """End a process that this benchmark started: SIGTERM, after ``timeout_s`` SIGKILL."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_ready(running: Orthanc, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{running.url}/system", timeout=5) as answer:
                answer.read()
            socket.create_connection(("127.0.0.1", running.dicom_port), timeout=5).close()
            return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    tail = running.log.read_text(errors="replace").splitlines()[-8:]
    raise RuntimeError("Orthanc did not answer within 60 s:\n" + "\n".join(tail))


def upload_all(orthanc: Orthanc, files: Sequence[Path]) -> None:
    """Store ``files`` one after another by the REST API."""
    for file in files:
        orthanc.upload(file.read_bytes())
