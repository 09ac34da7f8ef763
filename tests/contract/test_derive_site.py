"""A lossy rule from receiving to serving, in one process: real tiers, a real index, no Ray."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from inline_tasks import InlineTasks

from raypacs.codec import htj2k
from raypacs.config import CompressionRule
from raypacs.policy import deriving
from raypacs.policy.queue import State
from raypacs.records import Lease, Poll, WorkResult
from raypacs.work.derive import DeriveRun
from raypacs.work.run import Site
from tests.factories import node_info
from tests.real_site import RealSite
from tests.stored_series import image, noise, part10

STUDY = "1.2.3"
GOOD = CompressionRule(name="good", action="lossy", psnr_db=45, modalities=("CT",))


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[RealSite]:
    site = RealSite(tmp_path, database_url)
    use_rules(site, GOOD)
    yield site
    site.close()


def use_rules(site: RealSite, *rules: CompressionRule) -> None:
    site.settings = site.settings.model_copy(update={"compression": rules})
    site.master.apply_settings(site.settings, "test")


def slices(count: int = 2) -> list[bytes]:
    return [
        part10(image(noise(1, 64, 64, seed=n), bits_stored=12, InstanceNumber=n))
        for n in range(1, count + 1)
    ]


def lease(site: RealSite, boot: str = "b1") -> list[Lease]:
    """Take the DERIVE work there is; another ``boot`` ends what the node's earlier life held."""
    site.master.node_seen(node_info(boot=boot))
    site.master.tick()
    site.now += 5
    asked = Poll(node="n1", boot=boot, kinds=("DERIVE",), running=(), free=10)
    return list(site.master.poll(asked).leases)


def attempt(site: RealSite, held: Lease, boot: str = "n1+b1") -> tuple[DeriveRun, WorkResult]:
    """Do what a dispatcher does before it reports."""
    run = DeriveRun(
        held,
        Site(
            settings=site.settings,
            cores=2,
            instances=site.reader.instances,
            unprepared=site.reader.unprepared,
            packs=site.reader.packs,
            manifests=lambda uid: [],
            available_bytes=lambda: {"image1": 10**9, "web1": 10**9},
            refused=lambda name: None,
            site_id=lambda: site.reader.site().site_id,
            boot=boot,
        ),
    )
    return run, run.run(InlineTasks())


def derive(site: RealSite, boot: str = "b1") -> State:
    """Do the one DERIVE that waits, to its end."""
    (held,) = lease(site, boot)
    run, result = attempt(site, held)
    state = site.master.report(held, result)
    run.clean_up(reported=True)
    return state


def image_files(site: RealSite) -> set[str]:
    return {info.path for info in site.tier("image1").walk()}


def registered(site: RealSite) -> set[str]:
    return {stored.record.path for stored in site.reader.instances(STUDY)}


def test_from_receiving_to_serving(site: RealSite) -> None:
    sent = slices()
    site.store(*sent)
    site.prepare()
    assert site.reader.study(STUDY)["state"] == "prepared"
    assert derive(site) == State.COMPLETED
    site.prepare()
    assert site.reader.study(STUDY)["state"] == "prepared"
    assert lease(site) == [], "nothing is made of what was made"
    forms = {(one.record.source, one.form, one.reason[:14]) for one in site.reader.instances(STUDY)}
    assert {(source, form) for source, form, _ in forms} == {
        ("TEST", "htj2k"),
        ("raypacs", "copied"),
    }
    assert site.balanced()
    assert not any(path.startswith("intake/") and "derive" in path for path in image_files(site))
    for data in sent:
        _compare_served(site, pydicom.dcmread(io.BytesIO(data)))


