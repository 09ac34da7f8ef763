"""RESTORE: what is only in a library comes back, from the first library that has it sound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.restoring_site import STUDY, RestoringSite, files, tiers_of


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[RestoringSite]:
    site = RestoringSite(tmp_path, database_url, tiers_of(tmp_path))
    yield site
    site.close()


def test_what_left_comes_back_as_it_was(site: RestoringSite) -> None:
    site.store(*files())
    before = site.received()
    site.quiet(prepared=False)
    site.archive()
    site.evict()
    assert not [path for name, path in site.objects() if name == "image1" and ".dcm" in path]
    assert site.balanced()
    assert site.reader.is_away(STUDY)
    (result,) = site.restore()
    assert not result.error
    assert not result.warning
    assert site.received() == before
    assert not site.reader.is_away(STUDY)
    assert site.balanced()
    site.let_go()
    assert site.received() == before
    assert site.balanced()
    assert site.items()[0]["state"] == "COMPLETED"
    assert "restored" in [one["event"] for one in site.reader.why(STUDY)]
