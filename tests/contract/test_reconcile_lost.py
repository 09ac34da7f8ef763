"""What no tier holds any more leaves the index, with right counts; nothing stays as a ghost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypacs import layout
from raypacs.errors import ConfigError, IndexRefused, NotFound
from raypacs.index.writer import IndexWriter
from raypacs.maintenance.rebuild import Reinventory, reconcile_index, sweep_index
from tests.down_site import NOW, OTHER, STUDY, Down, files


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


def reconcile(down: Down, **options: Any) -> Reinventory:
    return reconcile_index(down.boot(down.url), now=NOW, workers=1, **options)


def end(down: Down) -> None:
    """Stop the site; what it would answer is of no use."""
    down.site.close()
    down.running = False


def lose(down: Down, wanted: str) -> None:
    """Delete objects of the study from the tiers, by how their paths end or what is in them."""
    for tier, path in down.site.objects():
        if path.startswith(f"studies/{STUDY}/") and wanted in path:
            down.site.tier(tier).delete(path)


def filled(down: Down, *, sealed: bool, prepared: bool = True) -> None:
    down.site.store(*files(), *files(OTHER))
    if prepared:
        down.site.prepare()
    if sealed:
        down.site.seal()


@pytest.mark.parametrize("sealed", [False, True])
def test_a_study_without_any_object_leaves(down: Down, sealed: bool) -> None:
    filled(down, sealed=sealed)
    lose(down, "")
    end(down)
    assert reconcile(down, dry_run=True).counts.studies_lost == 1
    done = reconcile(down)
    assert (done.counts.instances_lost, done.counts.studies_lost) == (6, 1)
    assert done.lost
    site = down.start()
    assert [one["StudyInstanceUID"] for one in site.reader.search_studies({})] == [OTHER]
    with pytest.raises(NotFound):
        site.reader.study(STUDY)
    (told,) = [one for one in site.reader.why(STUDY) if one["event"] == "lost"]
    assert told["detail"]["instances"] == 6
    assert site.balanced()
    again = files()
    assert {one.name for one in site.store(*again)} == {"STORED"}
    site.prepare()
    assert site.reader.study(STUDY)["prepared_count"] == 6


@pytest.mark.parametrize("sealed", [False, True])
def test_a_series_that_is_lost(down: Down, sealed: bool) -> None:
    filled(down, sealed=sealed)
    lose(down, f"/{STUDY}.1/")
    end(down)
    done = reconcile(down)
    assert (done.counts.instances_lost, done.counts.studies_lost) == (3, 0)
    site = down.start()
    study = site.reader.study(STUDY)
    assert (study["instance_count"], study["series_count"], len(study["series"])) == (3, 1, 1)
    assert (study["prepared_count"], study["state"]) == (3, "prepared")
    assert len(site.reader.search_studies({"StudyInstanceUID": STUDY})) == 1
    assert site.balanced()
    end(down)
    assert set(reconcile(down).counts.as_dict().values()) == {0}


def test_originals_that_are_lost_are_served_from_their_packs(on_sqlite: Down) -> None:
    """They are the only copy; nothing lets go of them. An original that is found is served."""
    down = on_sqlite
    filled(down, sealed=False)
    record = down.site.reader.instances(STUDY)[0].record
    data = down.site.tier(record.tier).read(record.path)
    lose(down, ".dcm")
    end(down)
    done = reconcile(down)
    assert (done.counts.instances_lost, len(done.lost)) == (0, 6)
    assert "its pack alone" in done.lost[0].why
    sweep_index(down.boot(down.url), now=NOW, dry_run=False)
    site = down.start()
    assert site.reader.study(STUDY)["prepared_count"] == 6
    assert sum(STUDY in path and path.endswith(".pack") for _, path in site.objects()) == 2
    found = layout.instance(STUDY, record.series_uid, record.sop_instance_uid, layout.new_token())
    site.tier(record.tier).put_durable(found, data)
    end(down)
    reconcile(down)
    site = down.start()
    served = site.reader.locate_instance(record.sop_instance_uid)
    assert served is not None
    assert (served.record.path, served.form != "") == (found, True)
    assert site.balanced()


def test_packs_of_a_study_whose_manifest_and_originals_are_lost_stay(on_sqlite: Down) -> None:
    down = on_sqlite
    filled(down, sealed=True)
    lose(down, ".dcm")
    lose(down, ".manifest")
    end(down)
    done = reconcile(down)
    assert (done.counts.instances_lost, done.counts.studies_lost) == (6, 0)
    assert sweep_index(down.boot(down.url), now=NOW, dry_run=False).deleted == 0
    assert sum(STUDY in path and path.endswith(".pack") for _, path in down.site.objects()) == 2


def test_a_tier_that_may_not_be_mounted_is_refused(on_sqlite: Down) -> None:
    down = on_sqlite
    filled(down, sealed=False, prepared=False)
    with down.site.master._writer.transaction(NOW) as txn:
        txn.conn.exec_driver_sql("DELETE FROM meta WHERE name LIKE 'tier %'")
    end(down)
    shutil.rmtree(down.folder / "image")
    with pytest.raises(ConfigError, match="is empty"):
        reconcile(down)


def test_what_the_index_cannot_hold_keeps_nothing_else_out(
    on_sqlite: Down, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = on_sqlite
    filled(down, sealed=False, prepared=False)
    bad = down.site.reader.instances(STUDY)[0].record.path
    down.site.master.delete_study(STUDY)
    with down.site.master._writer.transaction(NOW) as txn:
        txn.conn.exec_driver_sql("DELETE FROM delete_intents")
    end(down)
    real = IndexWriter.register

    def register(self: IndexWriter, records: Any, now: float, **named: Any) -> Any:
        if bad in {one.path for one in records}:
            raise IndexRefused("the index cannot hold it: DataError")
        return real(self, records, now, **named)

    monkeypatch.setattr(IndexWriter, "register", register)
    done = reconcile(down)
    assert [one.path for one in done.unplaced] == [bad]
    assert done.counts.instances_registered == 5
