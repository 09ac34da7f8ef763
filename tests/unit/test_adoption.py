"""Files of archives described from their beginnings: as whole files are, and nothing is missed."""

from __future__ import annotations

import io
import os
import uuid
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_files
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from web_world import image_file

from raypacs.config import TierSettings
from raypacs.errors import ConfigError, MalformedInstance, ObjectChanged, TierUnavailable
from raypacs.records import InstanceRecord
from raypacs.storage import adoption
from raypacs.storage.adopted import AdoptedTier, Skipped, check_unchanged, is_unchanged
from raypacs.storage.adoption import describe_file
from raypacs.storage.checksums import dataset_sha256
from raypacs.storage.objects import ObjectInfo
from raypacs.storage.recovery import describe_stored
from raypacs.storage.tier import open_tier


def tier_at(url: str, adopted: str = "folder") -> AdoptedTier:
    values = {"name": "old", "role": "image", "url": url, "read_only": True, "adopted": adopted}
    tier = open_tier(TierSettings.model_validate(values))
    assert isinstance(tier, AdoptedTier)
    return tier


def found(tier: AdoptedTier) -> dict[str, InstanceRecord | Skipped]:
    files = {}
    for one in tier.files():
        described = describe_file(tier, one, "me")[0] if isinstance(one, ObjectInfo) else one
        files[described.path] = described
    return files


def why(tier: AdoptedTier, path: str) -> str:
    one = found(tier)[path]
    assert isinstance(one, Skipped)
    return one.why


def picture(**elements: Any) -> bytes:
    return image_file(np.full((64, 64), 7, np.uint16), 1, **elements)


