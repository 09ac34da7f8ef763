"""What operators see of copies that nobody judged yet, or that stay for other reasons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from raypacs.index.schema import copies
from raypacs.policy.holding import FREE, PINNED, UNARCHIVED, UNJUDGED
from tests.archiving_site import ArchivingSite
from tests.restoring_site import files, tiers_of

STUDIES = ("1.2.1", "1.2.2", "1.2.3", "1.2.4")


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[ArchivingSite]:
    site = ArchivingSite(tmp_path, database_url, tiers_of(tmp_path))
    for uid in STUDIES:
        site.store(*files(uid, series=1, count=1))
    site.quiet(prepared=False)
    yield site
    site.close()


def hold(site: ArchivingSite, holds: dict[str, str]) -> None:
    with site.master._writer.transaction(site.now) as txn:
        for uid, why in holds.items():
            ours = sa.and_(copies.c.study_uid == uid, copies.c.tier == "image1")
            txn.conn.execute(sa.update(copies).where(ours).values(hold=why))


def sizes(site: ArchivingSite) -> dict[str, int]:
    query = sa.select(copies.c.study_uid, copies.c.size_bytes).where(copies.c.tier == "image1")
    with site.master._engine.connect() as conn:
        return {row[0]: row[1] for row in conn.execute(query)}


def test_only_what_may_go_counts_as_archived(site: ArchivingSite) -> None:
    holds = dict(zip(STUDIES, (FREE, PINNED, UNARCHIVED, UNJUDGED), strict=True))
    hold(site, holds)
    size = sizes(site)
    told = next(one for one in site.reader.tier_states(site.now) if one["name"] == "image1")
    assert told["archived_bytes"] == size[STUDIES[0]] > 0
    assert told["unarchived_bytes"] == size[STUDIES[2]] + size[STUDIES[3]]


def test_copies_are_judged_by_time_not_by_the_page(site: ArchivingSite) -> None:
    hold(site, dict.fromkeys(STUDIES, UNJUDGED))
    assert site.master._writer.judge_some(1, site.now, for_s=0) == 1
    assert site.master._writer.judge_some(1, site.now, for_s=60) == 3
    assert site.master._writer.judge_some(1, site.now, for_s=60) == 0
