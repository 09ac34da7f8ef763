"""REST of the work queue: filters, pages, orders for one and for many, problems naming the key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_cluster import FakeCluster, item
from web_world import World, served

from raypacs.policy.queue import Priority, State
from raypacs.web.models.work import PRIORITIES, STATES
from raypacs.web.rest import queue as resources


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.intake.close()


@pytest.fixture
def cluster(world: World) -> FakeCluster:
    return world.cluster


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    with served(world) as made:
        yield made


def ids(answer: httpx.Response) -> list[int]:
    return [one["item_id"] for one in answer.raise_for_status().json()["items"]]


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Return status and detail of what must be a problem (RFC 9457)."""
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == answer.status_code
    assert told["title"]
    return answer.status_code, told["detail"]


def test_names_are_those_of_the_policy() -> None:
    assert set(STATES) == {state.value for state in State}
    names = {name.lower(): value for name, value in vars(Priority).items() if name.isupper()}
    assert {name: number for number, name in PRIORITIES.items()} == {
        name: int(value) for name, value in names.items()
    }


def test_the_list_is_filtered_and_paged(client: httpx.Client, cluster: FakeCluster) -> None:
    cluster.items = [item(number) for number in range(1, 8)]
    cluster.items[2] |= {"state": "FAILED", "error": "No room on web1", "priority": 30}
    cluster.items[4] |= {"state": "CANCELED", "node": "n2"}
    page = client.get("/api/v1/queue", params={"limit": 3}).json()
    assert (page["total"], page["total_is_exact"]) == (7, True)
    assert [one["item_id"] for one in page["items"]] == [7, 6, 5]
    assert ids(client.get("/api/v1/queue?limit=3&offset=3")) == [4, 3, 2]
    assert ids(client.get("/api/v1/queue?limit=3&before_id=5")) == [4, 3, 2]
    assert ids(client.get("/api/v1/queue?state=failed")) == [3]
    assert ids(client.get("/api/v1/queue?state=FAILED,canceled")) == [5, 3]
    assert ids(client.get("/api/v1/queue?error=no room&kind=PREPARE")) == [3]
    assert ids(client.get("/api/v1/queue?node=n2")) == [5]
    assert ids(client.get("/api/v1/queue?priority=stat")) == [3]
    assert ids(client.get("/api/v1/queue?item_id=4")) == [4]
    assert ids(client.get("/api/v1/queue?created_after=1005&created_before=1007")) == [6, 5]
    after = {"created_after": "1970-01-01T00:16:47Z"}  # 1007 s
    assert ids(client.get("/api/v1/queue", params=after)) == [7]
    assert ids(client.get("/api/v1/queue?created_after=1970-01-01T00:16:47")) == [7]
    assert client.get("/api/v1/queue/3").json()["priority"] == "stat"


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ("limit=0", "limit:"),
        ("limit=many", "limit:"),
        ("state=DONE", "state: 'DONE' is not one of SCHEDULED"),
        ("kindd=PREPARE", "kindd: there is no such key"),
        ("priority=urgent", "priority:"),
        ("created_after=yesterday", "created_after: 'yesterday' is neither"),
        ("item_id=-1", "item_id:"),
        ("offset=-1", "offset:"),
        ("error=a%00b", "error:"),
        (f"item_id={2**63}", "item_id:"),
        (f"before_id={2**63}", "before_id:"),
        ("item_id=", "item_id:"),
        ("state=", "state: no value"),
        ("state=%20", "state: no value"),
        ("state=,", "state: no value"),
        ("priority=,", "priority: no value"),
        ("kind=PREPARE,", "kind: no value"),
        ("node=", "node: no value"),
        ("error=%20", "error: no value"),
        ("created_after=", "created_after: no value"),
        ("created_after=nan", "created_after:"),
        ("created_before=inf", "created_before:"),
        ("updated_after=-1", "updated_after:"),
        ("updated_before=1700000000000", "updated_before: 1700000000000.0 is not in seconds"),
        ("state=FAILED&state=CANCELED", "state: given twice"),
        ("limit=5&limit=6", "limit: given twice"),
    ],
)
def test_a_wrong_filter_is_named(client: httpx.Client, query: str, key: str) -> None:
    status, detail = problem(client.get(f"/api/v1/queue?{query}"))
    assert status == 400
    assert detail.startswith(key)


