"""Orders of operators over real REST, a real master and a real index; a test is the node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from raypacs.records import Lease, Poll, WorkResult
from tests.factories import node_info
from tests.real_site import RealSite
from tests.web_world import image_file

STUDIES = ("1.2.3", "1.2.4")  # as many as the node has cores
PIXELS = np.arange(64, dtype=np.uint16).reshape(8, 8)


class Site:
    """A site with two prepared studies and the node n1, which does what it is given."""

    def __init__(self, folder: Path, url: str) -> None:
        self.real = RealSite(folder, url)
        self.real.now = time.time() - 3600  # the edge's clock is the real one
        for study in STUDIES:
            self.real.store(image_file(PIXELS, study=study, series=f"{study}.1"))
        self.real.prepare()
        self.real.now = time.time()
        self.real.master.node_seen(replace(node_info(), kinds=("PREPARE", "VERIFY")))
        self.http: httpx.Client

    def take(self) -> list[Lease]:
        """Poll as n1 and take what it is given."""
        asked = Poll(node="n1", boot="b1", kinds=("PREPARE", "VERIFY"), running=(), free=100)
        return list(self.real.master.poll(asked).leases)

    def get(self, path: str, **query: Any) -> Any:
        return self.http.get(f"/api/v1/{path}", params=query).raise_for_status().json()

    def post(self, path: str, body: Any = None) -> Any:
        return self.http.post(f"/api/v1/{path}", json=body).raise_for_status().json()

    def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Return status and detail of a problem."""
        answer = self.http.request(method, f"/api/v1/{path}", json=body)
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        return answer.status_code, answer.json()["detail"]

    def verify(self, study: str = STUDIES[0], **order: Any) -> dict[str, Any]:
        """Ask for VERIFY of a study."""
        told: dict[str, Any] = self.post("queue", {"study_uid": study, "kind": "VERIFY", **order})
        return told


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    made = Site(tmp_path, database_url)
    with made.real.served() as client:
        made.http = client
        yield made
    made.real.close()


def test_what_the_index_tells_is_documented(site: Site) -> None:
    page = site.get("queue", kind="PREPARE", state="COMPLETED", limit=1)
    assert (page["total"], len(page["items"])) == (2, 1)
    assert page["items"][0]["priority"] == "medium"
    older = site.get("queue", before_id=page["items"][-1]["item_id"])
    assert len(older["items"]) == 1
    schemas = site.get("openapi.json")["components"]["schemas"]
    story = site.get(f"studies/{STUDIES[0]}/why")["events"]
    for name, rows in (
        ("Task", page["items"]),
        ("NodeState", site.get("nodes")),
        ("StoryEvent", story),
        ("QueueState", [site.get("queue/state")]),
    ):
        assert rows
        for row in rows:
            assert set(row) <= set(schemas[name]["properties"]), name
    assert [one["event"] for one in story] == ["received", "scheduled", "leased", "prepared"]


def test_halted_work_is_not_given_out(site: Site) -> None:
    assert site.post("queue/halt", {"kind": "VERIFY"})["kinds"]["VERIFY"]["state"] == "halted"
    item = site.verify(priority="stat")
    assert (item["state"], item["priority"]) == ("SCHEDULED", "stat")
    assert site.verify()["item_id"] == item["item_id"]
    assert site.take() == []
    site.post("queue/resume", {"kind": "VERIFY"})
    site.post("queue/halt")
    assert site.take() == []
    assert site.post("queue/resume")["state"] == "running"
    (lease,) = site.take()
    assert site.get(f"queue/{item['item_id']}")["state"] == "IN PROCESS"
    assert site.refused("DELETE", f"queue/{item['item_id']}")[0] == 409
    site.real.master.report(lease, WorkResult())
    assert site.get(f"queue/{item['item_id']}")["state"] == "COMPLETED"
    assert site.get(f"studies/{STUDIES[0]}/why")["events"][-1]["event"] == "completed"


def test_one_item_from_order_to_order(site: Site) -> None:
    number = site.verify()["item_id"]
    assert site.post(f"queue/{number}/cancel")["state"] == "CANCELED"
    status, why = site.refused("POST", f"queue/{number}/priority", {"priority": "low"})
    assert (status, "CANCELED" in why) == (409, True)
    due_s = site.real.now + 1000
    later = site.post(f"queue/{number}/reschedule", {"at": due_s})
    assert (later["state"], later["due_s"]) == ("SCHEDULED", due_s)
    assert site.take() == []
    assert site.post(f"queue/{number}/priority", {"priority": "high"})["priority"] == "high"
    order = {"nodes": ["n1"]}
    assert site.post(f"queue/{number}/reschedule", order)["wanted_node"] == "n1"
    status, why = site.refused("POST", f"queue/{number}/reschedule", {"nodes": ["n9"]})
    assert (status, "n9" in why) == (404, True)
    (lease,) = site.take()
    assert lease.priority == 20
    assert site.post(f"queue/{number}/cancel")["state"] == "CANCELED"
    running = ((lease.item_id, lease.token),)
    asked = Poll(node="n1", boot="b1", kinds=("VERIFY",), running=running, free=1)
    assert site.real.master.poll(asked).stop == (lease.token,)
    site.http.delete(f"/api/v1/queue/{number}").raise_for_status()
    assert site.refused("GET", f"queue/{number}") == (404, f"no work item {number}")
    told = [one for one in site.get(f"studies/{STUDIES[0]}/why")["events"] if one["who"]]
    assert {one["who"] for one in told} == {"REST 127.0.0.1"}
    assert [one["event"] for one in told][-2:] == ["canceled", "item deleted"]


def test_many_items(site: Site) -> None:
    for study in STUDIES:
        site.verify(study)
    waiting = {"filter": {"kind": "VERIFY", "state": "SCHEDULED"}}
    assert site.post("queue/priority", {**waiting, "priority": "high"})["changed"] == 2
    assert site.get("queue", priority="high", state="SCHEDULED")["total"] == 2
    assert site.post("queue/cancel", waiting) == {"matched": 2, "changed": 2, "refused": []}
    canceled = {"filter": {"kind": "VERIFY", "state": "CANCELED"}, "nodes": ["n1"]}
    assert site.post("queue/reschedule", canceled)["changed"] == 2
    assert {lease.kind for lease in site.take()} == {"VERIFY"}
    told = site.post("queue/delete", {"all": True})
    assert (told["matched"], told["changed"], len(told["refused"])) == (4, 2, 2)
    assert site.refused("POST", "queue/cancel", {})[0] == 400
    assert site.refused("GET", "queue?kind=NONSENSE")[0] == 400
    assert site.refused("POST", "queue", {"study_uid": "9.9"}) == (404, "no study 9.9")


def test_a_drained_node_gets_nothing(site: Site) -> None:
    assert site.post("nodes/n1/drain")["state"] in ("draining", "drained")
    site.verify()
    assert site.take() == []
    assert site.post("nodes/n1/undrain")["state"] == "live"
    assert len(site.take()) == 1
    assert site.refused("POST", "nodes/n9/drain")[0] == 404
    assert site.refused("POST", "master/move", {"to": "n9"})[0] == 404
