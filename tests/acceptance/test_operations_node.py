"""What an operator does with a real node: queue, nodes, master and stories, by command and REST."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from nodes import Node

from raypacs.client import Client
from raypacs.errors import IllegalTransition, InvalidQuery, NotFound
from raypacs.synthetic import generate_ct_series


def _told(node: Node, *words: str, check: bool = True) -> Any:
    return json.loads(node.cli(*words, "--json", check=check).stdout)


def _until(what: Callable[[], Any], timeout_s: float = 60) -> Any:
    """Return the first true answer; the last one after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def client(node: Node) -> Iterator[Client]:
    with Client(node.url, source="operator") as made:
        yield made


@pytest.fixture(scope="module")
def study(node: Node, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A prepared study."""
    folder = tmp_path_factory.mktemp("study")
    generate_ct_series(folder, slices=4, rows=64, columns=64, seed=501)
    (uid,) = _told(node, "ingest", str(folder))["study_uids"]
    _told(node, "wait", "--prepared", uid)
    return str(uid)


@pytest.fixture(autouse=True)
def _as_it_was(client: Client) -> Iterator[None]:
    """Leave the node running and undrained, whatever a test did."""
    yield
    for kind in ("", "PREPARE", "VERIFY"):
        client.resume(kind)
    for one in client.nodes():
        client.undrain(one["name"])


def test_the_story_of_a_study(node: Node, study: str) -> None:
    told = _told(node, "why", study)
    events = [event["event"] for event in told["events"]]
    positions = [events.index(one) for one in ("received", "scheduled", "leased", "prepared")]
    assert positions == sorted(positions)
    prepared = told["events"][events.index("prepared")]
    assert (prepared["node"], prepared["detail"]["instances"]) == ("testnode", 4)
    assert "4 proven lossless" in prepared["text"]
    shown = node.cli("why", study).stdout
    assert "on node testnode" in shown
    assert node.cli("why", "1.2.3.4", check=False).returncode == 4


def test_the_task_list_and_its_filters(node: Node, client: Client, study: str) -> None:
    page = _told(node, "queue", "list", f"study={study}", "state=completed")
    assert (page["total"], page["items"][0]["kind"]) == (1, "PREPARE")
    everything = client.tasks({}, limit=3)
    assert everything["total"] > 3
    older = client.tasks({}, limit=3, before_id=everything["items"][-1]["item_id"])
    assert older["items"][0]["item_id"] < everything["items"][-1]["item_id"]
    assert client.tasks({"node": "nowhere"})["total"] == 0
    assert client.tasks({"kind": "PREPARE", "created_after": "2000-01-01"})["total"] > 3
    with pytest.raises(InvalidQuery, match="kind"):
        client.tasks({"kind": "NONSENSE"})
    documented = node.get("/api/v1/openapi.json").json()["components"]["schemas"]
    for name, rows in (
        ("Task", everything["items"]),
        ("NodeState", client.nodes()),
        ("MasterState", [client.master()]),
        ("StoryEvent", client.why(study)),
    ):
        for row in rows:
            assert set(row) <= set(documented[name]["properties"]), name


def test_halted_work_waits_and_goes_on(node: Node, client: Client, study: str) -> None:
    assert _told(node, "queue", "halt", "VERIFY")["kinds"]["VERIFY"]["state"] == "halted"
    item = _told(node, "queue", "add", study, "--kind", "VERIFY", "--priority", "stat")
    assert (item["state"], item["priority"]) == ("SCHEDULED", "stat")
    assert client.enqueue(study, kind="VERIFY")["item_id"] == item["item_id"]
    time.sleep(2)
    assert client.task(item["item_id"])["state"] == "SCHEDULED"
    _told(node, "queue", "resume", "VERIFY")
    done = _until(lambda: client.task(item["item_id"])["state"] == "COMPLETED")
    assert done, client.task(item["item_id"])
    assert client.task(item["item_id"])["node"] == "testnode"
    events = [event["event"] for event in client.why(study)]
    assert events[-1] == "completed"


def test_one_item_from_order_to_order(node: Node, client: Client, study: str) -> None:
    client.halt()
    assert client.queue_state()["state"] in ("halting", "halted")
    item = client.enqueue(study, kind="VERIFY")
    number = str(item["item_id"])
    with pytest.raises(IllegalTransition):
        client.order("cancel", _completed(client, study))
    assert _told(node, "queue", "cancel", number)["changed"] == 1
    assert _told(node, "queue", "show", number)["state"] == "CANCELED"
    assert _told(node, "queue", "reschedule", number, "--at", "+1h")["changed"] == 1
    later = client.task(item["item_id"])
    assert later["state"] == "SCHEDULED"
    assert later["due_s"] > time.time() + 3000
    assert client.order("priority", item["item_id"], priority="low")["priority"] == "low"
    with pytest.raises(NotFound):
        client.order("reschedule", item["item_id"], nodes=["nowhere"])
    assert _told(node, "queue", "cancel", number)["changed"] == 1
    assert _told(node, "queue", "delete", number)["changed"] == 1
    assert node.cli("queue", "show", number, check=False).returncode == 4
    who = {event["who"] for event in client.why(study) if event["item_id"] == item["item_id"]}
    assert any(one.startswith("CLI ") for one in who)
    assert "operator" in who


def _completed(client: Client, study: str) -> int:
    page = client.tasks({"study_uid": study, "kind": "PREPARE"})
    return int(page["items"][0]["item_id"])


def test_many_items_at_once(node: Node, client: Client, study: str) -> None:
    client.halt("VERIFY")
    uids = [row["StudyInstanceUID"] for row in client.studies()][:10]
    for uid in uids:
        client.enqueue(uid, kind="VERIFY")
    waiting = {"kind": "VERIFY", "state": "SCHEDULED"}
    words = ["kind=VERIFY", "state=SCHEDULED", "--yes"]
    count = client.tasks(waiting)["total"]
    assert count == len(uids)
    assert client.order_all("priority", waiting, priority="high")["changed"] == count
    assert client.tasks({**waiting, "priority": "high"})["total"] == count
    assert _told(node, "queue", "cancel", *words) == {
        "matched": count,
        "changed": count,
        "refused": [],
    }
    again = ["queue", "reschedule", "kind=VERIFY", "state=CANCELED", "--yes", "--to", "testnode"]
    assert _told(node, *again)["changed"] == count
    client.resume("VERIFY")
    assert _until(lambda: client.tasks({"kind": "VERIFY", "state": "COMPLETED"})["total"] >= count)
    bare = httpx.post(f"{node.url}/api/v1/queue/cancel", json={})
    assert bare.status_code == 400
    assert "all" in bare.json()["detail"]


def test_a_drained_node_gets_nothing(node: Node, client: Client, study: str) -> None:
    assert _told(node, "node", "drain", "testnode", "--wait")["state"] == "drained"
    item = client.enqueue(study, kind="VERIFY")
    time.sleep(2)
    assert client.task(item["item_id"])["state"] == "SCHEDULED"
    assert _told(node, "node", "undrain", "testnode")["state"] == "live"
    assert _until(lambda: client.task(item["item_id"])["state"] == "COMPLETED")


def test_nodes_and_master(node: Node, client: Client) -> None:
    (one,) = _told(node, "node", "list")
    assert (one["name"], one["state"], one["problems"]) == ("testnode", "live", [])
    assert {"image1", "web1"} <= set(one["tiers"])
    master = _told(node, "master", "status")
    assert master["node"] == "testnode"
    assert master["epoch"] == node.status()["epoch"]
    assert node.cli("node", "show", "nowhere", check=False).returncode == 4
    assert node.cli("master", "move", "--to", "nowhere", check=False).returncode == 4
    page = node.get("/").text
    assert "live" in page
    assert "has the master" in page


def test_a_deleted_study_says_who_deleted_it(node: Node, tmp_path: Path) -> None:
    generate_ct_series(tmp_path, slices=2, rows=64, columns=64, seed=502)
    (uid,) = _told(node, "ingest", str(tmp_path))["study_uids"]
    _told(node, "delete", uid, "--yes")
    last = _told(node, "why", uid)["events"][-1]
    assert last["event"] == "deleted"
    assert last["who"].startswith("CLI ")


def test_the_index_is_backed_up_while_the_node_runs(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "index.backup"
    assert _told(node, "index", "backup", str(file))["size_bytes"] == file.stat().st_size
    assert node.cli("index", "backup", str(file), check=False).returncode == 1
    assert node.cli("index", "restore", str(file), check=False).returncode == 1  # it runs
