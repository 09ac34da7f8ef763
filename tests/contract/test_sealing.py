"""Sealed studies: their instances are no rows any more, and nobody can tell from outside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from raypacs import layout
from raypacs.errors import InvalidQuery, ManifestCorrupt, NotFound, StudySealed, TierUnavailable
from raypacs.index import sealed_reader
from raypacs.index.engine import open_engine
from raypacs.index.schema import asides, delete_intents, instances
from raypacs.index.sealing import ManifestRef, Sealing, due
from raypacs.master import DELETE_GRACE_S
from raypacs.records import Outcome
from raypacs.storage.manifest import decode, encode
from tests.factories import instance_record
from tests.real_site import RealSite, T
from tests.web_world import image_file

STUDY, OTHER = "1.2.3", "1.2.4"


def files(study: str = STUDY, *, series: int = 2, count: int = 3) -> list[bytes]:
    """Small grey images of several series; every third one has no Instance Number."""
    found = []
    for one in range(1, series + 1):
        for number in range(1, count + 1):
            pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) + number
            named: dict[str, Any] = {"SeriesNumber": one, "ContentDate": f"2024010{number}"}
            if number % 3 == 0:
                named["InstanceNumber"] = None
            found.append(
                image_file(
                    pixels, number, study=study, series=f"{study}.{one}", bits_stored=12, **named
                )
            )
    return found


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[RealSite]:
    site = RealSite(tmp_path, database_url)
    yield site
    site.close()


def rows(site: RealSite) -> int:
    with site.reader._engine.connect() as conn:
        return int(conn.execute(sa.select(sa.func.count()).select_from(instances)).scalar_one())


SEARCHES: list[dict[str, Any]] = [
    {},
    {"StudyInstanceUID": STUDY},
    {"0020000D": STUDY},
    {"SeriesInstanceUID": f"{STUDY}.2"},
    {"StudyInstanceUID": OTHER, "SeriesInstanceUID": f"{OTHER}.1"},
    {"SOPInstanceUID": f"{STUDY}.1.2"},
    {"SOPInstanceUID": [f"{STUDY}.1.2", f"{OTHER}.2.1"]},
    {"InstanceNumber": "2"},
    {"ContentDate": "20240102-"},
    {"ContentDate": "20240101", "Modality": "OT"},
    {"Rows": "8", "limit": "4"},
    {"limit": "3", "offset": "2"},
    {"limit": "100", "offset": "7"},
    {"PatientName": "mÜller*", "limit": "5"},
    {"PatientID": "nobody"},
    {"ModalitiesInStudy": "OT", "SOPInstanceUID": f"{STUDY}.2.1"},
]


def answers(site: RealSite) -> list[Any]:
    """What the read side says of two studies."""
    reader = site.reader
    found: list[Any] = [reader.search_instances(params) for params in SEARCHES]
    found += [reader.search_series(params) for params in SEARCHES]
    for study in (STUDY, OTHER):
        found += [reader.instances(study), reader.unprepared(study), reader.packs(study)]
        for series in (f"{study}.1", f"{study}.2", "1.9"):
            found += [reader.instances(study, series), reader.series_state(study, series)]
            found.append(reader.locate_instance(f"{series}.1", study))
    found.append(reader.search_studies({}))
    return found


def paths(study: str) -> list[str]:
    base = f"/dicom-web/studies/{study}"
    series = f"{base}/series/{study}.1"
    one = f"{series}/instances/{study}.1.2"
    return [
        f"/dicom-web/studies?StudyInstanceUID={study}",
        f"/dicom-web/instances?StudyInstanceUID={study}",
        *(f"{base}/{what}" for what in ("series", "instances", "metadata")),
        *(f"{series}/{what}" for what in ("instances?limit=2&offset=1", "metadata")),
        *(f"{one}/{what}" for what in ("metadata", "frames/1", "rendered", "frames/1/rendered")),
        base,
        series,
        one,
    ]


def told(site: RealSite) -> list[tuple[str, int, str, bytes]]:
    """What DICOMweb answers: path, status, media type, body; without port and random boundary."""
    found = []
    with site.served() as client:
        for path in [*paths(STUDY), *paths(OTHER), f"{paths(STUDY)[-1]}.9"]:
            answer = client.get(path)
            kind = answer.headers.get("content-type", "")
            boundary = re.search(r'boundary="?([^";]+)', kind)
            body = answer.content.replace(str(client.base_url).rstrip("/").encode(), b"")
            if boundary:
                body = body.replace(boundary[1].encode(), b"-")
                kind = kind.replace(boundary[1], "-")
            found.append((path, answer.status_code, kind, body))
    return found


class TestSealed:
    def test_everything_answers_as_before(self, site: RealSite) -> None:
        site.store(*files(STUDY), *files(OTHER))
        site.prepare()
        before, web = answers(site), told(site)
        assert rows(site) == 12
        site.seal()
        assert rows(site) == 0
        assert answers(site) == before
        assert told(site) == web
        assert [status for _, status, _, _ in web].count(200) == len(web) - 1
        assert site.balanced()

    def test_sealed_and_open_studies_are_searched_together(self, site: RealSite) -> None:
        site.store(*files(OTHER))
        site.prepare()
        before = None
        for study in (STUDY, "1.2.5"):  # one before, one after it in the order of the answer
            site.store(*files(study))
        before = [site.reader.search_instances(params) for params in SEARCHES]
        site.seal()
        assert rows(site) == 12
        assert [site.reader.search_instances(params) for params in SEARCHES] == before
        assert len(before[0]) == 18

    def test_one_object_a_series_whose_bytes_are_counted(self, site: RealSite) -> None:
        site.store(*files())
        site.prepare()
        before = set(site.objects())
        study = site.reader.study(STUDY)
        site.seal()
        new = {
            path: size
            for (_, path), size in site.objects().items()
            if ("image1", path) not in before and layout.is_manifest(path)
        }
        assert len(new) == 2
        refs = site.reader.manifests(STUDY)
        assert {ref.path: ref.size_bytes for ref in refs} == new
        after = site.reader.study(STUDY)
        assert after["sealed_s"] > 0
        for name in ("instance_count", "size_bytes", "state", "copies", "prepared_count"):
            assert after[name] == study[name]
        assert [event["event"] for event in after["story"]][-1] == "sealed"
        assert site.balanced()
        with site.reader._engine.connect() as conn:
            assert conn.execute(sa.select(delete_intents)).all() == []

    def test_only_what_stays_as_it_is(self, site: RealSite) -> None:
        site.store(*files())
        site.seal()
        assert rows(site) == 6  # never prepared, as nobody took the item
        for lease in site.lease():
            site.master.report(lease, site.work(lease))
        site.master.tick()
        assert rows(site) == 6  # prepared just now
        site.seal()
        assert rows(site) == 0

    def test_a_full_or_lost_tier_leaves_the_rows(self, site: RealSite, tmp_path: Path) -> None:
        site.store(*files())
        site.prepare()
        (tmp_path / "image").rename(tmp_path / "away")
        (tmp_path / "image").mkdir()
        site.seal()
        assert rows(site) == 6
        (tmp_path / "image").rmdir()
        (tmp_path / "away").rename(tmp_path / "image")
        site.seal()
        assert rows(site) == 0


def test_sealed_studies_are_not_looked_at_again(sqlite_url: str) -> None:
    """A million of them must not cost the master anything each second."""
    engine = open_engine(sqlite_url)
    asked: list[tuple[str, Any]] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *told: asked.append((told[2], told[3])))
    with engine.connect() as conn:
        due(conn, T, 1.0, limit=1, without=())
        statement, values = asked[-1]
        plan = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
    engine.dispose()
    assert "USING INDEX ix_studies_unsealed" in plan[0][3]


class TestGrowing:
    def test_new_instances_reopen_the_study(self, site: RealSite) -> None:
        site.store(*files())
        site.prepare()
        site.seal()
        manifests = [ref.path for ref in site.reader.manifests(STUDY)]
        assert site.store(*files(count=4)) == [Outcome.KNOWN] * 3 + [Outcome.STORED] + [
            Outcome.KNOWN
        ] * 3 + [Outcome.STORED]
        assert rows(site) == 8
        assert site.reader.manifests(STUDY) == []
        assert len(site.reader.unprepared(STUDY)) == 2
        assert site.balanced()
        site.now += DELETE_GRACE_S + 1
        site.master.tick()
        assert not any(site.tier("image1").exists(path) for path in manifests)
        assert site.balanced()
        site.prepare()
        site.seal()
        assert rows(site) == 0
        assert len(site.reader.instances(STUDY)) == 8

    def test_the_same_again_is_known_without_reopening(self, site: RealSite) -> None:
        first = files()
        site.store(*first)
        site.prepare()
        site.seal()
        before = site.objects()
        assert set(site.store(*first)) == {Outcome.KNOWN}
        assert rows(site) == 0
        assert site.objects() == before

    def test_other_bytes_are_a_conflict(self, site: RealSite) -> None:
        site.store(*files())
        site.prepare()
        site.seal()
        other = image_file(
            np.zeros((8, 8), np.uint16), 1, study=STUDY, series=f"{STUDY}.1", bits_stored=12
        )
        assert site.store(other) == [Outcome.CONFLICT]
        assert site.reader.aside()[0].outcome is Outcome.CONFLICT
        assert site.balanced()

    def test_registration_finds_out_by_itself(self, site: RealSite) -> None:
        """An edge that could not read the manifest: the record comes, and is KNOWN all the same."""
        site.store(*files())
        site.prepare()
        record = site.reader.instances(STUDY)[0].record
        site.seal()
        (answer,) = site.master.register([record])
        assert answer.outcome is Outcome.STORED  # the very same path
        assert rows(site) == 6

    def test_while_its_manifests_are_away_a_study_waits_alone(
        self, site: RealSite, tmp_path: Path
    ) -> None:
        site.store(*files())
        site.prepare()
        site.seal()
        (tmp_path / "image").rename(tmp_path / "away")
        ours, theirs = instance_record(study=STUDY, number=99), instance_record(study=OTHER)
        answers = site.master.register([ours, theirs])
        assert [answer.path for answer in answers] == [theirs.path]
        with pytest.raises(TierUnavailable):
            site.master.delete_study(STUDY)
        (tmp_path / "away").rename(tmp_path / "image")
        assert [one.outcome for one in site.master.register([ours])] == [Outcome.STORED]

    def test_a_uid_taken_meanwhile_is_kept_aside(self, site: RealSite) -> None:
        site.store(*files())
        site.prepare()
        first = site.reader.instances(STUDY)[0].record
        site.seal()
        # The same UID in another study: only a row could have told.
        taken = instance_record(study=OTHER, sop_instance_uid=first.sop_instance_uid)
        assert site.master.register([taken])[0].outcome is Outcome.STORED
        site.master.register([instance_record(study=STUDY, number=99)])
        with site.reader._engine.connect() as conn:
            (aside,) = conn.execute(sa.select(asides)).mappings().all()
        assert (aside["path"], aside["outcome"]) == (first.path, "conflict")
        assert site.reader.study(STUDY)["instance_count"] == 6
        assert site.balanced()


class TestDeleting:
    def test_instances_packs_and_manifests_go(self, site: RealSite) -> None:
        site.store(*files())
        site.prepare()
        site.seal()
        assert site.master.delete_study(STUDY) == 6 + 4 + 2  # packs with their headers, manifests
        with pytest.raises(NotFound):
            site.reader.study(STUDY)
        site.now += DELETE_GRACE_S + 1
        site.master.tick()
        assert site.objects() == {}
        assert site.balanced()
        assert set(site.store(*files())) == {Outcome.STORED}

    def test_the_index_alone_cannot_delete_it(self, site: RealSite) -> None:
        site.store(*files())
        site.prepare()
        site.seal()
        with pytest.raises(StudySealed):
            site.master._writer.delete_study(STUDY, site.now)


class TestCrash:
    def test_manifests_that_were_never_sealed_go(self, site: RealSite) -> None:
        """The master died between writing them and the transaction that seals."""
        site.store(*files())
        site.prepare()
        path = layout.manifest(STUDY, f"{STUDY}.1", layout.new_token())
        ref = ManifestRef(STUDY, f"{STUDY}.1", "image1", path, 5)
        site.master._writer.plan_manifests([ref], site.now, due_s=site.now + 10)
        site.tier("image1").put_durable(path, b"12345")
        site.now += 11
        assert site.master.tick().deleted_objects == 1
        assert not site.tier("image1").exists(path)
        assert site.balanced()

    def test_a_study_that_changed_meanwhile_stays_open(self, site: RealSite) -> None:
        site.store(*files())
        site.prepare()
        writer, reader = site.master._writer, site.reader
        path = layout.manifest(STUDY, f"{STUDY}.1", layout.new_token())
        refs = tuple(
            ManifestRef(STUDY, series, "image1", f"{path}.{series}", 5)
            for series in reader.instance_rows(STUDY)
        )
        sealing = Sealing(STUDY, reader.instance_rows(STUDY), refs)
        assert writer.seal([sealing], site.now) == []  # nobody planned it
        writer.plan_manifests(refs, site.now, due_s=site.now + 10)
        moved = reader.instances(STUDY)[0].record
        relocated = instance_record(
            study=STUDY, series=moved.series_uid, sop_instance_uid=moved.sop_instance_uid
        )
        writer.relocate(relocated, (moved.tier, moved.path), site.now)
        assert writer.seal([sealing], site.now) == []
        assert rows(site) == 6
        assert site.balanced()


class TestUnbounded:
    def test_a_search_that_would_read_every_manifest_is_refused(
        self, site: RealSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.store(*files())
        site.prepare()
        site.seal()
        monkeypatch.setattr(sealed_reader, "_MOST_MANIFESTS", 1)
        with pytest.raises(InvalidQuery, match="neither study nor series"):
            site.reader.search_instances({"SOPInstanceUID": "1.9"})
        assert len(site.reader.search_instances({"StudyInstanceUID": STUDY})) == 6
        assert len(site.reader.search_instances({"limit": "2"})) == 2


class TestManifest:
    def test_comes_back_as_it_was(self) -> None:
        told = [{"a": "x\u2028\n", "b": None, "c": {"k": "é"}}, {"a": "", "b": 1.5, "c": True}]
        found = decode(encode("1.2", "1.3", told, {"PatientID": "é"}))
        assert found.rows() == told
        assert (found.study_uid, found.series_uid) == ("1.2", "1.3")
        assert found.attributes == {"PatientID": "é"}
        assert decode(encode("1.2", "1.3", [], {})).rows() == []

    def test_any_damage_is_seen(self) -> None:
        good = encode("1.2", "1.3", [{"a": number} for number in range(50)], {})
        found = decode(good)
        seen = 0
        for at in range(len(good)):
            bad = bytearray(good)
            bad[at] ^= 0x10
            try:
                # Some bits of gzip mean nothing: its time, what pads the last byte.
                assert decode(bytes(bad)) == found
            except ManifestCorrupt:
                seen += 1
        assert seen > len(good) - 12
        with pytest.raises(ManifestCorrupt):
            decode(good[:-3])
        with pytest.raises(ManifestCorrupt):
            decode(b"")
