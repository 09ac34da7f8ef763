"""The dispatcher of a real node: what is cancelled stops, what is urgent overtakes, VERIFY."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest
from nodes import Node, start, stop, write_config
from pydicom import Dataset

from raypacs import layout
from raypacs.client import Client
from raypacs.config import load_bootstrap
from raypacs.index.reader import IndexReader
from raypacs.storage.tier import Tier, open_tier
from raypacs.synthetic import CtSeries, ct_instances

WAIT_S = 120.0
Value = TypeVar("Value")


class Site:
    """A node with its index and its web tier, and what tests do with them again and again."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.client = Client(node.url, patience_s=60).__enter__()
        self.index = IndexReader(load_bootstrap(node.config).database_url)
        _, settings = self.index.settings()
        tiers: list[Tier] = [open_tier(tier) for tier in settings.tiers]
        self.image, self.web = tiers

    def settings(self, **changes: Any) -> None:
        told = self.node.get("/api/v1/settings").json()["settings"] | changes
        httpx.put(f"{self.node.url}/api/v1/settings", json=told, timeout=60).raise_for_status()

    def post(self, path: str, **body: Any) -> Any:
        answer = httpx.post(f"{self.node.url}/api/v1/queue{path}", json=body, timeout=60)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def upload(self, datasets: list[Dataset], folder: Path) -> str:
        """Ingest a study without saying that it is complete; return its UID."""
        for dataset in datasets:
            path = folder / "one.dcm"
            dataset.save_as(path, enforce_file_format=True)
            data = path.read_bytes()
            answer = self.client.ingest(data, size_bytes=len(data), source="TEST")
            assert answer["outcome"] == "stored"
        uid = str(datasets[0].StudyInstanceUID)
        wait_for(lambda: len(self.index.instances(uid)) == len(datasets), "registration")
        return uid

    def ask(self, kind: str, study_uid: str, priority: str = "medium") -> int:
        """Ask for work on a study; return the item's id."""
        item = self.post("", kind=kind, study_uid=study_uid, priority=priority)
        return int(item["item_id"])

    def item(self, item_id: int) -> dict[str, Any]:
        return self.node.get(f"/api/v1/queue/{item_id}").raise_for_status().json()

    def ended(self, item_id: int) -> dict[str, Any]:
        """Wait until an item does not wait and does not run; return it."""
        ends = ("COMPLETED", "WARNING", "FAILED", "CANCELED")
        return wait_for(
            lambda: (item := self.item(item_id))["state"] in ends and item,
            f"the end of item {item_id}",
        )

    def parts(self) -> list[str]:
        return [info.path for info in self.web.walk(layout.ATTEMPTS)]

    def of_study(self, study_uid: str) -> list[str]:
        """Objects of a study on the web tier, and parts of any attempt."""
        return [info.path for info in self.web.walk(layout.study_prefix(study_uid))] + self.parts()

    def workers(self) -> list[psutil.Process]:
        """Ray's worker processes that are not actors."""
        found = []
        for process in psutil.Process(self.node.process.pid).children(recursive=True):
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if line.startswith(("ray::IDLE", "ray::prepare_chunk", "ray::publish_series")):
                found.append(process)
        return found


def wait_for(condition: Callable[[], Value], what: str, timeout_s: float = WAIT_S) -> Value:
    """Return the first true value of ``condition``."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"waited {timeout_s} s for {what}")


def study(slices: int, seed: int, size: int = 512) -> list[Dataset]:
    return list(ct_instances(replace(CtSeries(slices=slices, rows=size, columns=size), seed=seed)))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A node on which studies are prepared when a test asks for it."""
    folder = tmp_path_factory.mktemp("dispatcher")
    node = start(write_config(folder, dashboard=False, cores=2), folder / "data")
    made = Site(node)
    made.settings(quiet_s=3600, chunk_bytes=1024 * 1024)
    yield made
    made.client.__exit__(None, None, None)
    made.index.close()
    assert stop(node) == 0


def test_a_cancelled_prepare_stops_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    uid = site.upload(study(240, seed=1), tmp_path)
    item_id = site.ask("PREPARE", uid)
    wait_for(lambda: len(site.parts()) >= 3, "parts of a running attempt")
    site.post(f"/{item_id}/cancel")
    canceled_s = time.monotonic()
    assert site.item(item_id)["state"] == "CANCELED"
    wait_for(lambda: not site.of_study(uid), "a web tier without the attempt", 60)
    print(f"nothing left {time.monotonic() - canceled_s:.2f} s after the cancel")
    # What is gone stays gone, and may be asked for again.
    time.sleep(1)
    assert site.of_study(uid) == []
    assert site.client.study(uid)["study"]["state"] != "prepared"
    site.post(f"/{item_id}/reschedule")
    assert site.ended(item_id)["state"] == "COMPLETED"
    assert {one.form for one in site.index.instances(uid)} == {"htj2k"}
    wait_for(lambda: not site.parts(), "parts removed")


