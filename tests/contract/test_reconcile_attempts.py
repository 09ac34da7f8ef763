"""Attempts that the index believes to run when it is compared with the tiers: nothing is swept
that is served, everything else is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raypacs import layout
from raypacs.maintenance.backup import backup_index, restore_index
from raypacs.maintenance.rebuild import reconcile_index, sweep_index
from raypacs.master.base import AWAY_S
from raypacs.records import Lease
from tests.down_site import NOW, STUDY, Down, files
from tests.factories import node_info
from tests.real_site import RealSite


@pytest.fixture
def down(tmp_path: Path, database_url: str) -> Iterator[Down]:
    down = Down(tmp_path, database_url)
    yield down
    down.close()


@pytest.fixture
def on_sqlite(tmp_path: Path, sqlite_url: str) -> Iterator[Down]:
    down = Down(tmp_path, sqlite_url)
    yield down
    down.close()


def leased(site: RealSite) -> Lease:
    """Receive a study; return the attempt that prepares it."""
    site.store(*files())
    site.now += 600
    site.master.tick()
    (lease,) = site.lease()
    return lease


def boots(site: RealSite) -> None:
    """Let the node join with a new boot; what is dead is swept, twice."""
    site.now = NOW + 10
    site.master.tick()
    site.master.node_seen(replace(node_info(), boot="b2"))
    until_s = site.now + 5 * site.settings.lease_s
    while site.now < until_s:
        site.now += AWAY_S
        site.master.tick()


def packs(down: Down) -> list[str]:
    return [path for _, path in down.site.objects() if path.endswith((".pack", ".hdr"))]


def is_prepared(site: RealSite) -> bool:
    study = site.reader.study(STUDY)
    return (study["state"], study["prepared_count"], site.reader.unprepared(STUDY)) == (
        "prepared",
        6,
        [],
    )


def test_a_backup_taken_while_a_study_was_prepared(tmp_path: Path, on_sqlite: Down) -> None:
    """The packs came after the backup, whose index says that their attempt still runs."""
    down = on_sqlite
    lease = leased(down.site)
    backup_index(down.site.bootstrap, tmp_path / "backup", now=down.site.now)
    down.site.master.report(lease, down.site.work(lease))
    made = packs(down)
    down.stop()
    restore_index(down.boot(down.url), tmp_path / "backup", now=NOW)
    found = reconcile_index(down.boot(down.url), now=NOW, workers=1)
    assert (found.counts.packs_adopted, found.unplaced, found.lost) == (2, [], [])
    site = down.start()
    boots(site)
    assert packs(down) == made
    assert len(made) == 4
    assert is_prepared(site)
    assert site.balanced()
    (item,) = site.reader.study(STUDY)["items"]
    assert (item["state"], item["attempt"], item["deaths"]) == ("CANCELED", 0, 0)


def test_a_node_killed_between_publishing_and_reporting(down: Down) -> None:
    lease = leased(down.site)
    down.site.work(lease)
    made = packs(down)
    down.stop()
    found = reconcile_index(down.boot(down.url), now=NOW, workers=1)
    assert found.counts.packs_adopted == 2
    site = down.start()
    boots(site)
    assert packs(down) == made
    assert is_prepared(site)
    assert site.balanced()


def test_an_attempt_that_was_declared_dead_before(down: Down) -> None:
    """Its lease ran out, then index and tiers were compared before anything was swept."""
    lease = leased(down.site)
    down.site.work(lease)
    made = packs(down)
    site = down.site
    site.master._writer.need_reconcile("asked for", site.now)
    site.master.node_left("n1", "b1")
    assert site.reader.live_tokens() == set()
    down.stop()
    assert reconcile_index(down.boot(down.url), now=NOW, workers=1).counts.packs_adopted == 2
    site = down.start()
    boots(site)
    assert packs(down) == made
    assert is_prepared(site)


def test_what_is_not_adopted_is_swept(down: Down) -> None:
    """Half an attempt: a pack that is damaged, and parts that never became one."""
    lease = leased(down.site)
    site = down.site
    web = site.tier("web1")
    pack = layout.pack(STUDY, f"{STUDY}.1", lease.token)
    for path in (pack, layout.header_sidecar(pack), layout.attempt_part(lease.token, "1.9", 0)):
        web.put_durable(path, b"not whole")
    down.stop()
    assert reconcile_index(down.boot(down.url), now=NOW, workers=1).counts.packs_adopted == 0
    site = down.start()
    item = site.reader.study(STUDY)["items"][0]
    assert (item["state"], item["attempt"]) == ("SCHEDULED FOR RETRY", 0)
    boots(site)
    assert packs(down) == []
    assert list(web.walk(layout.ATTEMPTS)) == []
    site.prepare()
    assert is_prepared(site)


def test_a_pack_that_is_served_is_never_swept(down: Down) -> None:
    """Whatever else the index says of its attempt."""
    lease = leased(down.site)
    site = down.site
    site.master.report(lease, site.work(lease))
    made = packs(down)
    with site.master._writer.transaction(site.now) as txn:
        txn.conn.exec_driver_sql(
            "INSERT INTO dead_attempts (token, study_uid, died_s, next_sweep_s, sweeps) "
            f"VALUES ('{lease.token}', '{STUDY}', 1, 1, 0)"
        )
    boots(site)
    assert packs(down) == made
    assert site.reader.live_tokens() == set()


def test_a_sweep_by_hand_leaves_what_an_attempt_just_published(down: Down) -> None:
    """The node that holds the lease may be about to report, or be reconciled."""
    lease = leased(down.site)
    down.site.work(lease)
    made = packs(down)
    assert sweep_index(down.boot(down.url), now=NOW).orphans == []
    down.stop()
    assert sweep_index(down.boot(down.url), now=NOW, dry_run=False).deleted == 0
    assert packs(down) == made


def test_a_sweep_by_hand_deletes_nothing_that_may_be_the_only_copy(on_sqlite: Down) -> None:
    """The role of a tier was changed to web; and a pack whose study is on no image tier."""
    down = on_sqlite
    site = down.site
    site.store(*files())
    site.prepare()
    image, web = site.tier("image1"), site.tier("web1")
    (pack,) = site.reader.locate(f"{STUDY}.1")
    kept = [
        layout.instance(STUDY, f"{STUDY}.1", "1.9", layout.new_token()),
        layout.quarantine(NOW, layout.new_token()),
        layout.pack("1.7", f"{STUDY}.1", pack.token),
        layout.header_sidecar(layout.pack("1.7", f"{STUDY}.1", pack.token)),
    ]
    for path in kept:
        web.put_durable(path, b"x")
    down.stop()
    swept = sweep_index(down.boot(down.url), now=NOW, dry_run=False)
    assert {one.path for one in swept.orphans} == set(kept)
    assert swept.deleted == 0
    assert all(web.exists(path) for path in kept)
    assert len(list(image.walk("studies/"))) == 6