def test_one_item(client: httpx.Client, cluster: FakeCluster) -> None:
    cluster.items = [item(1, "FAILED", error="no room"), item(2, "IN PROCESS")]
    told = client.post("/api/v1/queue/1/reschedule").raise_for_status().json()
    assert (told["state"], told["wanted_node"]) == ("SCHEDULED", "n1")
    order = {"at": "2030-01-01T00:00:00Z", "nodes": ["n2"]}
    told = client.post("/api/v1/queue/1/reschedule", json=order).json()
    assert (told["due_s"], told["wanted_node"]) == (1893456000.0, "n2")
    assert client.post("/api/v1/queue/1/priority", json={"priority": "stat"}).json()[
        "priority"
    ] == ("stat")
    assert client.post("/api/v1/queue/2/cancel").json()["state"] == "CANCELED"
    assert client.delete("/api/v1/queue/1").json() == {"item_id": 1, "deleted": True}
    assert problem(client.get("/api/v1/queue/1"))[0] == 404
    sources = {named["who"] for _, _, named in cluster.events}
    assert sources == {"REST 127.0.0.1"}


def test_what_an_items_state_does_not_allow(client: httpx.Client, cluster: FakeCluster) -> None:
    cluster.items = [item(1, "IN PROCESS"), item(2, "COMPLETED")]
    for answer in (
        client.post("/api/v1/queue/1/reschedule"),
        client.delete("/api/v1/queue/1"),
        client.post("/api/v1/queue/2/cancel"),
    ):
        status, detail = problem(answer)
        assert status == 409
        assert detail
        assert answer.json()["kind"] == "IllegalTransition"
    for answer in (
        client.post("/api/v1/queue/9/cancel"),
        client.post("/api/v1/queue/9/reschedule"),
        client.delete("/api/v1/queue/9"),
        client.get("/api/v1/queue/9"),
    ):
        assert problem(answer) == (404, "no work item 9")
    for wrong in ("nine", 0, 2**63):
        assert problem(client.get(f"/api/v1/queue/{wrong}"))[0] == 400


def test_orders_for_all_that_match(
    client: httpx.Client, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "BATCH", 3)
    cluster.items = [item(number, "FAILED") for number in range(1, 11)] + [item(11, "COMPLETED")]
    order = {"filter": {"state": "FAILED"}, "nodes": ["n1", "n2"]}
    told = client.post("/api/v1/queue/reschedule", json=order).raise_for_status().json()
    assert told == {"matched": 10, "changed": 10, "refused": []}
    assert len(cluster.events) == 4
    assert {named["mode"] for _, _, named in cluster.events} == {"spread"}
    assert [named["done"] for _, _, named in cluster.events] == [0, 3, 6, 9]
    assert [one["wanted_node"] for one in cluster.items[:4]] == ["n2", "n1", "n2", "n1"]
    urgent = {"all": True, "priority": "high"}
    assert client.post("/api/v1/queue/priority", json=urgent).json()["changed"] == 11
    told = client.post("/api/v1/queue/cancel", json={"all": True}).json()
    assert (told["matched"], told["changed"], told["refused"][0]["item_id"]) == (11, 10, 11)
    gone = {"filter": {"state": "CANCELED"}}
    assert client.post("/api/v1/queue/delete", json=gone).json()["changed"] == 10
    assert [one["item_id"] for one in cluster.items] == [11]


def test_an_order_does_not_chase_what_comes_meanwhile(
    client: httpx.Client, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "BATCH", 2)
    cluster.items = [item(number) for number in range(1, 6)]

    def more() -> None:
        top = max(one["item_id"] for one in cluster.items)
        cluster.items += [item(top + 1), item(top + 2)]

    cluster.during = more
    told = client.post("/api/v1/queue/priority", json={"all": True, "priority": "low"}).json()
    assert told["matched"] == 6  # the batch with the last of them has one more
    assert len(cluster.events) == 3


def test_nothing_matches(client: httpx.Client, cluster: FakeCluster) -> None:
    order = {"filter": {"state": "FAILED"}}
    told = client.post("/api/v1/queue/cancel", json=order).json()
    assert told == {"matched": 0, "changed": 0, "refused": []}
    assert cluster.events == []


