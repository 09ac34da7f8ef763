"""dcmtk's storescu sends real files of every kind to a running node, twice."""

from __future__ import annotations

import hashlib
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from nodes import Node

from raypacs.config import load_bootstrap
from raypacs.dicom import split_part10
from raypacs.errors import MalformedInstance
from raypacs.index.reader import IndexReader
from raypacs.storage.tier import open_tier

WHEEL = Path(pydicom.__file__).parent / "data"
PROFILE = """[[TransferSyntaxes]]
[One]
TransferSyntax1 = {syntax}
[[PresentationContexts]]
[Contexts]
PresentationContext1 = {sop_class}\\One
[[Profiles]]
[Default]
PresentationContexts = Contexts
"""


@dataclass(frozen=True)
class Sent:
    """What storescu said of one file."""

    path: Path
    status: str
    said: str


def sendable(path: Path) -> bool:
    """Whether a file has a valid meta header: the four identifying UIDs are there."""
    try:
        part10 = split_part10(path.read_bytes())
    except (MalformedInstance, OSError):
        return False
    return bool(part10.sop_class_uid and part10.sop_instance_uid)


def send(storescu: str, node: Node, path: Path, folder: Path) -> Sent:
    """Send one file, proposing exactly its SOP class and transfer syntax."""
    part10 = split_part10(path.read_bytes())
    profile = folder / "profile.cfg"
    profile.write_text(
        PROFILE.format(syntax=part10.transfer_syntax_uid, sop_class=part10.sop_class_uid)
    )
    done = subprocess.run(
        [
            *(storescu, "-v", "-xf", str(profile), "Default", "-aet", "STORESCU"),
            *("-aec", "RAYPACS", "127.0.0.1", str(node.dicom_port), str(path)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr
    answers = [line for line in said.splitlines() if "Received Store Response" in line]
    return Sent(path, answers[-1].partition("(")[2].rstrip(")") if answers else "", said)


def data_set_digest(data: bytes) -> str:
    return hashlib.sha256(data[split_part10(data).dataset_offset :]).hexdigest()


def stored_files(node: Node) -> dict[str, tuple[str, bytes]]:
    """SOP Instance UID to (transfer syntax, file) of what the index serves."""
    reader = IndexReader(load_bootstrap(node.config).database_url)
    _, settings = reader.settings()
    tiers = {tier.name: open_tier(tier) for tier in settings.tiers}
    found = {}
    for study in reader.studies():
        for one in reader.instances(study["study_uid"]):
            record = one.record
            found[record.sop_instance_uid] = (
                record.transfer_syntax_uid,
                tiers[record.tier].read(record.path),
            )
    reader.close()
    return found


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and sendable(path))


@pytest.mark.parametrize("collection", ["wheel", "shared"])
def test_everything_is_stored_as_sent_or_refused_for_a_reason(
    collection: str,
    node: Node,
    peer: Callable[[str], str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    storescu = peer("storescu")
    folder = WHEEL if collection == "wheel" else request.getfixturevalue("shared_data") / "dicom"
    sent = [send(storescu, node, path, tmp_path) for path in files(folder)]
    node.cli("wait", "--prepared")
    before = stored_files(node)
    aside = {row.sop_instance_uid: row for row in asides(node)}
    tally: Counter[str] = Counter()
    for one in sent:
        data = one.path.read_bytes()
        part10 = split_part10(data)
        uid = part10.sop_instance_uid
        if one.status == "Success":
            syntax, stored = before[uid]
            assert syntax == part10.transfer_syntax_uid, one.path
            assert data_set_digest(stored) == data_set_digest(data), one.path
        elif "0x111" in one.status:
            syntax, stored = before[uid]
            assert data_set_digest(stored) != data_set_digest(data), one.path
            assert aside[uid].outcome == "conflict", one.path
        elif one.status:
            assert one.path.name in ("SC_rgb_jpeg.dcm", "bad_sequence.dcm") or (
                not pydicom.dcmread(one.path, force=True).get("StudyInstanceUID")
            ), (one.path, one.said[-500:])
        else:
            # storescu itself would not send it; it says why.
            assert "F: " in one.said or "E: " in one.said or "W: " in one.said, one.path
        tally[one.status or "not sent by storescu"] += 1
    assert tally["Success"] > len(sent) * 0.6, tally
    again = [send(storescu, node, one.path, tmp_path) for one in sent]
    assert [one.status for one in again] == [one.status for one in sent]
    node.cli("wait", "--prepared")
    after = stored_files(node)
    assert after == before


def asides(node: Node):
    reader = IndexReader(load_bootstrap(node.config).database_url)
    found = reader.aside(limit=10_000)
    reader.close()
    return found
