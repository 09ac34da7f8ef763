"""Levels and forecasts as people see them: REST and the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from raypacs.cli.app import app
from raypacs.index.engine import insert
from raypacs.index.schema import hourly_intake
from tests.real_site import RealSite

MIB = 1 << 20
HOUR = 3600


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    """A site of today, with three weeks of history, that was judged."""
    site = RealSite(tmp_path, f"sqlite:///{tmp_path / 'index.sqlite'}")
    site.now = time.time()
    begin = int(site.now) // HOUR * HOUR - 21 * 24 * HOUR
    rows = [
        {"tier": "image1", "hour_s": begin + HOUR * hour, "studies": 1, "objects": 5,
         "size_bytes": 10 * MIB, "moved_bytes": 0}
        for hour in range(21 * 24)
    ]  # fmt: skip
    with site.master._writer.transaction(site.now) as txn:
        txn.conn.execute(insert(txn.conn, hourly_intake), rows)
    for _ in range(4):
        site.now += 1
        site.master._forecast_due(site.now)
    with site.served() as served:
        yield served
    site.master.close()


def test_caches_over_rest(client: httpx.Client) -> None:
    found = {one["name"]: one for one in client.get("/api/v1/caches").json()["caches"]}
    assert set(found) == {"image1", "web1"}
    image = found["image1"]
    assert image["level"] == "green"
    assert image["thresholds"] == {"amber_h": 48, "red_h": 24}
    assert image["detail"]["method"] == "seasonal"
    assert image["detail"]["amber_bytes"] == pytest.approx(480 * MIB, rel=0.02)
    assert image["rates"]["all"]["bytes_per_hour"] == pytest.approx(10 * MIB, rel=0.05)
    assert found["web1"]["thresholds"] == {"web_h": 24}
    told = client.get("/api/v1/caches/image1/forecast", params={"hours": 3}).json()
    assert told["forecasts"][0]["bytes_ahead"]["12"] == pytest.approx(120 * MIB, rel=0.02)
    assert told["errors"] == {}
    history = client.get("/api/v1/caches/image1/history", params={"hours": 5}).json()
    assert [row["size_bytes"] for row in history["intake"]] == [10 * MIB] * 5
    assert client.get("/api/v1/caches/none/forecast").status_code == 404
    assert client.get("/api/v1/caches/image1/history", params={"hours": 0}).status_code == 400
    tiers = {one["name"]: one for one in client.get("/api/v1/status").json()["tiers"]}
    assert tiers["image1"]["level"] == "green"
    assert tiers["image1"]["hours_p50"] == image["detail"]["hours_p50"]


@pytest.mark.parametrize("width", ["80", "200"])
def test_caches_on_the_command_line(client: httpx.Client, width: str) -> None:
    url = str(client.base_url)
    run = CliRunner(env={"COLUMNS": width})
    shown = run.invoke(app, ["--url", url, "cache", "status"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "image1" in shown.stdout
    assert "green" in shown.stdout
    assert {"hours p10", "evictable h"} <= {
        one.strip() for one in shown.stdout.splitlines()[0].split("\u2503")
    }
    assert "\u2026" not in shown.stdout
    assert "amber 48 h = " in shown.stdout
    as_json = run.invoke(app, ["--url", url, "cache", "status", "--json"], catch_exceptions=False)
    assert {one["name"] for one in json.loads(as_json.stdout)} == {"image1", "web1"}
    shown = run.invoke(app, ["--url", url, "cache", "forecast", "image1"], catch_exceptions=False)
    assert "hours left" in shown.stdout
    assert "seasonal" in shown.stdout
    as_json = run.invoke(
        app, ["--url", url, "cache", "forecast", "image1", "--json"], catch_exceptions=False
    )
    assert json.loads(as_json.stdout)["forecasts"][0]["method"] == "seasonal"
