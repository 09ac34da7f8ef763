"""Relevant priors are in the caches before somebody asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from raypacs.autopilot.moving import PrefetchRule
from raypacs.errors import NotFound
from raypacs.index.engine import open_engine
from raypacs.index.schema import studies
from raypacs.policy.queue import Priority
from tests.restoring_site import RestoringSite, files, tiers_of

OLD, OLDER, OTHER, NEW = "1.2.1", "1.2.2", "1.2.3", "1.2.9"


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[RestoringSite]:
    site = RestoringSite(tmp_path, database_url, tiers_of(tmp_path))
    for uid, named in (
        (OLD, {"StudyDate": "20231001", "Modality": "CT", "BodyPartExamined": "CHEST"}),
        (OLDER, {"StudyDate": "20230601", "Modality": "CT", "BodyPartExamined": "HEAD"}),
        (OTHER, {"StudyDate": "20231201", "Modality": "CT", "PatientID": "P2"}),
    ):
        site.store(*files(uid, series=1, count=2, **named))
    site.quiet(prepared=False)
    site.archive(OLD, OLDER, OTHER)
    site.evict(OLD, OLDER, OTHER)
    yield site
    site.close()


def row(site: RestoringSite, uid: str) -> dict[str, Any]:
    engine = open_engine(site.url, read_only=True)
    with engine.connect() as conn:
        found = conn.execute(sa.select(studies).where(studies.c.study_uid == uid))
        told = dict(found.mappings().one())
    engine.dispose()
    return told


def ticks(site: RestoringSite) -> None:
    for _ in range(3):
        site.now += 6
        site.master.tick()


def test_priors_of_a_study_that_arrives_come_back(site: RestoringSite) -> None:
    site.set(prefetch=(PrefetchRule(name="chest", when_modality=("CT",), body_part="same"),))
    ticks(site)
    named = {"StudyDate": "20240102", "Modality": "CT", "BodyPartExamined": "CHEST"}
    site.store(*files(NEW, series=1, count=1, **named))
    arrived_s = site.now
    ticks(site)
    (item,) = site.items("PREFETCH")
    assert item["study_uid"] == OLD
    assert item["priority"] == Priority.LOW
    (result,) = site.work_off("PREFETCH")
    assert not result.error
    assert not site.reader.is_away(OLD)
    assert site.reader.is_away(OLDER)
    assert site.reader.is_away(OTHER)
    assert len(site.received(OLD)) == 2
    told = row(site, OLD)
    assert told["inherited_accessed_s"] == told["inherited_created_s"] == arrived_s
    assert told["accessed_s"] < arrived_s
    copies = site.reader.study(OLD)["copies"]
    assert {one["accessed_s"] for one in copies if "image" in one["tier"]} == {arrived_s}
    events = {one["event"]: one for one in site.reader.why(OLD)}
    assert "prefetched" in events
    assert events["prefetch"]["detail"]["rule"] == "chest"
    ticks(site)
    assert len(site.items("PREFETCH")) == 1
    assert site.balanced()


def test_nothing_is_fetched_without_rules_or_for_what_was_there_before(
    site: RestoringSite,
) -> None:
    ticks(site)
    site.set(prefetch=(PrefetchRule(name="all", modality="any"),))
    ticks(site)
    assert not site.items("PREFETCH")


def test_a_study_that_is_announced_has_its_priors_ready(site: RestoringSite) -> None:
    with site.serving() as client:
        body = {"patient_id": "P1", "modality": "CT", "body_part": "CHEST"}
        told = client.post("/api/v1/prefetches", json=body).json()
        assert [one["study_uid"] for one in told] == [OLD, OLDER]
        assert {one["state"] for one in told} == {"SCHEDULED"}
        wrong = client.post("/api/v1/prefetches", json={"patient_id": "P1", "study_uid": OLD})
        assert wrong.status_code == 400
    assert len(site.work_off("PREFETCH")) == 2
    assert not site.reader.is_away(OLDER)
    assert site.balanced()


def test_one_study_is_fetched_by_name_and_a_reader_overtakes_it(site: RestoringSite) -> None:
    told = site.master.order_prefetch(OLD, who="ann")
    assert site.master.order_prefetch(OLD)["item_id"] == told["item_id"]
    hurried = site.master.order_restore(OLD)
    assert hurried["item_id"] != told["item_id"]
    assert site.items("PREFETCH")[0]["state"] == "CANCELED"
    (result,) = site.work_off("RESTORE")
    assert not result.error
    assert site.master.order_prefetch(OLD)["state"] == "online"
    with pytest.raises(NotFound):
        site.master.order_prefetch("9.9")


def test_patients_without_an_id_have_no_priors(site: RestoringSite) -> None:
    assert site.master.announce("") == []
    assert site.master.announce("nobody") == []
