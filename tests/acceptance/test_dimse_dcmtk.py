"""Real DICOM through the port: dcmtk's storescu, echoscu, dcmsend, and every byte of the samples.

The samples are a folder of real DICOM beside the project (`../shared/data/dicom`, or the folder
that `RAYPACS_SAMPLES` names) and are never copied into it.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import dcmtk
import pytest
from dicom_bytes import CT, SYNTAX, data_set
from fake_index import FakeIndex, image_tier, make_intake
from raw_sender import RawSender

from raypacs.dicom import Part10, file_meta, split_part10
from raypacs.dimse.server import DicomServer, DicomSpec, serve_dicom
from raypacs.errors import MalformedInstance
from raypacs.records import Outcome

SAMPLES = Path(
    os.environ.get("RAYPACS_SAMPLES", Path(__file__).resolve().parents[3] / "shared/data/dicom")
)


def missing(what: str) -> None:
    """Skip with the reason; in CI nothing may be left out."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI is set")
    pytest.skip(f"{what} is missing")


def tool(name: str) -> str:
    found = dcmtk.find(name)
    if found is None:
        missing(f"dcmtk's {name} (Debian: apt-get install dcmtk)")
    assert found is not None
    return found


def samples() -> list[tuple[Path, Part10, bytes]]:
    """Every sample with valid file meta: path, meta, data set."""
    found = []
    for path in sorted(p for p in SAMPLES.rglob("*") if p.is_file()):
        content = path.read_bytes()
        try:
            part10 = split_part10(content)
        except MalformedInstance:
            continue
        if part10.sop_class_uid and part10.sop_class_uid != "1.2.840.10008.1.3.10":  # DICOMDIR
            found.append((path, part10, content[part10.dataset_offset :]))
    if not found:
        missing(f"real DICOM in {SAMPLES}")
    return found


class World:
    """A listening port over an index in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = FakeIndex()
        self.intake = make_intake(folder, self.index)
        self.server: DicomServer = serve_dicom(
            DicomSpec("127.0.0.1", 0, "RAYPACS"), self.intake, association_ended=lambda _: None
        )

    def objects(self) -> dict[str, bytes]:
        tier = image_tier(self.folder / "image")
        return {
            info.path: tier.read(info.path) for info in tier.walk() if "intake/" not in info.path
        }

    def dataset_of(self, uid: str) -> bytes:
        record = self.index.instances[uid]
        return image_tier(self.folder / "image").read(record.path, record.dataset_offset_bytes)

    def aside_datasets(self) -> set[bytes]:
        tier, found = image_tier(self.folder / "image"), set()
        for aside in self.index.asides:
            content = tier.read(aside.path)
            found.add(content[split_part10(content).dataset_offset :])
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.server.shutdown(1)
    made.intake.close()


class Recorder:
    """Relays one association to the port and keeps each C-STORE data set that went through."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.sent: list[tuple[str, bytes]] = []
        self.statuses: list[int] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        near, _ = self._listening.accept()
        far = socket.create_connection(("127.0.0.1", self._target))
        for side in (near, far):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=self._relay, args=(far, near, False), daemon=True)
        back.start()
        self._relay(near, far, True)
        back.join()
        near.close()
        far.close()

    def _relay(self, source: socket.socket, sink: socket.socket, requests: bool) -> None:
        stream = source.makefile("rb")
        command, dataset = b"", []
        while len(head := stream.read(6)) == 6:
            body = stream.read(struct.unpack(">I", head[2:])[0])
            sink.sendall(head + body)
            at = 0
            while head[0] == 4 and at < len(body):
                length, _, flags = struct.unpack_from(">IBB", body, at)
                piece = body[at + 6 : at + 4 + length]
                at += 4 + length
                if flags & 1:
                    command += piece
                else:
                    dataset.append(piece)
                if flags == 2:
                    uid = self._value(command, 0x1000).decode().strip("\0 ")
                    self.sent.append((uid, b"".join(dataset)))
                    command, dataset = b"", []
                elif flags == 3 and not requests:
                    self.statuses.append(struct.unpack("<H", self._value(command, 0x900))[0])
                    command = b""
        sink.shutdown(socket.SHUT_WR)

    @staticmethod
    def _value(command: bytes, number: int) -> bytes:
        at = 0
        while at < len(command):
            _, found, length = struct.unpack_from("<HHI", command, at)
            if found == number:
                return command[at + 8 : at + 8 + length]
            at += 8 + length
        return b""

    def close(self) -> None:
        self._threads[0].join(10)
        self._listening.close()


