"""A real node under kill -9: the master, a worker, a listener. Nothing answered is lost."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
from nodes import Node, cli, start, stop, write_config
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from raypacs.client import Client
from raypacs.config import load_bootstrap
from raypacs.index.reader import IndexReader
from raypacs.storage.pack import Pack
from raypacs.storage.tier import open_tier
from raypacs.synthetic import CtSeries, ct_instances

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
WAIT_S = 180


@pytest.fixture(scope="module")
def crash_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that is treated badly; its own Ray, so that others keep theirs."""
    folder = tmp_path_factory.mktemp("crash")
    config = write_config(folder, dashboard=False, listener_processes=2)
    running = start(config, folder / "data")
    yield running
    assert stop(running) == 0


def studies(count: int, slices: int, first_seed: int, size: int = 256) -> list[list[Dataset]]:
    """Generate small CT studies, each with its own UIDs."""
    base = CtSeries(slices=slices, rows=size, columns=size)
    return [list(ct_instances(replace(base, seed=first_seed + number))) for number in range(count)]


def write(folder: Path, datasets: list[list[Dataset]]) -> list[Path]:
    """Write data sets as Part 10 files."""
    paths = []
    for dataset in (one for study in datasets for one in study):
        path = folder / f"{dataset.SOPInstanceUID}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def upload(client: Client, paths: list[Path]) -> None:
    """Ingest files without saying that their studies are complete."""
    for path in paths:
        data = path.read_bytes()
        assert client.ingest(data, size_bytes=len(data), source="TEST")["outcome"] == "stored"


