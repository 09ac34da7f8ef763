"""A library in an object store, on good and on bad days."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_store import PASS, Fate, FaultyStore, faulty_store
from s3_server import S3Server

from raypacs.config import TierSettings
from raypacs.storage.container import Container
from tests.archiving_site import ArchivingSite
from tests.restoring_site import STUDY, files, tiers_of


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultyStore]:
    with faulty_store(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def site(tmp_path: Path, s3: S3Server, proxy: FaultyStore) -> Iterator[ArchivingSite]:
    values = {
        "name": "lib1",
        "role": "library",
        "url": f"s3://{s3.bucket()}/lib",
        "s3": {"endpoint_url": proxy.endpoint, "timeout_s": 0.5},
    }
    tiers = (*tiers_of(tmp_path)[:3], TierSettings.model_validate(values))
    site = ArchivingSite(tmp_path, f"sqlite:///{tmp_path}/index.sqlite", tiers)
    site.store(*files())
    site.quiet(prepared=False)
    yield site
    proxy.decide = lambda request: PASS
    site.close()


def test_archived_left_and_read_by_ranges(site: ArchivingSite, tmp_path: Path) -> None:
    before = site.received()
    (result,) = site.archive()
    assert not result.error
    assert site.proven(STUDY) == {"lib1": True}
    ref = site.reader.containers(STUDY)[0]
    container = Container(site.tier("lib1"), ref.path)
    for uid, member in container.members.items():
        assert container.tier.read(ref.path, member.offset, member.length) == before[uid][1]
    site.evict()
    (back,) = site.restore()
    assert not back.error
    assert site.received() == before
    assert site.balanced()
    if shutil.which("unzip"):
        file = tmp_path / "series.zip"
        file.write_bytes(container.tier.read(ref.path))
        assert subprocess.run(["unzip", "-tq", file], check=False).returncode == 0


def test_a_store_that_is_away_is_waited_for(site: ArchivingSite, proxy: FaultyStore) -> None:
    proxy.decide = lambda request: (
        Fate(status=503, code="SlowDown") if request.writes and ".zip" in request.target else PASS
    )
    (result,) = site.archive()
    assert result.waits
    assert site.proven(STUDY).get("lib1") is not True
    proxy.decide = lambda request: PASS
    site.now += 60
    (result,) = site.work_off("ARCHIVE")
    assert not result.error
    assert site.proven(STUDY) == {"lib1": True}
    assert site.balanced()
