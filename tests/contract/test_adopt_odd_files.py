"""Adopting an archive in which single entries cannot be named or read: they cost themselves only."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypacs.errors import TierUnavailable
from raypacs.storage import adopted, adoption
from tests.adopting_site import AdoptingSite
from tests.contract.test_adopt import picture, whats


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