def wait_for(condition, what: str, timeout_s: float = WAIT_S):
    """Return the first true value of ``condition``."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    pytest.fail(f"waited {timeout_s} s for {what}")


def children(node: Node, *words: str) -> list[psutil.Process]:
    """Processes of the node whose command line has all ``words``."""
    found = []
    for process in psutil.Process(node.process.pid).children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if all(word in line for word in words):
            found.append(process)
    return found


def master_pid(node: Node) -> int:
    return wait_for(lambda: node.status()["master"]["pid"], "the master's pid")


def reader(node: Node) -> IndexReader:
    return IndexReader(load_bootstrap(node.config).database_url)


def check_prepared_once(node: Node, study_uids: set[str]) -> None:
    """Every instance is in exactly one pack, proven, and no attempt left anything behind."""
    index = reader(node)
    _, settings = index.settings()
    tiers = {tier.name: open_tier(tier) for tier in settings.tiers}
    for study_uid in study_uids:
        stored = index.instances(study_uid)
        assert stored
        assert {one.form for one in stored} == {"htj2k"}
        seen: Counter[str] = Counter()
        for refs in index.packs(study_uid).values():
            for ref in refs:
                seen.update(Pack(tiers[ref.tier], ref).instances.keys())
        assert seen == {one.record.sop_instance_uid: 1 for one in stored}
    index.close()


def no_litter(node: Node) -> bool:
    """Whether web and image tier hold only objects the index knows."""
    index = reader(node)
    _, settings = index.settings()
    known: set[str] = set()
    for row in index.studies():
        uid = row["study_uid"]
        known |= {one.record.path for one in index.instances(uid)}
        for refs in index.packs(uid).values():
            known |= {path for ref in refs for path in (ref.pack_path, ref.header_path)}
    found = {
        info.path
        for tier in settings.tiers
        for info in open_tier(tier).walk()
        if not info.path.startswith(("epochs/", "site/", "intake/", "conflicts/", "quarantine/"))
    }
    index.close()
    return found == known


def test_master_killed_during_preparation(crash_node: Node, tmp_path: Path) -> None:
    sent = studies(6, 12, first_seed=1000)
    paths = write(tmp_path, sent)
    uids = {study[0].StudyInstanceUID for study in sent}
    before = crash_node.status()["epoch"]
    with Client(crash_node.url, patience_s=60) as client:
        upload(client, paths)
        client.complete(uids)
        wait_for(
            lambda: any(
                item["state"] == "IN PROCESS"
                for item in crash_node.get("/api/v1/queue?kind=PREPARE").json()["items"]
            ),
            "work in flight",
            20,
        )
        os.kill(master_pid(crash_node), signal.SIGKILL)
    crash_node.cli("wait", "--prepared")
    assert crash_node.status()["epoch"] == before + 1
    check_prepared_once(crash_node, uids)
    wait_for(lambda: no_litter(crash_node), "tiers without litter", 60)


def test_worker_killed_during_preparation(crash_node: Node, tmp_path: Path) -> None:
    sent = studies(4, 12, first_seed=2000)
    paths = write(tmp_path, sent)
    uids = {study[0].StudyInstanceUID for study in sent}
    # Held still while they are given their tasks, so that the one that is killed surely has one.
    workers = wait_for(lambda: children(crash_node, "ray::IDLE"), "idle workers", 60)
    for worker in workers:
        worker.suspend()
    with Client(crash_node.url, patience_s=60) as client:
        upload(client, paths)
        client.complete(uids)
    wait_for(
        lambda: any(
            item["state"] == "IN PROCESS"
            for item in crash_node.get("/api/v1/queue?kind=PREPARE").json()["items"]
        ),
        "work in flight",
        30,
    )
    time.sleep(1)
    workers[0].kill()
    for worker in workers[1:]:
        worker.resume()
    crash_node.cli("wait", "--prepared")
    check_prepared_once(crash_node, uids)
    wait_for(lambda: no_litter(crash_node), "tiers without litter", 60)


def send_until_stopped(
    node: Node, todo: list[Dataset], answered: set[str], stopped: threading.Event
) -> None:
    """Send like a modality that reconnects and sends again what was not answered."""
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(CT_IMAGE, ExplicitVRLittleEndian)
    while todo and not stopped.is_set():
        association = ae.associate("127.0.0.1", node.dicom_port)
        if not association.is_established:
            time.sleep(0.1)
            continue
        while todo:
            try:
                status = association.send_c_store(todo[0])
            except (RuntimeError, ValueError):
                break
            if "Status" not in status or status.Status != 0:
                break
            answered.add(str(todo.pop(0).SOPInstanceUID))
        if association.is_established:
            association.release()


@pytest.mark.parametrize("seed", [1, 2])
def test_listener_killed_while_receiving(crash_node: Node, seed: int) -> None:
    chance = random.Random(seed)
    sent = [one for study in studies(2, 40, 3000 + 10 * seed, size=128) for one in study]
    uids = {one.StudyInstanceUID for one in sent}
    answered: set[str] = set()
    stopped = threading.Event()
    senders = [
        threading.Thread(
            target=send_until_stopped, args=(crash_node, sent[half::2], answered, stopped)
        )
        for half in range(2)
    ]
    for sender in senders:
        sender.start()
    for _ in range(3):
        time.sleep(chance.uniform(0.02, 0.3))
        listeners = [
            process
            for process in children(crash_node, "raypacs.edges")
            if any(c.laddr.port == crash_node.dicom_port for c in process.net_connections("tcp"))
        ]
        if listeners:
            chance.choice(listeners).kill()
    for sender in senders:
        sender.join(WAIT_S)
    stopped.set()
    assert answered == {str(one.SOPInstanceUID) for one in sent}

    def registered() -> bool:
        index = reader(crash_node)
        found = {s.record.sop_instance_uid for uid in uids for s in index.instances(uid)}
        index.close()
        return answered <= found

    wait_for(registered, "everything answered 'stored' to be in the index", 60)
    crash_node.cli("wait", "--prepared")
    check_prepared_once(crash_node, uids)
    wait_for(lambda: no_litter(crash_node), "tiers without litter", 60)


def test_actors_killed_come_back_on_the_same_ports(crash_node: Node, tmp_path: Path) -> None:
    victims = [
        p for name in ("EdgeActor", "Dispatcher") for p in children(crash_node, f"ray::{name}")
    ]
    assert len(victims) == 3
    for victim in victims:
        victim.kill()
    wait_for(lambda: not any(victim.is_running() for victim in victims), "the actors to be gone")

    def serves() -> bool:
        try:
            up = crash_node.get("/api/v1/health").status_code == 200
        except httpx.TransportError:
            return False
        ae = AE(ae_title="SENDER")
        ae.add_requested_context("1.2.840.10008.1.1")
        association = ae.associate("127.0.0.1", crash_node.dicom_port)
        established = association.is_established
        if established:
            association.release()
        return up and established

    wait_for(serves, "listener and gateway on their ports", 90)
    sent = studies(1, 6, first_seed=5000)
    with Client(crash_node.url, patience_s=60) as client:
        upload(client, write(tmp_path, sent))
    crash_node.cli("wait", "--prepared")
    check_prepared_once(crash_node, {sent[0][0].StudyInstanceUID})


def send_one(node: Node, dataset: Dataset) -> int:
    """Send one instance and return the status answered."""
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(CT_IMAGE, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", node.dicom_port)
    status = association.send_c_store(dataset)
    association.release()
    return int(status.Status) if "Status" in status else -1


def put_settings(node: Node, settings: dict[str, object]) -> None:
    """Apply settings and wait until every edge process is one that was started with them."""
    before = {process.pid for process in children(node, "raypacs.edges")}
    answer = httpx.put(node.url + "/api/v1/settings", json=settings, timeout=60)
    assert answer.status_code == 200, answer.text

    def renewed() -> bool:
        now = {process.pid for process in children(node, "raypacs.edges")}
        return not now & before and len(now) == len(before)

    wait_for(renewed, "edge processes with the new settings", 90)


def with_image_capacity(node: Node, capacity_bytes: int) -> None:
    """Apply the settings with another capacity of the image tier."""
    settings = node.get("/api/v1/settings").json()["settings"]
    for tier in settings["tiers"]:
        if tier["role"] == "image":
            tier["capacity_bytes"] = capacity_bytes
    put_settings(node, settings)


def test_a_full_tier_refuses_politely_and_new_settings_reach_the_edges(
    crash_node: Node, tmp_path: Path
) -> None:
    first, second = (study[0] for study in studies(2, 1, first_seed=6000))
    with_image_capacity(crash_node, 1)
    wait_for(lambda: send_one(crash_node, first) == 0xA700, "a refusal for want of room", 60)
    path = write(tmp_path, [[second]])[0]
    answer = httpx.post(
        crash_node.url + "/dicom-web/studies",
        content=b"--b\r\nContent-Type: application/dicom\r\n\r\n"
        + path.read_bytes()
        + b"\r\n--b--",
        headers={"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'},
        timeout=60,
    )
    assert answer.status_code == 507
    with_image_capacity(crash_node, 0)
    wait_for(lambda: send_one(crash_node, first) == 0, "room again", 60)
    crash_node.cli("wait", "--prepared")
    check_prepared_once(crash_node, {first.StudyInstanceUID})


def test_a_full_web_tier_delays_studies_until_there_is_room(
    crash_node: Node, tmp_path: Path
) -> None:
    settings = crash_node.get("/api/v1/settings").json()["settings"]
    (web,) = (tier for tier in settings["tiers"] if tier["role"] == "web")

    def apply(*tiers: dict[str, object]) -> None:
        others = [tier for tier in settings["tiers"] if tier["role"] != "web"]
        put_settings(crash_node, {**settings, "tiers": [*others, *tiers]})

    full = {**web, "capacity_bytes": 1}
    apply(full)
    (study,) = studies(1, 2, first_seed=7000, size=64)
    uid = str(study[0].StudyInstanceUID)
    with Client(crash_node.url, patience_s=60) as client:
        upload(client, write(tmp_path, [study]))
        client.complete([uid])

        def waiting() -> list[dict[str, object]]:
            items = client.queue(study_uid=uid)
            return [item for item in items if str(item["error"]).startswith("waits for room")]

        (item,) = wait_for(waiting, "an item that waits for room", 60)
        assert (item["state"], item["attempt"]) == ("SCHEDULED FOR RETRY", 0)
    second = {**web, "name": "web2", "url": (tmp_path / "web2").as_uri(), "order": 2}
    apply(full, second)
    crash_node.cli("wait", "--prepared")
    check_prepared_once(crash_node, {uid})
    index = reader(crash_node)
    assert {ref.tier for refs in index.packs(uid).values() for ref in refs} == {"web2"}
    index.close()
    apply(web, second)


def test_a_taken_port_is_named(crash_node: Node, tmp_path: Path) -> None:
    config = write_config(tmp_path, dashboard=False, dicom_port=crash_node.dicom_port)
    done = cli(config, "up", "--detach", check=False)
    assert done.returncode == 3, done.stderr  # no node runs
    assert f"dicom_port {crash_node.dicom_port}" in done.stderr
