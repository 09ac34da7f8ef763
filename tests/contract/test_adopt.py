"""Archives of others: indexed, served, prepared and let go of without a byte of them changing."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypacs.config import TierSettings
from raypacs.errors import ConfigError, StaleLease, TierUnavailable
from raypacs.policy.queue import Priority
from raypacs.records import Outcome
from raypacs.storage.tier import open_tier
from raypacs.work import adopt
from raypacs.work.run import TaskFailure
from tests.adopting_site import AdoptingSite, print_of
from tests.factories import node_info
from tests.inline_tasks import InlineTasks
from tests.s3_server import S3Server
from tests.web_world import image_file

STUDY, OTHER = "1.2.3", "1.2.4"


def picture(number: int, *, study: str = STUDY, shade: int = 0, **elements: Any) -> bytes:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) + number + shade
    return image_file(pixels, number, study=study, series=f"{study}.1", bits_stored=12, **elements)


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[AdoptingSite]:
    site = AdoptingSite(tmp_path / "site", database_url)
    yield site
    site.close()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two studies in any layout, and what else lies about in archives."""
    folder = tmp_path / "archive"
    (folder / "a" / "deep er").mkdir(parents=True)
    for number in (1, 2, 3):
        (folder / "a" / f"IM{number}").write_bytes(picture(number))
    for number in (1, 2):
        name = folder / "a" / "deep er" / f"bild {number}.dcm"
        name.write_bytes(picture(number, study=OTHER))
    (folder / "notes.txt").write_text("not DICOM")
    (folder / "empty").write_bytes(b"")
    (folder / "link").symlink_to(folder / "a" / "IM1")
    # Folders named as raypacs names its own.
    (folder / "studies" / STUDY).mkdir(parents=True)
    (folder / "studies" / STUDY / "x.dcm").write_bytes(b"x")
    (folder / "site").mkdir()
    (folder / "site" / "other.json").write_text("{}")
    (folder / "epochs").mkdir()
    (folder / "epochs" / "000000000099.000000000000099.json").write_text("{}")
    (folder / "intake").mkdir()
    (folder / "intake" / f"gone.{STUDY}").write_bytes(b"")
    return folder


def whats(told: dict[str, Any]) -> dict[str, str]:
    return {line["path"]: line["what"] for line in told["lines"]}


