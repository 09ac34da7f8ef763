"""Eviction and pins over REST, with the client of the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from raypacs.cli.app import main
from raypacs.policy.levels import Level
from tests.evicting_site import EvictingSite

A, B = "1.2.3", "1.2.4"


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[EvictingSite]:
    site = EvictingSite(tmp_path, sqlite_url)
    site.ready(A)
    site.ready(B, libraries=())
    yield site
    site.close()


@pytest.fixture
def client(site: EvictingSite) -> Iterator[httpx.Client]:
    with site.served() as client:
        yield client


def test_plan_then_order(site: EvictingSite, client: httpx.Client) -> None:
    site.level("image1", Level.AMBER, 10**9)
    plan = client.get("/api/v1/evictions", params={"tier": "image1"}).json()
    (cache,) = plan["caches"]
    assert (cache["tier"], cache["level"], cache["enough"]) == ("image1", "amber", False)
    assert cache["held"]["unarchived"]["copies"] == 1
    (one,) = plan["evictions"]
    assert (one["study_uid"], one["rule"], one["relies_on"]) == (A, "built-in, amber", ["lib1"])
    assert site.offline(A) == []
    ordered = client.post("/api/v1/evictions", json={})
    assert ordered.status_code == 202
    assert [row["study_uid"] for row in ordered.json()["evictions"]] == [A]
    site.evict(1)
    assert site.offline(A, B) == [A]
    story = client.get(f"/api/v1/studies/{A}/why").json()["events"]
    assert any("rule built-in, amber" in event["text"] for event in story)
    assert client.post("/api/v1/evictions", json={"limit": 0}).status_code == 400


def test_one_study_and_why_not(site: EvictingSite, client: httpx.Client) -> None:
    refused = client.post(f"/api/v1/studies/{B}/evict", json={})
    assert refused.status_code == 409
    assert "no library" in refused.json()["detail"]
    assert client.post(f"/api/v1/studies/{A}/evict", json={}).json()["size_bytes"] > 0
    assert client.post("/api/v1/studies/1.9/evict", json={}).status_code == 404
    purged = client.delete(f"/api/v1/studies/{A}/libraries/lib1")
    assert purged.status_code == 409


def test_pins(site: EvictingSite, client: httpx.Client) -> None:
    until = site.now + 100
    assert client.put(f"/api/v1/studies/{A}/pin", json={"until": until}).json()["until_s"] == until
    assert client.get("/api/v1/pins").json() == {"pins": [{"study_uid": A, "until_s": until}]}
    assert client.post(f"/api/v1/studies/{A}/evict", json={}).status_code == 409
    assert client.put(f"/api/v1/studies/{A}/pin", json={"until": 5}).status_code == 400
    assert client.put("/api/v1/studies/1.9/pin", json={}).status_code == 404
    assert client.delete(f"/api/v1/studies/{A}/pin").status_code == 200
    assert client.get("/api/v1/pins").json() == {"pins": []}
    forever = client.put(f"/api/v1/studies/{A}/pin", json={}).json()["until_s"]
    assert forever == 253_402_300_799.0


@pytest.mark.parametrize("width", ["80", "200"])
def test_commands(
    site: EvictingSite,
    client: httpx.Client,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: str,
) -> None:
    monkeypatch.setenv("COLUMNS", width)

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--url", str(client.base_url)])
        return int(ended.value.code or 0), capsys.readouterr().out

    site.level("image1", Level.AMBER, 10**9)
    code, told = run("cache", "evict", "--dry-run")
    assert code == 0
    assert "1 studies would leave" in told
    assert "built-in, amber" in told
    assert "1 unarchived" in told
    code, told = run("cache", "evict", "--json")
    assert json.loads(told)["evictions"][0]["study_uid"] == A
    assert run("pin", A) == (0, f"{A} is pinned: for ever\n")
    assert A in run("pin", "--list")[1]
    assert run("cache", "evict", "--study", A)[0] == 1
    assert run("unpin", A)[0] == 0
    assert "after the grace period" in run("cache", "evict", "--study", A)[1]
    assert run("pin", "1.9")[0] == 4
    assert run("pin")[0] == 2
    story = run("why", A)[1].replace("\u2502", " ")  # a cell may go on in the next line
    assert "as ordered" in " ".join(story.split())


def test_purge_takes_a_study_out_of_a_library_that_is_not_relied_on(
    site: EvictingSite, client: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["archive", "purge", *words, "--url", str(client.base_url)])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    assert run(A, "lib1")[0] == 2  # nobody there to ask
    assert site.reader.containers(A)
    code, told, _ = run(A, "lib1", "--yes")
    assert (code, "leave lib1" in told) == (0, True)
    assert not site.reader.containers(A)
    assert run(A, "lib1", "--yes")[0] == 4
    site.ready("1.2.5")
    client.post("/api/v1/studies/1.2.5/evict", json={})
    code, _, told = run("1.2.5", "lib1", "--yes", "--json")
    assert (code, "no other library" in told) == (1, True)
    assert site.reader.containers("1.2.5")