@pytest.mark.parametrize(
    ("order", "body", "said"),
    [
        ("cancel", {}, 'say which items: a filter, or "all": true'),
        ("delete", {"filter": {"state": ""}}, "filter.state: no value"),
        ("delete", {"filter": {"state": ","}}, "filter.state: no value"),
        ("delete", {"filter": {"state": " ", "kind": "PREPARE"}}, "filter.state: no value"),
        ("cancel", {"filter": {"priority": ""}, "all": True}, "filter.priority: no value"),
        ("cancel", {"filter": {"updated_after": "nan"}}, "filter.updated_after:"),
        ("cancel", {"filter": {"state": "DONE"}}, "filter.state: 'DONE' is not one of"),
        ("cancel", {"filter": {"stat": "FAILED"}}, "filter.stat: there is no such key"),
        ("cancel", {"filters": {}, "all": True}, "filters: there is no such key"),
        ("reschedule", {"all": True, "mode": "node"}, "mode node takes exactly one node"),
        ("reschedule", {"all": True, "mode": "spread"}, "mode spread needs nodes"),
        ("reschedule", {"all": True, "mode": "same", "nodes": ["n1"]}, "mode same takes no"),
        ("reschedule", {"all": True, "at": "soon"}, "at: 'soon' is neither"),
        ("reschedule", {"all": True, "at": "nan"}, "at: nan is not in seconds"),
        ("reschedule", {"all": True, "at": "inf"}, "at: inf is not in seconds"),
        ("reschedule", {"all": True, "at": -1}, "at: -1.0 is not in seconds"),
        ("reschedule", {"all": True, "at": 1700000000000}, "at: 1700000000000.0 is not in"),
        ("reschedule", {"all": True, "at": []}, "at: [] is neither"),
        ("reschedule", {"all": True, "at": True}, "at: True is neither"),
        ("priority", {"all": True}, "priority:"),
        ("priority", {"all": True, "priority": "urgent"}, "priority:"),
    ],
)
def test_a_wrong_order_is_named(
    client: httpx.Client, cluster: FakeCluster, order: str, body: dict[str, Any], said: str
) -> None:
    status, detail = problem(client.post(f"/api/v1/queue/{order}", json=body))
    assert status == 400
    assert said in detail
    assert cluster.events == []


def test_a_node_that_is_not_there_is_named(client: httpx.Client, cluster: FakeCluster) -> None:
    cluster.items = [item(1)]
    order = {"all": True, "nodes": ["n9"]}
    assert problem(client.post("/api/v1/queue/reschedule", json=order)) == (404, "no node 'n9'")
    # Also where nothing matches: a name that is wrong would be wrong the next time, too.
    order = {"filter": {"state": "FAILED"}, "nodes": ["n9"]}
    assert problem(client.post("/api/v1/queue/reschedule", json=order)) == (404, "no node 'n9'")
    told = client.post("/api/v1/queue/reschedule", json={**order, "nodes": ["n1"]}).json()
    assert told == {"matched": 0, "changed": 0, "refused": []}


def test_work_is_asked_for(client: httpx.Client, cluster: FakeCluster) -> None:
    order = {"study_uid": "1.2", "kind": "VERIFY", "priority": "stat", "at": 5, "node": "n2"}
    answer = client.post("/api/v1/queue", json=order, headers={"X-Raypacs-Source": "WARD 7"})
    assert answer.status_code == 202
    told = answer.json()
    assert (told["kind"], told["priority"], told["due_s"]) == ("VERIFY", "stat", 5.0)
    assert cluster.events[0][2]["who"] == "WARD 7"
    again = client.post("/api/v1/queue", json={"study_uid": "1.2", "kind": "VERIFY"}).json()
    assert again["item_id"] == told["item_id"]
    assert problem(client.post("/api/v1/queue", json={"study_uid": ""}))[0] == 400
    anyhow = {"study_uid": "1.2", "kind": "verify", "priority": "Low"}
    assert client.post("/api/v1/queue", json=anyhow).json()["item_id"] == told["item_id"]
    for at in (1.7e12, "inf", "-5", {}):
        status, detail = problem(client.post("/api/v1/queue", json={"study_uid": "1.3", "at": at}))
        assert (status, detail[:3]) == (400, "at:")


