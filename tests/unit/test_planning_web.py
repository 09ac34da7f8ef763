"""Simulations and sizes over the real REST API, and the command line that asks for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from web_world import World, served

from raypacs import stats
from raypacs.cli.app import main
from raypacs.config import Settings, TierSettings
from raypacs.errors import ConfigError, IllegalTransition
from raypacs.index.audit import OutboxRow
from raypacs.simulating import __main__ as process
from raypacs.simulating import recorded
from raypacs.storage.filed import statistics_of
from raypacs.storage.tier import open_tier
from raypacs.web.planner import Planner
from raypacs.web.services import Row, Services

SMALL = {
    "days": 3,
    "capacity_bytes": ["20GB"],
    "load": "synthetic",
    "studies_per_day": 40,
    "history_days": 40,
}


class PlanningWorld(World):
    """A world whose planner answers in this process: starting one takes a second."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        self.folder = tmp_path / "stats"

    def plan(self, what: str, order: Row) -> Row:
        """Answer as the process does."""
        values = self.settings.model_dump(mode="json")
        folder = str(self.folder)
        return process.answer({"what": what, "order": order, "settings": values, "folder": folder})

    def services(self) -> Services:
        """With the planner."""
        return replace(super().services(), plan=self.plan)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    world = PlanningWorld(tmp_path)
    with served(world) as client:
        yield client
    world.intake.close()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command where no node runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "220")

    def invoke(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return invoke


def test_a_simulation_over_rest(client: httpx.Client) -> None:
    answer = client.post("/api/v1/caches/simulate", json=SMALL, timeout=60)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    (cache,) = told["caches"]
    assert cache["capacity_bytes"] == 20_000_000_000
    assert sum(cache["hours_at"].values()) == pytest.approx(72)
    assert told["counts"]["studies"] == told["load"]["studies"] > 50
    assert cache["track"] is None
    again = client.post("/api/v1/caches/simulate", json=SMALL | {"track": True}, timeout=60).json()
    (track,) = [one["track"] for one in again["caches"]]
    assert len(track["at_s"]) == 72
    assert max(track["used_bytes"]) <= 20_000_000_000
    assert {**again, "caches": None} == {**told, "caches": None}, "same order, same outcome"


@pytest.mark.parametrize(
    ("order", "status", "says"),
    [
        ({"capacity_bytes": ["20XB"]}, 400, "20TB"),
        ({"capacity_bytes": ["0"]}, 400, "above 0"),
        ({"days": 100_000}, 400, "days"),
        ({"days": 1000, "studies_per_day": 5000}, 400, "too many"),
        ({"nonsense": 1}, 400, "nonsense"),
        ({"change": {"ambr": 3}}, 422, "amber"),
        ({"change": {"amber": 3, "red": 9}}, 422, "red (9 h) is above amber (3 h)"),
        ({"change": {"window_start": "25:00"}}, 422, "window_start"),
        ({"load": "recorded"}, 422, "statistics"),
    ],
)
def test_what_cannot_be_is_refused(
    client: httpx.Client, order: dict[str, Any], status: int, says: str
) -> None:
    answer = client.post("/api/v1/caches/simulate", json=SMALL | order)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"]


def test_sizes_over_rest(client: httpx.Client) -> None:
    asked = {"studies_per_day": 400, "bytes_per_study": "300MB", "days": 28}
    answer = client.get("/api/v1/caches/size", params=asked)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    image = told["sizes"][0]
    assert image["size_bytes"] == round(400 * 300e6 * 28 * 1.3 * 1.1)
    product = 1.0
    for factor in image["factors"]:
        product *= factor["value"]
    assert round(product) == image["size_bytes"]
    assert client.get("/api/v1/caches/size").status_code == 422
    assert client.get("/api/v1/caches/size", params={"days": -1}).status_code == 400
    assert client.get("/api/v1/caches/size", params={"dys": 1}).status_code == 400


def test_the_process_behind_rest_answers_one_at_a_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    planner = Planner(lambda: (1, world.settings), tmp_path / "none")
    told = planner.answer("size", {"studies_per_day": 10, "bytes_per_study": "1GB", "days": 10})
    assert told["sizes"][0]["size_bytes"] == 143_000_000_000
    with pytest.raises(ConfigError, match="needed"):
        planner.answer("size", {})
    with planner._busy, pytest.raises(IllegalTransition, match="another simulation"):
        planner.answer("size", {})
    world.intake.close()


def test_the_command_simulates_without_a_node(run: Run, tmp_path: Path) -> None:
    small = ("--days", 3, "--capacity", "20GB", "--studies-per-day", 40, "--web-capacity", "9GB")
    files = ("--out", "rows.csv", "--plot", "plot.svg")
    code, out, err = run("cache", "simulate", *small, *files, "--set", "amber=40", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["settings_from"] == "defaults: no node runs"
    assert [one["role"] for one in told["caches"]] == ["image", "web"]
    rows = (tmp_path / "rows.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 72
    for name in ("plot.svg", "plot-web1.svg"):
        assert "</svg>" in (tmp_path / name).read_text()
    code, out, _ = run("cache", "simulate", *small, "--watermark", "90/80", "--outage", "1+1")
    assert code == 0
    assert "watermark 90/80 %" in out
    assert "hit ratio" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--capacity", "20"), ""),
        (("--capacity", "lots"), "no size"),
        (("--capacity", "1GB", "--set", "amber"), "KEY=VALUE"),
        (("--capacity", "1GB", "--set", "red=99"), "red (99 h) is above amber (48 h)"),
        (("--capacity", "1GB", "--outage", "3"), "DAY+DAYS"),
        (("--capacity", "1GB", "--watermark", "90"), "HIGH/LOW"),
        (("--capacity", "1GB", "--watermark", "80/90"), "below high"),
        (("--capacity", "1GB", "--plot", "a.png"), ".svg"),
        (("--capacity", "1GB", "--out", "a.txt"), ".csv"),
        (("--capacity", "1GB", "--order", "fifo"), "order"),
        ((), "capacity"),
    ],
)
def test_wrong_usage_says_what_is_wrong(run: Run, words: tuple[str, ...], says: str) -> None:
    small = ("--days", 1, "--studies-per-day", 1)
    code, _, err = run("cache", "simulate", *small, *words)
    assert (code == 0) == (not says)
    assert says in err
    if says:
        assert code == 2


def test_the_command_sizes_with_every_factor(run: Run) -> None:
    load = ("--studies-per-day", 400, "--bytes-per-study", "300MB", "--days", 28)
    code, out, err = run("cache", "size", *load)
    assert code == 0, err
    assert "4.8 TB" in out
    assert "1.3 (margin of load)" in out
    assert "1.1 (margin of space)" in out
    code, out, err = run("cache", "size", *load, "--json")
    assert json.loads(out)["amber_bytes"] == 240_000_000_000
    code, _, err = run("cache", "size", "--measured")
    assert code == 2
    assert "no statistics are recorded" in err


def recorded_days(place: Path | Any, days: int) -> None:
    """Write a record: two studies a day, each opened a day later."""
    begin = 1_770_000_000.0
    rows = []
    for number in range(2 * days):
        at_s = begin + number * 43_200
        uid, size = f"1.2.{number}", 400_000_000 + number
        came = {"event": "received", "study_uid": uid, "modality": "CT", "objects": 5}
        prepared = {"event": "prepared", "study_uid": uid, "bytes_in": size}
        rows += [
            OutboxRow(3 * number, "events", at_s, "a", came | {"bytes_in": size}),
            OutboxRow(
                3 * number + 1, "events", at_s, "b", prepared | {"bytes_prepared": size // 2}
            ),
            OutboxRow(
                3 * number + 2,
                "events",
                at_s + 86_400,
                "c",
                {"event": "accessed", "study_uid": uid},
            ),
        ]
    stats.append(place, rows, b"secret")


def test_a_recorded_load_is_replayed_and_measured(run: Run, tmp_path: Path) -> None:
    recorded_days(tmp_path / "record", 20)
    given = ("--record", "record", "--json")
    code, out, err = run("cache", "simulate", "--days", 5, "--capacity", "8GB", *given)
    assert code == 0, err
    told = json.loads(out)
    assert (told["load"]["origin"], told["load"]["reads_from"]) == ("recorded", "recorded")
    assert told["load"]["days"] == 5
    assert 8 <= told["counts"]["studies"] <= 11
    code, out, err = run("cache", "size", "--measured", "--days", 10, *given)
    assert code == 0, err
    told = json.loads(out)
    assert told["measured"]["studies"] == 40
    assert told["measured"]["web_ratio"] == pytest.approx(0.5, abs=0.01)
    assert told["bytes_per_day"] == pytest.approx(0.8e9, rel=0.1)


def test_statistics_on_a_tier_are_found_there(tmp_path: Path) -> None:
    tier = TierSettings(name="nas", role="library", url=(tmp_path / "nas").as_uri())
    settings = Settings(tiers=(tier,), statistics_tier="nas")
    assert recorded.place_of(settings, tmp_path) is None
    assert not (tmp_path / "nas").exists(), "looking makes no folder"
    recorded_days(statistics_of(tmp_path, open_tier(tier)), 3)
    assert len(recorded.load(recorded.place_of(settings, tmp_path), 0).arrived_s) == 6
