"""The task list against a plain search through all items, on both databases."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from raypacs.errors import InvalidQuery, NotFound
from raypacs.index import facets, task_list
from raypacs.index.schema import work_items
from raypacs.policy.queue import State
from raypacs.records import WorkResult
from tests.contract.queue_world import Queue, T, queue_at

STATES = (State.COMPLETED, State.WARNING, State.FAILED, State.CANCELED)
ERRORS = ("", "", "", "", "TierFull: no room for 100%", "Timeout: NODE gone", "node_3 gone")
COUNT = 600


def _item(chance: random.Random, number: int) -> dict[str, Any]:
    created_s = T + number * 10
    return {
        "kind": chance.choice(["PREPARE", "VERIFY"]),
        "study_uid": f"1.{number % 50}",
        "state": chance.choice(STATES).value,
        "priority": chance.choice([0, 10, 20, 30]),
        "node": chance.choice(["n1", "n2", "n3"]),
        "wanted_node": chance.choice(["", "", "n1"]),
        "ae_title": chance.choice(["CT1", "MR2"]),
        "patient_id": f"P{number % 20}",
        "created_s": created_s,
        "updated_s": created_s + chance.choice([5, 50, 5000]),
        "error": chance.choice(ERRORS),
        "payload": {},
    }


@pytest.fixture
def queue(database_url: str) -> Iterator[Queue]:
    chance = random.Random(3)
    with queue_at(database_url) as world:
        with world.engine.begin() as conn:
            conn.execute(sa.insert(work_items), [_item(chance, n) for n in range(COUNT)])
            for statement in facets.FILL:
                conn.execute(sa.text(statement))
        yield world


CHOICES: dict[str, list[str]] = {
    "item_id": ["7", "999999"],
    "kind": ["PREPARE", "verify", "PREPARE,VERIFY"],
    "state": ["FAILED", "completed,warning"],
    "node": ["n1", "n9"],
    "wanted_node": ["n1"],
    "study_uid": ["1.7", "9.9"],
    "patient_id": ["P3"],
    "ae_title": ["CT1"],
    "priority": ["stat", "low,high"],
    "created_after": [str(T + 3000), "2023-11-14T23:00:00"],
    "created_before": [str(T + 4000), "2023-11-15T00:00:00+01:00"],
    "updated_after": [str(T + 2000)],
    "updated_before": [str(T + 6000)],
    "error": ["no ROOM", "100%", "node_3", "zzz"],
}
SECONDS = {"2023-11-14T23:00:00": 1_700_002_800.0, "2023-11-15T00:00:00+01:00": 1_700_002_800.0}
PRIORITIES = {"low": 0, "medium": 10, "high": 20, "stat": 30}


def matches(item: dict[str, Any], filters: dict[str, str]) -> bool:
    """What the filters mean, said once more and without an index."""
    for key, text in filters.items():
        if key == "error":
            good = text.lower() in item["error"].lower()
        elif key.endswith(("_after", "_before")):
            at_s = SECONDS.get(text) or float(text)
            own = item[key.split("_")[0] + "_s"]
            good = own >= at_s if key.endswith("_after") else own < at_s
        elif key == "priority":
            good = item["priority"] in [PRIORITIES[one] for one in text.split(",")]
        else:
            good = (
                str(item[key]) in text.upper().split(",")
                if key in ("kind", "state")
                else (str(item[key]) == text)
            )
        if not good:
            return False
    return True


def test_any_filter_and_page_as_a_plain_search_finds_them(queue: Queue) -> None:
    with queue.engine.connect() as conn:
        rows = [dict(row) for row in conn.execute(sa.select(work_items)).mappings()]
    rows.sort(key=lambda row: -row["item_id"])
    singles = [{key: value} for key, values in CHOICES.items() for value in values]
    chance = random.Random(5)
    pairs = [
        first | second
        for first, second in itertools.combinations(singles, 2)
        if not first.keys() & second.keys() and chance.random() < 0.4
    ]
    triples = [
        {key: chance.choice(CHOICES[key]) for key in chance.sample(list(CHOICES), 3)}
        for _ in range(40)
    ]
    for filters in [{}, *singles, *pairs, *triples]:
        expected = [row["item_id"] for row in rows if matches(row, filters)]
        limit, offset = chance.choice([(7, 0), (50, 0), (20, 13)])
        page = queue.reader.tasks(filters, limit, offset)
        assert (page["total"], page["total_is_exact"]) == (len(expected), True), filters
        found = [item["item_id"] for item in page["items"]]
        assert found == expected[offset : offset + limit], filters
        if expected:
            before = chance.choice(expected)
            later = queue.reader.tasks(filters, limit, 0, before)
            found = [item["item_id"] for item in later["items"]]
            assert found == [one for one in expected if one < before][:limit], filters
            assert later["total"] == len(expected)


def test_many_matches_are_said_to_be_at_least_so_many(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_list, "EXACT_TOTAL", 100)
    monkeypatch.setattr(task_list, "SCANNED", 3)
    page = queue.reader.tasks({"created_after": str(T)}, 5)
    assert (page["total"], page["total_is_exact"]) == (100, False)
    of_node = queue.reader.tasks({"node": "n2"}, 20)
    assert of_node["total"] > 100, "facets tell it exactly"
    assert of_node["total_is_exact"]
    ids = [item["item_id"] for item in of_node["items"]]
    assert len(ids) == 20
    assert ids == sorted(ids, reverse=True)


def test_one_task_and_none(queue: Queue) -> None:
    item = queue.reader.task(7)
    assert item["item_id"] == 7
    assert "token" not in item
    with pytest.raises(NotFound):
        queue.reader.task(999_999)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("colour", "red"),
        ("kind", "BAKE"),
        ("state", "BUSY"),
        ("priority", "urgent"),
        ("item_id", "x"),
        ("created_after", "yesterday"),
        ("created_after", "1700000000000"),
        ("updated_before", "nan"),
        ("updated_after", "inf"),
        ("created_before", "-1"),
        ("state", ""),
        ("state", " "),
        ("priority", ","),
        ("kind", "PREPARE,"),
        ("error", ""),
    ],
)
def test_a_filter_that_cannot_be_names_its_key(queue: Queue, key: str, value: str) -> None:
    with pytest.raises(InvalidQuery, match=key):
        queue.reader.tasks({key: value})


def test_an_error_is_found_in_any_case_also_beyond_ascii(database_url: str) -> None:
    with queue_at(database_url) as queue:
        errors = ["Überlauf [web1]: Straße 100%", "ÜBERLAUF", "uberlauf", "ошибка диска", "a.b É"]
        rows = [
            _item(random.Random(3), number) | {"error": one} for number, one in enumerate(errors)
        ]
        with queue.engine.begin() as conn:
            conn.execute(sa.insert(work_items), rows)
            for statement in facets.FILL:
                conn.execute(sa.text(statement))
        for text, found in (
            ("überlauf", [2, 1]),
            ("ÜBERLAUF", [2, 1]),
            ("Überlauf [WEB1]:", [1]),
            ("straße 100%", [1]),
            ("ОШИБКА", [4]),
            ("A.B é", [5]),
            ("é b", []),
            ("berlauf", [3, 2, 1]),
        ):
            items = queue.reader.tasks({"error": text}, 10)["items"]
            assert [one["item_id"] for one in items] == found, text


def test_an_ae_title_may_have_a_comma(database_url: str) -> None:
    with queue_at(database_url) as queue:
        rows = [
            _item(random.Random(3), number) | {"ae_title": title}
            for number, title in enumerate(["CT1,EAST", "CT1", "EAST"])
        ]
        with queue.engine.begin() as conn:
            conn.execute(sa.insert(work_items), rows)
            for statement in facets.FILL:
                conn.execute(sa.text(statement))
        items = queue.reader.tasks({"ae_title": "CT1,EAST"}, 10)["items"]
        assert [one["ae_title"] for one in items] == ["CT1,EAST"]


def test_old_ended_items_leave_for_the_statistics(database_url: str) -> None:
    with queue_at(database_url) as queue:
        queue.node("n1", cores=4)
        for number in range(3):
            queue.quiet(f"1.{number}")
        first, second, _ = queue.poll(free=3).leases
        queue.writer.report(first, queue.prepared(first), T + 1)
        queue.writer.report(second, WorkResult(error="TierFull: web1", retryable=False), T + 2)
        assert queue.writer.retire_items(T + 1, 10, T + 99) == 0
        assert queue.writer.retire_items(T + 9, 1, T + 99) == 1
        assert queue.writer.retire_items(T + 9, 10, T + 99) == 1
        assert [item["state"] for item in queue.reader.queue()] == ["IN PROCESS"]
        rows = [row.payload for row in queue.writer.outbox(T + 99, 1000) if row.stream == "items"]
        assert [(row["state"], row["error"]) for row in rows] == [
            ("COMPLETED", ""),
            ("FAILED", "TierFull"),
        ]
        assert queue.counts_are_right()
