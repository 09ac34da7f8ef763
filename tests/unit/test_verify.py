"""VERIFY: whatever byte is changed or gone is named; what is as stored is not."""

from __future__ import annotations

import gzip
import random
from dataclasses import replace
from pathlib import Path

import pytest
from inline_tasks import LEASE, InlineTasks, site
from stored_series import Store, image, noise, part10

from raypacs.config import CompressionRule
from raypacs.errors import ManifestCorrupt, NotFound, RaypacsError, TierUnavailable
from raypacs.records import PackRef, PreparedSeries, StoredInstance, WorkResult
from raypacs.storage import manifest
from raypacs.work import verify
from raypacs.work.run import Site, TaskFailure
from raypacs.work.verify import VerifyRun, verify_instances, verify_pack

COPY_US = CompressionRule(name="US as received", action="copy", modalities=("US",))


class Stored:
    """One prepared series: two images as codestreams, one copied as received."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        datasets = [
            image(noise(2, 24, 32, seed=n), InstanceNumber=n, Modality="US" if n == 3 else "CT")
            for n in (1, 2, 3)
        ]
        self.instances = [self.store.add(part10(dataset)) for dataset in datasets]
        self.series: PreparedSeries = self.store.prepare(self.instances, rules=[COPY_US])
        self.ref = PackRef(
            "web1", self.series.pack_path, self.series.header_path, self.series.token
        )

    def file(self, path: str) -> Path:
        prepared = path in (self.ref.pack_path, self.ref.header_path)
        return Path((self.store.web if prepared else self.store.image).local_path(path) or "")

    def served(self) -> list[bytes]:
        """Everything that can be read out of the pack."""
        pack = self.store.open(self.series)
        files = [b"".join(pack.part10(uid)) for uid in pack.instances]
        return [gzip.decompress(pack.metadata_gzip()), *files]

    def run(self, instances: list[StoredInstance] | None = None) -> WorkResult:
        stored = self.instances if instances is None else instances
        found = site(self.store.settings, stored, {self.series.series_uid: [self.ref]})
        return VerifyRun(replace(LEASE, kind="VERIFY"), found).run(InlineTasks())


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def test_what_is_as_stored_is_completed(stored: Stored) -> None:
    assert stored.run() == WorkResult()


def test_every_changed_byte_of_an_original_is_found(stored: Stored) -> None:
    record = stored.instances[0].record
    file = stored.file(record.path)
    whole = file.read_bytes()
    chance = random.Random(7)
    for at in chance.sample(range(record.dataset_offset_bytes, len(whole)), 20):
        flip(file, at)
        result = stored.run()
        assert (result.retryable, result.warning) == (False, "")
        assert result.error == f"1 objects differ: {record.path} on image1: SHA-256 differs"
        file.write_bytes(whole)


@pytest.mark.parametrize("which", ["pack_path", "header_path"])
def test_every_changed_byte_of_a_pack_or_its_sidecar_is_a_warning(
    stored: Stored, which: str
) -> None:
    path = getattr(stored.ref, which)
    file = stored.file(path)
    whole = file.read_bytes()
    chance = random.Random(8)
    head = 32  # magic and token, which the path and the index carry as well
    served, found = stored.served(), 0
    for at in chance.sample(range(head, len(whole)), 120):
        flip(file, at)
        result = stored.run()
        assert result.error == ""
        if result.warning:
            assert result.warning.startswith(f"1 objects differ: {path} on web1: ")
            found += 1
        else:  # a bit that fills up a byte between two deflate blocks means nothing
            assert stored.served() == served
        file.write_bytes(whole)
    assert found >= 115


@pytest.mark.parametrize("which", ["pack_path", "header_path"])
def test_a_missing_pack_or_sidecar_is_a_warning(stored: Stored, which: str) -> None:
    path = getattr(stored.ref, which)
    stored.file(path).unlink()
    result = stored.run()
    assert result.error == ""
    assert path in result.warning


def test_a_missing_or_cut_off_original_fails_and_comes_first(stored: Stored) -> None:
    first, second = (one.record for one in stored.instances[:2])
    stored.file(first.path).unlink()
    stored.file(second.path).write_bytes(b"x")
    stored.file(stored.ref.pack_path).unlink()
    result = stored.run()
    assert not result.retryable
    assert result.error.startswith(f"3 objects differ: {first.path} on image1: not there; ")
    assert f"{second.path} on image1: 1 bytes instead of {second.size_bytes}" in result.error
    assert stored.ref.pack_path in result.error


def test_what_was_replaced_or_deleted_meanwhile_is_not_told(stored: Stored) -> None:
    stored.file(stored.instances[0].record.path).unlink()
    stored.file(stored.ref.pack_path).unlink()
    asked: list[int] = []
    at_first = site(
        stored.store.settings, stored.instances, {stored.series.series_uid: [stored.ref]}
    )

    def instances(study_uid: str) -> list[StoredInstance]:
        asked.append(1)
        return stored.instances if len(asked) == 1 else stored.instances[1:]

    packs = iter([at_first.packs("1.2.3"), {}])
    found = replace(at_first, instances=instances, packs=lambda study_uid: next(packs))
    assert VerifyRun(LEASE, found).run(InlineTasks()) == WorkResult()


def test_a_damaged_or_missing_manifest_fails(stored: Stored) -> None:
    place = ("image1", "studies/1.2.3/1.2.3.4/manifest")
    stored.store.image.put_durable(place[1], manifest.encode("1.2.3", "1.2.3.4", [], {}))
    sealed = site(stored.store.settings, stored.instances, manifests=[place])
    assert VerifyRun(LEASE, sealed).run(InlineTasks()) == WorkResult()

    def unreadable(error: RaypacsError) -> Site:
        def instances(study_uid: str) -> list[StoredInstance]:
            raise error

        return replace(sealed, instances=instances)

    file = Path(stored.store.image.local_path(place[1]) or "")
    file.write_bytes(b"x" + file.read_bytes()[1:])
    result = VerifyRun(LEASE, unreadable(ManifestCorrupt("damaged"))).run(InlineTasks())
    assert (result.retryable, result.warning) == (False, "")
    assert result.error.startswith(f"1 objects differ: {place[1]} on image1: ")
    file.unlink()
    assert place[1] in VerifyRun(LEASE, unreadable(NotFound("gone"))).run(InlineTasks()).error


def test_many_differences_are_counted(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_NAMED", 1)
    for one in stored.instances:
        stored.file(one.record.path).unlink()
    assert stored.run().error.endswith("not there; and 2 more")


def test_a_tier_that_is_away_is_waited_for(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = TaskFailure("waits for a tier: image1", True, waits=True)
    tasks = InlineTasks(lambda key, times: failure)
    found = site(stored.store.settings, stored.instances)
    result = VerifyRun(LEASE, found).run(tasks)
    assert (result.waits, result.error) == (True, "waits for a tier: image1")
    with pytest.raises(TierUnavailable):
        verify_instances([replace(stored.instances[0].record, tier="gone")], stored.store.settings)
    with pytest.raises(TierUnavailable):
        verify_pack(replace(stored.ref, tier="gone"), stored.store.settings)


def test_work_is_shared_out_by_bytes(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    size = stored.instances[0].record.size_bytes
    records = [one.record for one in stored.instances]
    for most, shares in ((1, 3), (2 * size, 2), (10 * size, 1)):
        monkeypatch.setattr(verify, "_TASK_BYTES", most)
        made = list(verify._shares(records))
        assert len(made) == shares
        assert [one for share in made for one in share] == records
