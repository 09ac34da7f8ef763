"""The start page escapes what strangers wrote, and shows the states of queue and nodes."""

from __future__ import annotations

from raypacs.web import page
from raypacs.web.page import Lists


def test_values_are_escaped() -> None:
    nasty = "<script>alert('x')</script>"
    html = page.render(
        {"name": nasty},
        {"tiers": [{"name": nasty, "used_bytes": 5, "capacity_bytes": 10, "hours_left": 3.2}]},
        Lists(
            studies=[{"StudyInstanceUID": "1'onclick=", "StudyDescription": nasty}],
            items=[{"kind": "prepare", "state": "failed", "error": nasty, "attempt": 2}],
            nodes=[{"name": nasty, "state": nasty, "problems": [nasty], "roles": [nasty]}],
            queue={"state": nasty, "why": nasty, "kinds": {nasty: {"state": "x", "why": nasty}}},
        ),
    )
    assert "<script>" not in html
    assert "1'onclick" not in html
    assert ">3<" in html


def test_names_are_shown_as_people_write_them() -> None:
    html = page.render({}, {}, Lists(studies=[{"PatientName": "A^B"}]))
    assert "A B" in html


def test_states_of_queue_and_nodes() -> None:
    html = page.render(
        {},
        {"master": {"node": "n2"}},
        Lists(
            nodes=[
                {"name": "n1", "state": "refused", "problems": ["another configuration"]},
                {"name": "n2", "state": "live", "roles": ["master", "worker"]},
            ],
            queue={
                "state": "running",
                "kinds": {
                    "VERIFY": {"state": "halted", "why": "halted by REST"},
                    "EXPORT": {"state": "stalled", "why": "no live node"},
                    "PREPARE": {"state": "running"},
                },
            },
        ),
    )
    assert "another configuration" in html
    assert "master, worker, has the master" in html
    assert "VERIFY halted by REST" in html
    assert "EXPORT stalled: no live node" in html
    assert "PREPARE" not in html


def test_empty_cluster() -> None:
    html = page.render({}, {}, Lists())
    assert "No studies yet" in html
    assert "No node has joined yet" in html


def test_sizes() -> None:
    assert [page.size(n) for n in (0, 999, 1000, 1_500_000, 2e15)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.5 MB",
        "2000.0 TB",
    ]
