"""Containers: any tool opens them, every byte is checked, an instance is read by its range."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest

from raypacs.config import TierSettings
from raypacs.errors import ContainerCorrupt, NotFound
from raypacs.storage import container_zip as zips
from raypacs.storage.container import (
    AS_RECEIVED,
    MANIFEST,
    Container,
    ContainerWriter,
    Incoming,
    Original,
)
from raypacs.storage.tier import Tier, open_tier

PATH = "studies/1.2/1.2.3/00ff.zip"
FILES = {"1.2.3.1": b"\0" * 128 + b"DICM" + b"one" * 1000, "1.2.3.2": b"x" * 132 + b"two"}


def incoming(uid: str, data: bytes, *, form: str = AS_RECEIVED) -> Incoming:
    return Incoming(
        sop_instance_uid=uid,
        length=len(data),
        crc32=zlib.crc32(data),
        sha256=hashlib.sha256(data[132:]).hexdigest(),
        stored_sha256=hashlib.sha256(data).hexdigest(),
        form=form,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        row={"sop_instance_uid": uid, "dataset_offset_bytes": 132, "size_bytes": len(data)},
        chunks=[data[:100], data[100:]],
        original=None if form == AS_RECEIVED else Original(b"head", b"tail", 4),
    )


def written(tier: Tier) -> ContainerWriter:
    writer = ContainerWriter("1.2", "1.2.3", {"PatientID": "P1"})
    tier.put_durable(PATH, writer.chunks(incoming(uid, data) for uid, data in FILES.items()))
    return writer


@pytest.fixture(params=["file", "memory"])
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> Tier:
    url = tmp_path.as_uri() if request.param == "file" else f"memory://container{tmp_path.name}"
    return open_tier(TierSettings(name="lib", role="library", url=url))


def damage(tier: Tier, offset: int) -> None:
    data = bytearray(tier.read(PATH))
    data[offset] ^= 1
    tier.delete(PATH)
    tier.put_durable(PATH, bytes(data))


def proof(member: object, data: bytes) -> str:
    return ""


def test_python_reads_it_and_each_member_by_its_range(tier: Tier) -> None:
    writer = written(tier)
    data = tier.read(PATH)
    assert hashlib.sha256(data).hexdigest() == writer.sha256
    assert len(data) == writer.size_bytes
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["1.2.3.1.dcm", "1.2.3.2.dcm", MANIFEST]
        assert archive.read("1.2.3.2.dcm") == FILES["1.2.3.2"]
    container = Container.open(tier, PATH)
    container.check(proof, writer.sha256)
    assert (container.study_uid, container.series_uid) == ("1.2", "1.2.3")
    assert container.attributes == {"PatientID": "P1"}
    for uid, content in FILES.items():
        member = container.member(uid)
        assert tier.read(PATH, member.offset, member.length) == content
        assert b"".join(container.pieces(uid)) == content
        assert container.read(uid, 128, 4) == content[128:132]
        assert member.row["sop_instance_uid"] == uid
    with pytest.raises(NotFound):
        container.member("9")


def test_the_same_series_gives_the_same_bytes() -> None:
    def once() -> bytes:
        writer = ContainerWriter("1.2", "1.2.3", {})
        return b"".join(writer.chunks(incoming(uid, data) for uid, data in FILES.items()))

    assert once() == once()


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    tier = open_tier(TierSettings(name="lib", role="library", url=tmp_path.as_uri()))
    size = written(tier).size_bytes
    for offset in [*range(300), *range(3000, 3400), *range(size - 700, size)]:
        damage(tier, offset)
        with pytest.raises(ContainerCorrupt):
            Container.open(tier, PATH).check(proof)
        damage(tier, offset)
    Container.open(tier, PATH).check(proof)


def test_a_cut_off_or_missing_object_is_told(tier: Tier) -> None:
    with pytest.raises(NotFound):
        Container.open(tier, PATH)
    written(tier)
    data = tier.read(PATH)
    for length in (0, 10, 100, len(data) - 1):
        tier.delete(PATH)
        tier.put_durable(PATH, data[:length])
        with pytest.raises(ContainerCorrupt):
            Container.open(tier, PATH)


def test_recompressed_members_are_for_the_proof(tier: Tier) -> None:
    writer = ContainerWriter("1.2", "1.2.3", {})
    data = FILES["1.2.3.1"]
    tier.put_durable(PATH, writer.chunks([incoming("1.2.3.1", data, form="htj2k")]))
    container = Container.open(tier, PATH)
    assert container.member("1.2.3.1").original == Original(b"head", b"tail", 4)
    asked = []
    container.check(lambda member, content: asked.append((member.form, content)) or "")
    assert asked == [("htj2k", data)]
    with pytest.raises(ContainerCorrupt, match="a frame differs"):
        container.check(lambda member, content: "a frame differs")


def test_an_instance_that_changed_meanwhile_is_refused(tier: Tier) -> None:
    one = incoming("1.2.3.1", FILES["1.2.3.1"])
    other = Incoming(**{**{n: getattr(one, n) for n in Incoming.__slots__}, "chunks": [b"short"]})
    writer = ContainerWriter("1.2", "1.2.3", {})
    with pytest.raises(ContainerCorrupt, match="changed while"):
        tier.put_durable(PATH, writer.chunks([other]))
    assert not tier.exists(PATH)


def test_zip64_where_sizes_and_offsets_need_it() -> None:
    entries = [
        zips.Entry("a.dcm", 0, 5 * 2**30, 5 * 2**30, 1),
        zips.Entry("b.dcm", 6 * 2**30, 10, 10, 2),
        zips.Entry(MANIFEST, 6 * 2**30 + 100, 3, 9, 3, zips.DEFLATED),
    ]
    at = 6 * 2**30 + 200
    end = zips.directory(entries, at)
    offset, length = zips.find_directory(end[-zips.TAIL_BYTES :], at + len(end))
    assert offset == at
    assert zips.entries_of(end[:length]) == entries

    class Sparse(io.RawIOBase):
        """A file of which only the end is there."""

        place = 0

        def seekable(self) -> bool:
            return True

        def seek(self, where: int, whence: int = 0) -> int:
            self.place = (0, self.place, at + len(end))[whence] + where
            return self.place

        def tell(self) -> int:
            return self.place

        def read(self, size: int = -1) -> bytes:
            start = self.place - at
            data = end[start:] if size < 0 else end[start : start + size]
            self.place += len(data)
            return data

    with zipfile.ZipFile(Sparse()) as archive:  # type: ignore[arg-type]
        told = [(one.filename, one.header_offset, one.file_size) for one in archive.infolist()]
    assert told == [(one.name, one.offset, one.raw_size) for one in entries]


def test_many_members_need_zip64() -> None:
    entries = [zips.Entry(f"{n}.dcm", n, 1, 1, 0) for n in range(70_000)]
    end = zips.directory(entries, 70_000)
    _, length = zips.find_directory(end[-zips.TAIL_BYTES :], 70_000 + len(end))
    assert len(zips.entries_of(end[:length])) == 70_000


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
def test_unzip_opens_it(tmp_path: Path) -> None:
    tier = open_tier(TierSettings(name="lib", role="library", url=tmp_path.as_uri()))
    written(tier)
    done = subprocess.run(
        ["unzip", "-t", str(tier.local_path(PATH))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "No errors detected" in done.stdout