def _compare_served(site: RealSite, source: pydicom.Dataset) -> None:
    """What DICOMweb gives of the new object is close to its source; the source is as it was."""
    series = deriving.derived_uid(source.SeriesInstanceUID, GOOD)
    uid = deriving.derived_uid(source.SOPInstanceUID, GOOD)
    root = f"/dicom-web/studies/{STUDY}/series"
    with site.served() as client:
        found = client.get(
            f"/dicom-web/studies/{STUDY}/series", params={"SeriesInstanceUID": series}
        )
        assert found.json()[0]["0020000E"]["Value"] == [series]
        answer = client.get(
            f"{root}/{series}/instances/{uid}",
            headers={"Accept": "application/dicom; transfer-syntax=*"},
        )
        assert answer.status_code == 200, answer.text
        made = pydicom.dcmread(io.BytesIO(answer.content))
        assert made.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.203"
        frame = pydicom.encaps.get_frame(made.PixelData, 0, number_of_frames=1)
        decoded = htj2k.decode_frame(frame.rstrip(b"\0")).astype(int)
        error = np.square(decoded - source.pixel_array.astype(int)).mean()
        assert 10 * np.log10(np.ptp(source.pixel_array.astype(int)) ** 2 / error) >= 45
        picture = client.get(f"{root}/{series}/instances/{uid}/rendered")
        assert picture.status_code == 200, picture.text
        original = client.get(
            f"{root}/{source.SeriesInstanceUID}/instances/{source.SOPInstanceUID}",
            headers={"Accept": "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"},
        )
        same = pydicom.dcmread(io.BytesIO(original.content))
        assert np.array_equal(same.pixel_array, source.pixel_array)


def test_a_node_that_dies_before_its_report_leaves_nothing_for_long(site: RealSite) -> None:
    site.store(*slices())
    site.prepare()
    (held,) = lease(site)
    _, result = attempt(site, held, boot="n1+dead")
    lost = {record.path for record in result.records}
    assert lost <= image_files(site)
    assert not lost & registered(site)
    # It is done again, as the node's next life ends the leases of the last one.
    assert derive(site, "b2") == State.COMPLETED
    assert lost <= image_files(site)
    # The dead node's next start finds its marker: the same objects are there, so these go.
    site.intake.recover(live_boots=[])
    assert not lost & image_files(site)
    assert registered(site) <= image_files(site)
    assert not any("dead" in path for path in image_files(site))
    assert len(registered(site)) == 4
    assert site.balanced()


def test_what_a_dead_node_made_is_registered_by_its_next_start(site: RealSite) -> None:
    site.store(*slices())
    site.prepare()
    (held,) = lease(site)
    _, result = attempt(site, held, boot="n1+dead")
    assert site.intake.recover(live_boots=[]) == 2
    assert {record.path for record in result.records} <= registered(site)
    (one, _) = [s for s in site.reader.instances(STUDY) if s.record.source == deriving.SOURCE]
    assert one.record.sop_instance_uid.startswith("2.25.")
    site.prepare()
    assert site.reader.study(STUDY)["state"] == "prepared"
    # The item is tried again, and finds that all is there.
    assert derive(site, "b2") == State.COMPLETED
    assert len(registered(site)) == 4
    assert site.reader.study(STUDY)["state"] == "prepared"
    assert site.balanced()


def test_a_stale_attempt_removes_its_files(site: RealSite) -> None:
    site.store(*slices())
    site.prepare()
    (held,) = lease(site)
    run, result = attempt(site, held)
    assert len(result.records) == 2
    site.master.delete_study(STUDY)
    run.clean_up(reported=False)
    site.now += 60
    site.master.tick()
    assert not any(path.startswith("studies/") or "derive" in path for path in image_files(site))
    assert site.balanced()


def test_a_sealed_study_is_reopened_for_what_was_made(site: RealSite) -> None:
    use_rules(site)
    site.store(*slices())
    site.prepare()
    site.seal()
    assert site.reader.manifests(STUDY)
    use_rules(site, GOOD)
    site.master.node_seen(node_info())
    site.master.enqueue_item("DERIVE", STUDY)
    assert derive(site) == State.COMPLETED
    assert not site.reader.manifests(STUDY)
    site.prepare()
    assert len(registered(site)) == 4
    assert site.reader.study(STUDY)["state"] == "prepared"
    site.seal()
    assert len(site.reader.instances(STUDY)) == 4
    assert site.balanced()


def test_manifests_that_are_away_let_the_work_wait(
    site: RealSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_rules(site)
    site.store(*slices())
    site.prepare()
    site.seal()
    use_rules(site, GOOD)
    site.master.node_seen(node_info())
    item_id = site.master.enqueue_item("DERIVE", STUDY)
    (held,) = lease(site)
    run, result = attempt(site, held)
    before = image_files(site)
    monkeypatch.setattr(site.master, "reopen", lambda sealed: {STUDY})
    assert site.master.report(held, result) == State.SCHEDULED_FOR_RETRY
    run.clean_up(reported=True)
    assert {record.path for record in result.records}.isdisjoint(image_files(site))
    assert len(before) > len(image_files(site))
    assert "manifests" in site.reader.task(item_id)["error"]
    monkeypatch.undo()
    site.now += 60
    assert derive(site) == State.COMPLETED
