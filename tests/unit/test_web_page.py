"""The start page escapes what strangers wrote."""

from __future__ import annotations

from raypacs.web import page


def test_values_are_escaped() -> None:
    nasty = "<script>alert('x')</script>"
    html = page.render(
        {"name": nasty},
        {"tiers": [{"name": nasty, "used_bytes": 5, "capacity_bytes": 10, "hours_left": 3.2}]},
        [{"StudyInstanceUID": "1'onclick=", "StudyDescription": nasty, "PatientName": "A^B"}],
        [{"kind": "prepare", "state": "failed", "error": nasty, "attempt": 2}],
    )
    assert "<script>" not in html
    assert "1'onclick" not in html
    assert "A B" in html
    assert ">3<" in html


def test_empty_cluster() -> None:
    html = page.render({}, {}, [], [])
    assert "No studies yet" in html


def test_sizes() -> None:
    assert [page.size(n) for n in (0, 999, 1000, 1_500_000, 2e15)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.5 MB",
        "2000.0 TB",
    ]