class TestIndexed:
    def test_everything_is_served_from_where_it_lies(
        self, site: AdoptingSite, archive: Path
    ) -> None:
        before = print_of(archive)
        told = site.adopt(archive)
        assert (told["state"], told["done"], told["indexed"]) == ("COMPLETED", True, 5)
        assert told["seen"] == sum(path.is_file() for path in archive.rglob("*"))
        assert whats(told) == {
            "notes.txt": "skipped",
            "empty": "skipped",
            "link": "skipped",
            f"studies/{STUDY}/x.dcm": "skipped",
            "site/other.json": "skipped",
            "epochs/000000000099.000000000000099.json": "skipped",
            f"intake/gone.{STUDY}": "skipped",
        }
        paths = {one.record.path for one in site.reader.instances(STUDY)}
        assert paths == {"a/IM1", "a/IM2", "a/IM3"}
        with site.served() as web:
            rows = web.get("/dicom-web/studies").json()
            assert {row["0020000D"]["Value"][0] for row in rows} == {STUDY, OTHER}
            url = f"/dicom-web/studies/{STUDY}/series/{STUDY}.1/instances/{STUDY}.1.2"
            whole = web.get(url, headers={"Accept": "application/dicom; transfer-syntax=*"})
            assert (archive / "a" / "IM2").read_bytes() in whole.content
            frame = web.get(f"{url}/frames/1", headers={"Accept": "application/octet-stream"})
            pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) + 2
            assert pixels.tobytes() in frame.content
        assert site.balanced()
        for _ in range(3):
            site.now += 3600
            site.master.tick()
        assert print_of(archive) == before

    def test_again_nothing_is_read_that_is_known(
        self, site: AdoptingSite, archive: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.adopt(archive)
        read: list[str] = []
        described = adopt.describe_file
        monkeypatch.setattr(
            adopt,
            "describe_file",
            lambda tier, info, source: read.append(info.path) or described(tier, info, source),
        )
        (archive / "new").write_bytes(picture(9))
        told = site.adopt(archive)
        assert (told["known"], told["indexed"], told["seen"]) == (5, 1, 13)
        assert not {path for path in read if path.startswith("a/")}
        assert len(site.reader.instances(STUDY)) == 4

    def test_one_that_was_interrupted_goes_on(
        self, site: AdoptingSite, archive: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(10, 60):
            (archive / f"n{number}").write_bytes(picture(number, study="1.2.9"))
        monkeypatch.setattr(adopt, "_CHUNK_FILES", 4)
        monkeypatch.setattr(adopt, "_BATCH", 4)
        away = TaskFailure("waits for a tier", True, waits=True)
        item_id = site.order(archive)
        tasks = InlineTasks(lambda key, times: away if key == 8 else None)
        (result,) = site.run("ADOPT", tasks)
        assert (result.waits, result.error) == (True, "waits for a tier")
        there = len(next(site.reader.adopted_places("archive")))
        assert there > 0
        site.now += 600
        (result,) = site.run("ADOPT")
        assert result.error == ""
        told = site.told(item_id)
        assert told["known"] == there
        assert told["known"] + told["indexed"] == 55

    def test_a_file_on_which_workers_die_costs_itself_only(
        self, site: AdoptingSite, archive: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scan = adopt.scan_files

        def deadly(files: Any, *args: Any) -> Any:
            if any(info.path == "a/IM2" for info in files):
                return TaskFailure("worker died", True, crashed=True)
            return scan(files, *args)

        monkeypatch.setattr(adopt, "scan_files", deadly)
        told = site.adopt(archive)
        assert told["indexed"] == 4
        (line,) = [one for one in told["lines"] if one["path"] == "a/IM2"]
        assert "worker process died" in line["why"]

    def test_a_cut_off_run_stops_and_tells_nobody(self, site: AdoptingSite, archive: Path) -> None:
        site.order(archive)
        (lease,) = site.leases("ADOPT")
        site.master.cancel_items_matching({"kind": "ADOPT"})
        run = adopt.AdoptRun(lease, site.ports())
        with pytest.raises(StaleLease):
            run.run(InlineTasks())
        run.clean_up(reported=False)


class TestOrdered:
    def test_what_cannot_be_is_refused(self, site: AdoptingSite, archive: Path) -> None:
        master = site.master
        with pytest.raises(TierUnavailable, match="no folder"):
            master.order_adoption((archive / "nowhere").as_uri())
        assert not (archive / "nowhere").exists()
        with pytest.raises(ConfigError, match="lie in one another"):
            master.order_adoption(site.folder.as_uri())
        with pytest.raises(ConfigError, match="lie in one another"):
            master.order_adoption((site.folder / "image" / "studies").as_uri())
        with pytest.raises(ConfigError, match="raypacs itself"):
            master.order_adoption((site.folder / "image").as_uri())
        with pytest.raises(ConfigError, match="image1"):
            master.order_adoption(archive.as_uri(), tier_name="image1")
        with pytest.raises(ConfigError, match="format"):
            master.order_adoption(archive.as_uri(), form="zip")

    def test_another_spelling_of_a_tier_is_that_tier(
        self, site: AdoptingSite, archive: Path, tmp_path: Path
    ) -> None:
        order, own = site.master.order_adoption, site.folder / "image"
        (own / "studies").mkdir(exist_ok=True)
        alias = tmp_path / "alias"
        alias.symlink_to(own)
        for url in (f"file://{archive}/../site/image", alias.as_uri(), f"file:{own}", f"{own}/./"):
            with pytest.raises(ConfigError, match="raypacs itself"):
                order(url)
        with pytest.raises(ConfigError, match="lie in one another"):
            order((alias / "studies").as_uri())
        for url in ("local://" + str(own), "simplecache::" + own.as_uri(), "http://host/x", "x/y"):
            with pytest.raises(ConfigError, match="url: "):
                order(url)
        assert len(site.reader.settings()[1].tiers) == 2
        first = order(archive.as_uri())
        (tmp_path / "other").symlink_to(archive)
        assert order((tmp_path / "other").as_uri()) == first

    def test_a_second_order_is_the_first_one(self, site: AdoptingSite, archive: Path) -> None:
        first = site.master.order_adoption(archive.as_uri(), who="ann")
        again = site.master.order_adoption(str(archive), prepare=True, who="bob")
        assert (first["tier"], again) == ("archive", first)
        assert site.reader.task(first["item_id"])["payload"]["prepare"] is True
        site.refresh()
        tier = next(one for one in site.settings.tiers if one.name == "archive")
        assert (tier.adopted, tier.read_only, tier.role) == ("folder", True, "image")

    def test_an_item_without_its_tier_fails_for_good(self, site: AdoptingSite) -> None:
        site.master.node_seen(node_info())
        site.master.enqueue_item("ADOPT", "")
        (result,) = site.run("ADOPT")
        assert (result.retryable, "no adopted tier" in result.error) == (False, True)


class TestPrepared:
    def test_nothing_by_itself_and_all_of_it_when_asked(
        self, site: AdoptingSite, archive: Path
    ) -> None:
        before = print_of(archive)
        site.adopt(archive)
        site.now += 600
        site.master.tick()
        assert site.leases("PREPARE") == []
        site.adopt(archive, prepare=True)
        site.now += 600
        site.master.tick()
        leases = site.leases("PREPARE")
        assert {one.study_uid for one in leases} == {STUDY, OTHER}
        assert {one.priority for one in leases} == {Priority.LOW}
        for lease in leases:
            site.master.report(lease, site.work(lease))
        assert site.reader.study(STUDY)["state"] == "prepared"
        assert print_of(archive) == before
        # Whole, also when the archive is gone.
        shutil.rmtree(archive)
        with site.served() as web:
            url = f"/dicom-web/studies/{STUDY}/series/{STUDY}.1/instances/{STUDY}.1.2"
            frame = web.get(f"{url}/frames/1", headers={"Accept": "application/octet-stream"})
            pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) + 2
            assert pixels.tobytes() in frame.content

    def test_on_request_it_is_as_urgent_as_asked(self, site: AdoptingSite, archive: Path) -> None:
        site.adopt(archive)
        site.master.enqueue_item("PREPARE", STUDY)
        (lease,) = site.leases("PREPARE")
        assert (lease.study_uid, lease.priority) == (STUDY, Priority.MEDIUM)

    def test_what_is_received_hurries_what_waits(self, site: AdoptingSite, archive: Path) -> None:
        site.adopt(archive, prepare=True)
        site.now += 600
        site.master.tick()
        assert site.store(picture(7)) == [Outcome.STORED]
        site.now += 600
        site.master.tick()
        leases = {one.study_uid: one for one in site.leases("PREPARE")}
        assert leases[STUDY].priority == Priority.MEDIUM
        assert leases[OTHER].priority == Priority.LOW

    def test_sealed_and_adopted_again(self, site: AdoptingSite, archive: Path) -> None:
        before = print_of(archive)
        site.adopt(archive, prepare=True)
        site.prepare()
        site.seal()
        manifests = site.reader.manifests(STUDY)
        assert {ref.tier for ref in manifests} == {"image1"}
        told = site.adopt(archive)
        assert (told["known"], told["indexed"], told["gone"]) == (5, 0, 0)
        assert site.reader.manifests(STUDY) == manifests
        with site.served() as web:
            url = f"/dicom-web/studies/{STUDY}/series/{STUDY}.1/instances/{STUDY}.1.2"
            whole = web.get(url, headers={"Accept": "application/dicom; transfer-syntax=*"})
            assert (archive / "a" / "IM2").read_bytes() in whole.content
        assert print_of(archive) == before
        assert site.balanced()


class TestSameInstance:
    def test_twice_in_the_archive_is_a_duplicate_and_other_bytes_a_conflict(
        self, site: AdoptingSite, archive: Path
    ) -> None:
        (archive / "b").mkdir()
        shutil.copy(archive / "a" / "IM1", archive / "b" / "copy")
        (archive / "b" / "other").write_bytes(picture(2, shade=5))
        (archive / "b" / "longer").write_bytes(picture(3, StudyDescription="A longer one"))
        told = site.adopt(archive)
        lines = whats(told)
        twins = {lines.get("b/copy"), lines.get("a/IM1")}
        assert twins == {"duplicate", None}
        assert {lines.get("b/other"), lines.get("a/IM2")} == {"conflict", None}
        assert {lines.get("b/longer"), lines.get("a/IM3")} == {"conflict", None}
        assert (told["state"], told["error"]) == ("WARNING", "2 conflict")
        assert len(site.reader.aside(STUDY)) == 2
        again = site.adopt(archive)
        assert (again["indexed"], again["duplicate"], again["conflict"]) == (0, 1, 2)
        assert len(site.reader.aside(STUDY)) == 2
        assert site.balanced()

    def test_received_before(self, site: AdoptingSite, archive: Path) -> None:
        assert site.store(picture(1), picture(2, shade=5)) == [Outcome.STORED] * 2
        told = site.adopt(archive)
        assert whats(told)["a/IM1"] == "duplicate"
        assert whats(told)["a/IM2"] == "conflict"
        tiers = {one.record.path: one.record.tier for one in site.reader.instances(STUDY)}
        assert sorted(tiers.values()) == ["archive", "image1", "image1"]

    @pytest.mark.parametrize("sealed", [False, True])
    def test_received_later(self, site: AdoptingSite, archive: Path, sealed: bool) -> None:
        before = print_of(archive)
        site.adopt(archive, prepare=sealed)
        if sealed:
            site.prepare()
            site.seal()
        stored = len(site.objects())
        assert site.store(picture(1)) == [Outcome.KNOWN]
        assert len(site.objects()) == stored
        assert site.store(picture(2, shade=5)) == [Outcome.CONFLICT]
        assert site.store(picture(3, StudyDescription="A longer one")) == [Outcome.CONFLICT]
        site.intake.close()
        found = {one.record.path: one.record.sha256 for one in site.reader.instances(STUDY)}
        data = (archive / "a" / "IM1").read_bytes()
        assert found["a/IM1"], "its checksum was learned"
        assert hashlib.sha256(data[-len(data) :]).hexdigest() != found["a/IM1"]
        assert found["a/IM3"] == "", "never read for it"
        assert print_of(archive) == before

    def test_received_while_it_is_adopted(self, site: AdoptingSite, archive: Path) -> None:
        """The edge looked before the adoption, and registers after it."""
        site.adopt(archive)
        known = site.intake._ports.known
        blind = site.intake._ports
        object.__setattr__(blind, "known", lambda uid: None)
        assert site.store(picture(1), picture(2, shade=5)) == [Outcome.STORED] * 2
        object.__setattr__(blind, "known", known)
        paths = {one.record.path for one in site.reader.instances(STUDY)}
        assert paths == {"a/IM1", "a/IM2", "a/IM3"}
        assert len(site.reader.aside(STUDY)) == 1
        (kept,) = (path for _, path in site.objects() if path.startswith("studies/"))
        assert kept == site.reader.aside(STUDY)[0].path

    def test_received_when_its_file_is_gone(self, site: AdoptingSite, archive: Path) -> None:
        site.adopt(archive)
        os.unlink(archive / "a" / "IM1")
        assert site.store(picture(1)) == [Outcome.CONFLICT]
        assert any(path.startswith("conflicts/") for _, path in site.objects()), "not lost"
        ports = site.intake._ports
        known = ports.known
        object.__setattr__(ports, "known", lambda uid: None)  # it was adopted a moment later
        assert site.store(picture(1, StudyDate="20240103")) == [Outcome.STORED]
        object.__setattr__(ports, "known", known)
        newest = site.reader.aside(STUDY)[0]
        assert "cannot be compared" in newest.reason
        assert any(path == newest.path for _, path in site.objects()), "not lost"


class TestChanged:
    def test_what_changed_is_told_and_not_served(self, site: AdoptingSite, archive: Path) -> None:
        site.adopt(archive)
        url = f"/dicom-web/studies/{STUDY}/series/{STUDY}.1/instances/{STUDY}.1.2"
        octets = {"Accept": "application/octet-stream"}
        with site.served() as web:
            assert web.get(f"{url}/frames/1", headers=octets).status_code == 200
            with (archive / "a" / "IM2").open("r+b") as file:  # in place, as long as it was
                file.seek(-8, os.SEEK_END)
                file.write(b"\xff" * 8)
            os.utime(archive / "a" / "IM2", (1, 1))
            answer = web.get(f"{url}/frames/1", headers=octets)
            assert (answer.status_code, "changed" in answer.text) == (404, True)
            assert web.get(url).status_code == 404
        told = site.adopt(archive)
        assert whats(told)["a/IM2"] == "changed"
        assert (told["state"], told["error"]) == ("WARNING", "1 changed")

    def test_what_is_gone_is_told(self, site: AdoptingSite, archive: Path) -> None:
        site.adopt(archive)
        os.unlink(archive / "a" / "IM2")
        told = site.adopt(archive)
        assert whats(told)["a/IM2"] == "gone"
        assert len(site.reader.instances(STUDY)) == 3

    def test_what_was_moved_is_served_from_there(self, site: AdoptingSite, archive: Path) -> None:
        site.adopt(archive)
        (archive / "a").rename(archive / "renamed")
        told = site.adopt(archive)
        assert (told["moved"], told["gone"], told["undecided"]) == (5, 0, 0)
        paths = {one.record.path for one in site.reader.instances(STUDY)}
        assert paths == {"renamed/IM1", "renamed/IM2", "renamed/IM3"}
        told = site.adopt(archive)
        assert (told["known"], told["moved"], told["gone"]) == (5, 0, 0)
        assert site.balanced()

    def test_a_changed_file_is_not_prepared(self, site: AdoptingSite, archive: Path) -> None:
        site.adopt(archive)
        os.utime(archive / "a" / "IM2", (1, 1))
        site.master.enqueue_item("PREPARE", STUDY)
        (lease,) = site.leases("PREPARE")
        with pytest.raises(LookupError, match="changed since"):
            site.work(lease)

    def test_a_folder_that_cannot_be_listed_hides_nothing(
        self, site: AdoptingSite, archive: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.adopt(archive)
        scandir = os.scandir

        def closed(path: str) -> Any:
            if str(path).endswith("/a"):
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", closed)
        told = site.adopt(archive)
        assert whats(told)["a"] == "unlisted"
        assert (told["gone"], told["error"]) == (0, "1 unlisted")


class TestDeleted:
    @pytest.mark.parametrize("sealed", [False, True])
    def test_the_files_stay_and_the_study_does_not_come_back(
        self, site: AdoptingSite, archive: Path, sealed: bool
    ) -> None:
        before = print_of(archive)
        site.adopt(archive, prepare=True)
        site.prepare()
        if sealed:
            site.seal()
        site.master.delete_study(STUDY, "ann")
        site.now += 60
        for _ in range(3):
            site.master.tick()
            site.now += 10
        assert not any(STUDY in path for _, path in site.objects())
        assert print_of(archive) == before
        assert site.balanced()
        assert "adopted files stay" in site.reader.why(STUDY)[-1]["text"]
        told = site.adopt(archive)
        assert (told["refused"], told["indexed"], told["known"]) == (3, 0, 2)
        assert site.reader.instances(STUDY) == []
        told = site.adopt(archive, deleted=True)
        assert (told["refused"], told["indexed"]) == (0, 3)
        assert len(site.reader.instances(STUDY)) == 3
        told = site.adopt(archive)
        assert (told["refused"], told["known"]) == (0, 5)

    def test_received_anew_after_it_was_deleted(self, site: AdoptingSite, archive: Path) -> None:
        site.adopt(archive)
        site.master.delete_study(STUDY)
        assert site.store(picture(1)) == [Outcome.STORED]
        assert len(site.reader.instances(STUDY)) == 1

    def test_kept_aside_there_it_stays_too(self, site: AdoptingSite, archive: Path) -> None:
        (archive / "b").mkdir()
        (archive / "b" / "other").write_bytes(picture(2, shade=5))
        before = print_of(archive)
        site.adopt(archive)
        site.master.delete_study(STUDY)
        site.now += 60
        site.master.tick()
        assert print_of(archive) == before
        assert site.balanced()


class TestVerified:
    def test_the_first_one_learns_the_checksums(self, site: AdoptingSite, archive: Path) -> None:
        site.adopt(archive)
        site.master.enqueue_item("VERIFY", STUDY)
        assert [one.error for one in site.run("VERIFY")] == [""]
        found = {one.record.path: one.record for one in site.reader.instances(STUDY)}
        for path, record in found.items():
            data = (archive / path).read_bytes()[record.dataset_offset_bytes :]
            assert record.sha256 == hashlib.sha256(data).hexdigest()
        at_s = (archive / "a" / "IM2").stat().st_mtime
        data = bytearray((archive / "a" / "IM2").read_bytes())
        data[-1] ^= 1
        (archive / "a" / "IM2").write_bytes(data)
        os.utime(archive / "a" / "IM2", (at_s, at_s))  # nobody could tell by size and time
        site.master.enqueue_item("VERIFY", STUDY)
        (result,) = site.run("VERIFY")
        assert "a/IM2 on archive: SHA-256 differs" in result.error

    def test_of_a_sealed_study_too(self, site: AdoptingSite, archive: Path) -> None:
        site.adopt(archive, prepare=True)
        site.prepare()
        site.seal()
        site.master.enqueue_item("VERIFY", STUDY)
        assert [one.error for one in site.run("VERIFY")] == [""]
        assert all(one.record.sha256 for one in site.reader.instances(STUDY))

    def test_what_changed_or_is_gone_differs(self, site: AdoptingSite, archive: Path) -> None:
        site.adopt(archive)
        os.utime(archive / "a" / "IM1", (1, 1))
        os.unlink(archive / "a" / "IM2")
        site.master.enqueue_item("VERIFY", STUDY)
        (result,) = site.run("VERIFY")
        assert "a/IM1 on archive: changed since it was adopted" in result.error
        assert "a/IM2 on archive: not there" in result.error


class TestBucket:
    def test_an_s3_prefix_is_served_and_prepared_from_where_it_lies(
        self, site: AdoptingSite, archive: Path, s3: S3Server
    ) -> None:
        bucket, client = s3.bucket(), s3.client()
        for path in (one for one in archive.rglob("*") if one.is_file()):
            key = f"old/{path.relative_to(archive)}"
            client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
        listed = client.list_objects_v2(Bucket=bucket)["Contents"]
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
        told = site.master.order_adoption(tier.url, prepare=True)
        site.refresh()
        site.run("ADOPT")
        told = site.told(told["item_id"])
        # The link is a file there.
        assert (told["indexed"], told["duplicate"], told["error"]) == (5, 1, "")
        with site.served() as web:
            url = f"/dicom-web/studies/{STUDY}/series/{STUDY}.1/instances/{STUDY}.1.2"
            frame = web.get(f"{url}/frames/1", headers={"Accept": "application/octet-stream"})
            pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) + 2
            assert pixels.tobytes() in frame.content
        site.prepare()
        assert site.reader.study(STUDY)["state"] == "prepared"
        site.master.delete_study(STUDY)
        site.now += 60
        site.master.tick()
        assert client.list_objects_v2(Bucket=bucket)["Contents"] == listed


class TestTier:
    def test_nothing_can_be_written(self, site: AdoptingSite, archive: Path) -> None:
        site.adopt(archive)
        tier = site.tier("archive")
        for change in (
            lambda: tier.put_durable("x", b"x"),
            lambda: tier.put_transient("x", b"x"),
            lambda: tier.create("x"),
            lambda: tier.delete("a/IM1"),
        ):
            with pytest.raises(TierUnavailable, match="nothing changes"):
                change()
        tier.prune("a/")
        assert list(tier.walk()) == []
        assert (tier.free_bytes(), tier.capacity_bytes(), tier.recount_bytes()) == (0, 0, 0)

    def test_the_archive_of_another_site(self, site: AdoptingSite, tmp_path: Path) -> None:
        """Markers of another raypacs are files like any other."""
        url = f"sqlite:///{tmp_path / 'two' / 'index.sqlite'}"
        other = AdoptingSite(tmp_path / "two", url)
        assert other.store(picture(1)) == [Outcome.STORED]
        before = print_of(tmp_path / "two" / "image")
        told = site.adopt(tmp_path / "two" / "image")
        assert told["indexed"] == 1
        site.now += 3600
        site.master.tick()
        assert site.reader.status(site.now)["tiers"][-1]["reachable"] is True
        other.close()
        assert {
            path: one
            for path, one in print_of(tmp_path / "two" / "image").items()
            if path.startswith("studies")
        } == {path: one for path, one in before.items() if path.startswith("studies")}

    def test_an_archive_that_is_away_stops_nothing_else(
        self, site: AdoptingSite, archive: Path, tmp_path: Path
    ) -> None:
        site.adopt(archive)
        archive.rename(tmp_path / "away")
        site.now += 60
        site.master.tick()
        assert site.store(picture(1, study="1.2.8")) == [Outcome.STORED]
        with pytest.raises(TierUnavailable):
            open_tier(next(one for one in site.settings.tiers if one.name == "archive"))
        assert not archive.exists(), "never made anew"
