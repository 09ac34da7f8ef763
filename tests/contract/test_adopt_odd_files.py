"""Adopting an archive where single entries cannot be named or read: they cost themselves only."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypacs.config import TierSettings
from raypacs.errors import TierUnavailable
from raypacs.storage import adopted, adoption
from tests.adopting_site import AdoptingSite
from tests.contract.test_adopt import picture, whats
from tests.s3_server import S3Server


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[AdoptingSite]:
    site = AdoptingSite(tmp_path / "site", sqlite_url)
    yield site
    site.close()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    for number in (1, 2, 3):
        (folder / f"IM{number}").write_bytes(picture(number))
    return folder


def test_names_that_are_not_utf8(
    site: AdoptingSite, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = os.fsencode(archive)
    os.symlink(b"IM1", base + b"/link\xe4")
    os.mkfifo(base + b"/pipe\xe4")
    os.mkdir(base + b"/closed\xe4")
    scandir = os.scandir

    def closed(path: str) -> Any:
        if "closed" in str(path):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    told = site.adopt(archive)
    assert (told["indexed"], told["error"]) == (3, "1 unlisted")
    assert whats(told) == {
        "link\\udce4": "skipped",
        "pipe\\udce4": "skipped",
        "closed\\udce4": "unlisted",
    }


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENXIO])
def test_a_file_that_cannot_be_read(
    site: AdoptingSite, archive: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    bad = (archive / "IM2").stat().st_ino
    pread = os.pread

    def failing(fd: int, length: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == bad:
            raise OSError(code, os.strerror(code))
        return pread(fd, length, offset)

    monkeypatch.setattr(adoption.os, "pread", failing)
    item_id = site.order(archive)
    (result,) = site.run("ADOPT")
    assert result.error == ""
    told = site.told(item_id)
    assert (told["indexed"], whats(told)) == (2, {"IM2": "skipped"})
    assert told["lines"][0]["why"] == f"cannot be read: {os.strerror(code)}"


def test_an_archive_that_goes_away_is_waited_for(
    site: AdoptingSite, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.order(archive)

    def failing(*_: Any) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(adoption.os, "pread", failing)
    monkeypatch.setattr(adopted.AdoptedTier, "answers", lambda _: False)
    with pytest.raises(TierUnavailable, match="Input/output error"):
        site.run("ADOPT")


def test_a_copy_that_cannot_be_read_is_not_compared(
    site: AdoptingSite, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.adopt(archive)
    (archive / "copy").write_bytes(picture(1))
    read = adopted.LocalTier.read

    def failing(self: Any, path: str, *args: Any) -> bytes:
        if path == "copy":
            raise TierUnavailable("tier archive: Input/output error")
        return read(self, path, *args)

    monkeypatch.setattr(adopted.LocalTier, "read", failing)
    told = site.adopt(archive)
    assert (told["state"], whats(told)) == ("COMPLETED", {"copy": "skipped"})


def adopt_bucket(site: AdoptingSite, s3: S3Server, bucket: str) -> dict[str, Any]:
    tier = TierSettings.model_validate(
        {
            "name": "bucket",
            "role": "image",
            "url": f"s3://{bucket}/old",
            "read_only": True,
            "adopted": "folder",
            "s3": {"endpoint_url": s3.endpoint},
        }
    )
    settings = site.settings.model_copy(update={"tiers": (*site.settings.tiers, tier)})
    site.master.apply_settings(settings, "ann")
    item_id = site.master.order_adoption(tier.url)["item_id"]
    site.refresh()
    site.run("ADOPT")
    return site.told(item_id)


def test_keys_that_are_no_paths(site: AdoptingSite, s3: S3Server) -> None:
    bucket = s3.bucket()
    s3.client().put_object(Bucket=bucket, Key="old/", Body=b"")
    s3.client().put_object(Bucket=bucket, Key="old/c/", Body=b"")
    for number, key in enumerate(("ok", "a//b", "d/", "./d", "e/../f"), 1):
        s3.client().put_object(Bucket=bucket, Key=f"old/{key}", Body=picture(number))
    told = adopt_bucket(site, s3, bucket)
    assert (told["seen"], told["indexed"], told["error"]) == (6, 1, "")
    whys = {line["path"]: line["why"] for line in told["lines"]}
    assert set(whats(told).values()) == {"skipped"}
    assert whys.pop("c/") == "the key of a folder"
    assert set(whys) == {"a//b", "d/", "./d", "e/../f"}
    assert all(why.startswith("its key is no path") for why in whys.values())


def test_an_object_that_the_store_does_not_give(site: AdoptingSite, s3: S3Server) -> None:
    bucket = s3.bucket()
    for number, key in enumerate(("1", "cold", "3"), 1):
        kind = "GLACIER" if key == "cold" else "STANDARD"
        s3.client().put_object(
            Bucket=bucket, Key=f"old/{key}", Body=picture(number), StorageClass=kind
        )
    told = adopt_bucket(site, s3, bucket)
    assert (told["indexed"], whats(told)) == (2, {"cold": "skipped"})
    assert "cannot be read" in told["lines"][0]["why"]