def test_workers_that_answer_late_write_nothing_any_more(site: Site, tmp_path: Path) -> None:
    uid = site.upload(study(24, seed=2), tmp_path)
    frozen = site.workers()
    for worker in frozen:
        worker.suspend()
    item_id = site.ask("PREPARE", uid)
    wait_for(lambda: site.item(item_id)["state"] == "IN PROCESS", "the item to run")
    time.sleep(1)  # its tasks are with the frozen workers now
    site.post(f"/{item_id}/cancel")
    time.sleep(4)  # they are interrupted, then told to end
    for worker in frozen:
        worker.resume()
    wait_for(lambda: not site.of_study(uid), "a web tier without the attempt", 60)
    time.sleep(1)
    assert site.of_study(uid) == []
    site.post(f"/{item_id}/reschedule")
    assert site.ended(item_id)["state"] == "COMPLETED"


def test_a_study_deleted_while_it_is_prepared_leaves_nothing(site: Site, tmp_path: Path) -> None:
    uid = site.upload(study(120, seed=3), tmp_path)
    item_id = site.ask("PREPARE", uid)
    wait_for(lambda: len(site.parts()) >= 2, "parts of a running attempt")
    httpx.delete(f"{site.node.url}/api/v1/studies/{uid}", timeout=60).raise_for_status()
    assert site.ended(item_id)["state"] == "CANCELED"
    wait_for(lambda: not site.of_study(uid), "a web tier without the study", 60)


def test_an_urgent_study_overtakes_one_that_is_being_prepared(site: Site, tmp_path: Path) -> None:
    long_uid = site.upload(study(240, seed=4), tmp_path)
    short_uid = site.upload(study(4, seed=5), tmp_path)
    long_id = site.ask("PREPARE", long_uid, "low")
    wait_for(lambda: len(site.parts()) >= 2, "parts of a running attempt")
    short_id = site.ask("PREPARE", short_uid, "stat")
    short, long = site.ended(short_id), site.ended(long_id)
    assert (short["state"], long["state"]) == ("COMPLETED", "COMPLETED")
    assert short["finished_s"] < long["finished_s"]


@pytest.fixture(scope="module")
def prepared(site: Site, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A prepared study."""
    uid = site.upload(study(6, seed=6, size=128), tmp_path_factory.mktemp("files"))
    assert site.ended(site.ask("PREPARE", uid))["state"] == "COMPLETED"
    return uid


def changed(tier: Tier, path: str) -> Path:
    """Change one bit in the middle of an object."""
    file = Path(tier.local_path(path) or "")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return file


def test_verify_completes_and_is_no_access(site: Site, prepared: str) -> None:
    before = site.client.study(prepared)["study"]
    item = site.ended(site.ask("VERIFY", prepared))
    assert (item["state"], item["error"]) == ("COMPLETED", "")
    after = site.client.study(prepared)["study"]
    assert {k: after[k] for k in ("accessed_s", "state")} == {
        k: before[k] for k in ("accessed_s", "state")
    }


def test_verify_warns_of_a_damaged_pack_and_fails_on_a_damaged_original(
    site: Site, prepared: str
) -> None:
    ((ref,),) = site.index.packs(prepared).values()
    record = site.index.instances(prepared)[0].record
    for tier, path, state in (
        (site.web, ref.pack_path, "WARNING"),
        (site.image, record.path, "FAILED"),
    ):
        file = changed(tier, path)
        item = site.ended(site.ask("VERIFY", prepared))
        assert item["state"] == state
        assert f"{path} on {tier.name}" in item["error"]
        changed(tier, path)
        assert file.is_file()
    assert site.client.study(prepared)["study"]["state"] == "prepared"
    assert site.ended(site.ask("VERIFY", prepared))["state"] == "COMPLETED"


def test_verify_reads_what_is_sealed_and_fails_on_a_damaged_manifest(
    site: Site, prepared: str
) -> None:
    site.settings(quiet_s=3600, seal_after_s=0)
    site.client.complete([prepared])  # nothing more is to come
    (manifest,) = wait_for(lambda: site.index.manifests(prepared), "the study to be sealed")
    assert site.ended(site.ask("VERIFY", prepared))["state"] == "COMPLETED"
    tier = site.image if manifest.tier == site.image.name else site.web
    changed(tier, manifest.path)
    item = site.ended(site.ask("VERIFY", prepared))
    assert item["state"] == "FAILED"
    assert manifest.path in item["error"]
    changed(tier, manifest.path)
    assert site.ended(site.ask("VERIFY", prepared))["state"] == "COMPLETED"