def test_halt_and_resume(client: httpx.Client, cluster: FakeCluster) -> None:
    assert client.get("/api/v1/queue/state").json()["state"] == "running"
    told = client.post("/api/v1/queue/halt", json={"kind": "prepare"}).json()
    assert (told["state"], told["kinds"]["PREPARE"]["state"]) == ("running", "halted")
    assert client.post("/api/v1/queue/halt").json()["state"] == "halted"
    assert client.post("/api/v1/queue/resume").json()["state"] == "running"
    assert client.post("/api/v1/queue/resume", json={"kind": "PREPARE"}).json()["kinds"]["PREPARE"][
        "state"
    ] == ("running")
    assert cluster.halted == {}


def test_without_a_master_lists_are_answered_and_orders_are_503(
    client: httpx.Client, cluster: FakeCluster
) -> None:
    cluster.items = [item(1)]
    cluster.away = True
    assert ids(client.get("/api/v1/queue")) == [1]
    for answer in (
        client.post("/api/v1/queue/1/cancel"),
        client.post("/api/v1/queue/halt"),
        client.post("/api/v1/nodes/n1/drain"),
    ):
        assert problem(answer)[0] == 503
        assert answer.headers["retry-after"]


def test_nodes(client: httpx.Client, cluster: FakeCluster) -> None:
    cluster.nodes[1] |= {"problems": ["another configuration"], "state": "refused"}
    names = [(one["name"], one["state"]) for one in client.get("/api/v1/nodes").json()]
    assert names == [("n1", "live"), ("n2", "refused")]
    assert client.get("/api/v1/nodes/n2").json()["problems"] == ["another configuration"]
    assert client.post("/api/v1/nodes/n1/drain").json()["state"] == "draining"
    assert client.post("/api/v1/nodes/n1/undrain").json()["state"] == "live"
    assert problem(client.get("/api/v1/nodes/n9")) == (404, "no node 'n9'")
    assert problem(client.post("/api/v1/nodes/n9/drain"))[0] == 404


def test_master(client: httpx.Client, cluster: FakeCluster) -> None:
    told = client.get("/api/v1/master").json()
    assert (told["node"], told["pid"], told["epoch"], told["state"]) == ("n1", 7, 1, "up")
    moved = client.post("/api/v1/master/move")
    assert moved.status_code == 202
    assert moved.json() == {"from": "n1", "to": "n2", "epoch": 1}
    assert client.post("/api/v1/master/move", json={"to": "n1"}).json()["from"] == "n2"
    cluster.nodes[1]["state"] = "lost"
    assert problem(client.post("/api/v1/master/move", json={"to": "n2"})) == (
        409,
        "node n2 is lost",
    )
    assert problem(client.post("/api/v1/master/move", json={"to": "n9"}))[0] == 404


def test_why(client: httpx.Client, cluster: FakeCluster) -> None:
    event = {
        "at_s": 1.0,
        "event": "received",
        "text": "received 3 objects",
        "detail": {"objects": 3},
    }
    cluster.stories["1.2"] = [event]
    told = client.get("/api/v1/studies/1.2/why").json()
    assert told["study_uid"] == "1.2"
    assert told["events"][0] | event == told["events"][0]
    assert problem(client.get("/api/v1/studies/9/why"))[0] == 404


def test_errors_of_http_are_problems_as_well(client: httpx.Client) -> None:
    for path, allowed in (("queue", "GET, POST"), ("queue/1", "GET, DELETE"), ("nodes", "GET")):
        wrong = client.put(f"/api/v1/{path}")
        assert problem(wrong)[0] == 405
        assert wrong.headers["allow"] == allowed
    assert problem(client.get("/api/v1/nothing"))[0] == 404
    as_json = {"Content-Type": "application/json"}
    broken = client.post("/api/v1/queue", content=b'{"study_uid": ', headers=as_json)
    status, detail = problem(broken)
    assert (status, detail.partition(":")[0]) == (400, "the body is not JSON")


def test_an_error_that_nobody_thought_of_is_a_problem_without_internals(
    world: World, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError("a secret of the inside")

    monkeypatch.setattr(cluster, "queue_state", fails)
    monkeypatch.setattr(world, "_search", fails)
    with served(world) as client:
        for path in ("/api/v1/queue/state", "/dicom-web/studies"):
            answer = client.get(path)
            assert problem(answer)[0] == 500
            assert "secret" not in answer.text