@pytest.mark.parametrize("first_bytes", [200, 1000, 1 << 20])
def test_as_from_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_bytes: int
) -> None:
    """Every file that pydicom carries, however little of it is read at first."""
    monkeypatch.setattr(adoption, "_FIRST_BYTES", first_bytes)
    count = 0
    for path in map(Path, get_testdata_files()):
        if path.is_dir() or path.name == "DICOMDIR":
            continue
        tier = tier_at(str(path.parent))
        info = tier.stat(path.name)
        described, read = describe_file(tier, info, "me")
        assert read <= max(info.size_bytes, 1)
        try:
            whole = describe_stored(tier, info)
        except MalformedInstance:
            # Fragments are not walked: what is wrong in there shows when they are read.
            if isinstance(described, InstanceRecord):
                assert described.pixel_length_bytes == -1
            continue
        if isinstance(described, Skipped):
            assert described.why == "a DICOMDIR"
            continue
        assert described == replace(whole, sha256="", source="me")
        assert dataset_sha256(tier, described) == whole.sha256
        count += 1
    assert count > 50


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
)
def test_other_syntaxes(tmp_path: Path, syntax: str) -> None:
    dataset = pydicom.dcmread(io.BytesIO(picture()))
    dataset.file_meta.TransferSyntaxUID = syntax
    out = io.BytesIO()
    pydicom.dcmwrite(
        out,
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    (tmp_path / "a").write_bytes(out.getvalue())
    tier = tier_at(str(tmp_path))
    info = tier.stat("a")
    described, _ = describe_file(tier, info, "me")
    assert described == replace(describe_stored(tier, info), sha256="", source="me")


def test_only_the_header_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(image_file(np.zeros((2000, 2000), np.uint16)))
    tier = tier_at(str(tmp_path))
    _, read = describe_file(tier, tier.stat("a"), "me")
    assert read == adoption._FIRST_BYTES


def test_a_big_header_is_read_on_and_a_last_value_is_not(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(io.BytesIO(picture()))
    dataset.add_new(0x00091001, "OB", bytes(600_000))
    dataset.save_as(tmp_path / "big")
    tier = tier_at(str(tmp_path))
    described, read = describe_file(tier, tier.stat("big"), "me")
    assert isinstance(described, InstanceRecord)
    assert (described.rows, read >= 600_000) == (64, True)
    del dataset[0x00091001], dataset["PixelData"]
    del dataset["Rows"]
    dataset.EncapsulatedDocument = bytes(600_000)
    dataset.save_as(tmp_path / "pdf")
    described, read = describe_file(tier, tier.stat("pdf"), "me")
    assert isinstance(described, InstanceRecord)
    assert read == adoption._FIRST_BYTES


def test_what_is_none_is_skipped_with_its_reason(tmp_path: Path) -> None:
    data = picture()
    for name, content in {
        "empty": b"",
        "text": b"hello",
        "bare": data[132:],
        "cut": data[:-100],
        "head": data[:400],
        "nouid": data.replace(b"1.2.3.1.1\0", b"x.2.3.1.1\0"),
        "zipped": len(data).to_bytes(8, "little") + zlib.compress(data),
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link").symlink_to(tmp_path / "text")
    os.mkfifo(tmp_path / "pipe")
    tier = tier_at(str(tmp_path))
    told = {path: one.why for path, one in found(tier).items() if isinstance(one, Skipped)}
    assert set(told) == {path.name for path in tmp_path.iterdir()}
    assert told["empty"] == "empty"
    assert "no DICM prefix" in told["text"]
    assert "no DICM prefix" in told["bare"]
    assert "truncated" in told["cut"]
    assert "truncated" in told["head"] or "ends within" in told["head"]
    assert "is not a UID" in told["nouid"]
    assert "compressed by Orthanc" in told["zipped"]
    assert "symbolic link" in told["link"]
    assert told["pipe"] == "no regular file"


def test_a_name_that_no_index_holds_is_told(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/b\xe9ta", "wb") as file:
        file.write(picture())
    assert found(tier_at(str(tmp_path))) == {
        "b\\udce9ta": Skipped("b\\udce9ta", "its name is not UTF-8")
    }


def test_a_file_that_goes_or_grows_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(picture()[:500])
    tier = tier_at(str(tmp_path))
    info = tier.stat("a")
    (tmp_path / "a").write_bytes(picture())
    described, _ = describe_file(tier, info, "me")
    assert isinstance(described, InstanceRecord)
    assert described.size_bytes == len(picture())
    (tmp_path / "a").unlink()
    gone, _ = describe_file(tier, info, "me")
    assert gone == Skipped("a", "it was deleted meanwhile")


class TestOrthanc:
    def store(self, folder: Path, data: bytes) -> str:
        name = str(uuid.uuid4())
        place = folder / name[:2] / name[2:4]
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
        return str((place / name).relative_to(folder))

    def test_attachments_are_adopted_and_the_rest_is_not(self, tmp_path: Path) -> None:
        image = self.store(tmp_path, picture())
        json = self.store(tmp_path, b'{"0008,0018": "1.2"}')
        header = self.store(tmp_path, picture()[: picture().index(b"\xe0\x7f\x10\0")])
        packed = self.store(
            tmp_path, len(picture()).to_bytes(8, "little") + zlib.compress(picture())
        )
        (tmp_path / "index").write_bytes(b"SQLite format 3\0")
        (tmp_path / "aa" / "bb").mkdir(parents=True, exist_ok=True)
        (tmp_path / "aa" / "bb" / "notes.dcm").write_bytes(picture())
        told = found(tier_at(str(tmp_path), "orthanc"))
        assert [path for path, one in told.items() if isinstance(one, InstanceRecord)] == [image]
        assert "no DICM prefix" in told[json].why  # type: ignore[union-attr]
        assert "without its pixels" in told[header].why  # type: ignore[union-attr]
        assert "compressed by Orthanc" in told[packed].why  # type: ignore[union-attr]
        assert "not an attachment" in told["index"].why  # type: ignore[union-attr]
        assert "not an attachment" in told["aa/bb/notes.dcm"].why  # type: ignore[union-attr]

    def test_its_object_storage(self, tmp_path: Path) -> None:
        name = str(uuid.uuid4())
        for suffix in (".dcm", ".json", ".dcm.head", ".unk"):
            (tmp_path / f"{name}{suffix}").write_bytes(picture())
        told = found(tier_at(str(tmp_path), "orthanc"))
        assert [path for path, one in told.items() if isinstance(one, InstanceRecord)] == [
            f"{name}.dcm"
        ]


class TestStore:
    """An archive without files of a file system: range reads."""

    @pytest.fixture
    def tier(self) -> AdoptedTier:
        url = f"memory://{uuid.uuid4().hex}"
        for name in ("a/1", "b/2", "notes.txt"):
            with fsspec.open(f"{url}/{name}", "wb") as file:
                file.write(picture() if name != "notes.txt" else b"hello")
        return tier_at(url)

    def test_listed_and_described(self, tier: AdoptedTier) -> None:
        told = found(tier)
        assert {path for path, one in told.items() if isinstance(one, InstanceRecord)} == {
            "a/1",
            "b/2",
        }
        record = told["a/1"]
        assert isinstance(record, InstanceRecord)
        assert tier.read("a/1") == picture()
        check_unchanged(tier, record)
        assert len(dataset_sha256(tier, record)) == 64
        with pytest.raises(ObjectChanged):
            check_unchanged(tier, replace(record, received_at_s=1.0))
        assert not is_unchanged(tier, replace(record, path="gone"))

    def test_nothing_is_written(self, tier: AdoptedTier) -> None:
        with pytest.raises(TierUnavailable):
            tier.put_durable("x", b"x")
        with pytest.raises(TierUnavailable):
            tier.delete("a/1")
        assert tier.exists("a/1")


def test_settings_of_an_adopted_tier() -> None:
    for changes in ({"role": "web"}, {"read_only": False}, {"adopted": "zip"}):
        with pytest.raises(ValueError, match=r"adopted|Input should be"):
            TierSettings.model_validate(
                {"name": "a", "role": "image", "url": "/a", "read_only": True, "adopted": "folder"}
                | changes
            )
    with pytest.raises((ConfigError, TierUnavailable)):
        tier_at("/nowhere/at/all")