def profile(path: Path, pairs: set[tuple[str, str]]) -> Path:
    """A storescu configuration that proposes each (SOP class, transfer syntax) as it is."""
    syntaxes = {uid: f"T{n}" for n, uid in enumerate(sorted({syntax for _, syntax in pairs}))}
    lines = ["[[TransferSyntaxes]]"]
    for uid, name in syntaxes.items():
        lines += [f"[{name}]", f"TransferSyntax1 = {uid}"]
    lines += ["[[PresentationContexts]]", "[All]"]
    for n, (sop_class, syntax) in enumerate(sorted(pairs), 1):
        lines.append(f"PresentationContext{n} = {sop_class}\\{syntaxes[syntax]}")
    lines += ["[[Profiles]]", "[All]", "PresentationContexts = All"]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_echoscu(world: World) -> None:
    command = [tool("echoscu"), "-aec", "RAYPACS", "127.0.0.1", str(world.server.port)]
    assert subprocess.run(command, timeout=60).returncode == 0


def test_every_sample_is_stored_to_the_byte_or_refused_rightly(world: World) -> None:
    """By a raw sender, so that what is sent is exactly what lies in the sample's file."""
    everything = samples()
    contexts = sorted({(p.sop_class_uid, p.transfer_syntax_uid) for _, p, _ in everything})
    assert len(contexts) <= 128

    def send_all() -> dict[Path, int]:
        raw = RawSender(world.server.port, *contexts)
        answers = {}
        for path, part10, dataset in everything:
            context = 2 * contexts.index((part10.sop_class_uid, part10.transfer_syntax_uid)) + 1
            uid = part10.sop_instance_uid
            answers[path] = raw.store(context, part10.sop_class_uid, uid, dataset)
        raw.socket.close()
        assert world.intake.flush(30)
        return answers

    answers, aside = send_all(), world.aside_datasets()
    for path, part10, dataset in everything:
        status, uid = answers[path], part10.sop_instance_uid
        if status == 0:
            assert world.dataset_of(uid) == dataset, path
        else:
            assert dataset in aside, path
        if status == 0x0111:
            assert world.dataset_of(uid) != dataset
    reasons = {aside.sha256: aside.reason for aside in world.index.asides}
    refused = {
        path.name: (answers[path], reasons[hashlib.sha256(dataset).hexdigest()])
        for path, _, dataset in everything
        if answers[path] not in (0, 0x0111)
    }
    right = ("truncated", "is not a UID", "differs from the announced", "no valid VR")
    assert all(any(word in reason for word in right) for _, reason in refused.values())
    assert refused["MR_truncated.dcm"][0] == refused["rtplan_truncated.dcm"][0] == 0xC000
    assert sum(status == 0 for status in answers.values()) > 300
    before, asides = world.objects(), len(world.index.asides)
    assert send_all() == answers  # a second send changes nothing
    assert world.objects() == before
    assert len(world.index.asides) == asides


def test_storescu_sends_the_samples(world: World, tmp_path: Path) -> None:
    """What dcmtk reads it encodes anew, so the comparison is with what it sent."""
    storescu, everything = tool("storescu"), samples()
    # dcmtk 3.6.7 does not know HTJ2K and cannot read these files.
    known = [
        s for s in everything if not s[1].transfer_syntax_uid.startswith("1.2.840.10008.1.2.4.20")
    ]
    pairs = {(p.sop_class_uid, p.transfer_syntax_uid) for _, p, _ in known}
    config = profile(tmp_path / "all.cfg", pairs)

    def send_all() -> Recorder:
        recorder = Recorder(world.server.port)
        command = [storescu, "--no-halt", "-xf", str(config), "All", "-aec", "RAYPACS"]
        command += ["--max-send-pdu", "131072", "127.0.0.1", str(recorder.port)]
        done = subprocess.run(
            [*command, *(str(path) for path, _, _ in known)],
            capture_output=True,
            timeout=200,
            text=True,
        )
        recorder.close()
        assert world.intake.flush(30)
        assert len(recorder.sent) == len(recorder.statuses), done.stderr[-2000:]
        return recorder

    first = send_all()
    assert len(first.sent) > 400
    aside = world.aside_datasets()
    outcomes = {a.outcome for a in world.index.asides}
    assert outcomes <= {Outcome.CONFLICT, Outcome.QUARANTINED}
    for (uid, dataset), status in zip(first.sent, first.statuses, strict=True):
        assert world.dataset_of(uid) == dataset if status == 0 else dataset in aside
    before = world.objects()
    second = send_all()
    assert second.sent == first.sent
    assert second.statuses == first.statuses
    assert world.objects() == before


def test_dcmsend_sends_a_folder(world: World, tmp_path: Path) -> None:
    dcmsend, folder = tool("dcmsend"), tmp_path / "send"
    folder.mkdir()
    for n in range(20):
        uid = f"1.2.3.{n}"
        content = file_meta(CT, uid, SYNTAX) + data_set(uid)
        (folder / f"{n}.dcm").write_bytes(content)
    command = [dcmsend, "+sd", "127.0.0.1", str(world.server.port), str(folder)]
    assert subprocess.run(command, timeout=60, capture_output=True).returncode == 0
    assert world.intake.flush(10)
    assert {world.dataset_of(uid) for uid in world.index.instances} == {
        data_set(f"1.2.3.{n}") for n in range(20)
    }
