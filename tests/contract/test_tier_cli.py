"""`raypacs tier` on the command line, against a whole site in one process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raypacs.cli import tier as commands
from raypacs.cli.app import main
from raypacs.cli.tier import values_of
from raypacs.errors import ConfigError
from tests.contract.test_sealing import STUDY, files
from tests.moving_site import MovingSite, tier

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[MovingSite]:
    url = f"sqlite:///{tmp_path / 'index.sqlite'}"
    site = MovingSite(tmp_path, url, (tier(tmp_path, "image1"), tier(tmp_path, "web1", "web")))
    site.seen()
    yield site
    site.close()


@pytest.fixture
def run(
    site: MovingSite,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Run]:
    """Run a command; exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setattr(commands, "_POLL_S", 0.01)
    (tmp_path / "raypacs.toml").write_text(
        f'data_dir = "{tmp_path}"\nindex_url = "{site.url}"\nnode_name = "n1"\n'
    )
    with site.served() as client:

        def invoke(*words: object) -> tuple[int, str, str]:
            with pytest.raises(SystemExit) as ended:
                main(["tier", *map(str, words), "--url", str(client.base_url)])
            told = capsys.readouterr()
            return int(ended.value.code or 0), told.out, told.err

        yield invoke


def told(answer: tuple[int, str, str], code: int = 0) -> Any:
    assert answer[0] == code, answer
    return json.loads(answer[1])


def test_added_listed_changed_looked_at_and_removed(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(
        *("add", "cold", tmp_path / "cold", "--role", "image", "--order", 2),
        *("--capacity", "20TB", "--set", "thresholds.amber_h=72"),
    )
    assert code == 0
    assert "cold is added" in out
    code, out, _ = run("list")
    assert code == 0
    (line,) = (line for line in out.splitlines() if line.strip().startswith("cold "))
    assert "20.0 TB" in line
    assert "72 h" in line
    changed = told(run("set", "cold", "read_only=true", "capacity=30TB", "--json"))
    assert (changed["read_only"], changed["capacity_bytes"]) == (True, 30 * 10**12)
    changed = told(run("set", "cold", "thresholds.red_h=12", "--json"))
    assert changed["thresholds"] == {"amber_h": 72, "red_h": 12, "web_h": 24}
    code, out, err = run("set", "cold", "oder=3")
    assert code != 0
    assert "order" in out + err
    code, out, _ = run("check")
    assert code == 0
    assert out.count("ours") == 3
    code, out, _ = run("remove", "cold")
    assert code == 0
    assert len(told(run("list", "--json"))) == 2


def test_drained_until_it_is_empty(run: Run, site: MovingSite, tmp_path: Path) -> None:
    site.store(*files())
    site.prepare()
    code, out, err = run("drain", "image1")
    assert code != 0
    assert "only image tier" in out + err
    run("add", "image2", tmp_path / "image2", "--role", "image", "--order", 2)
    site.refresh()
    code, out, _ = run("drain", "image1")
    assert code == 0
    assert "1 studies" in out
    for _ in range(2):
        site.now += 3
        site.seen()
        site.master.tick()
        site.work_off()
    site.let_go()
    site.refresh()
    code, out, _ = run("drain", "image1", "--show")
    assert "image1 is empty" in out
    assert run("remove", "image1")[0] == 0
    ordered = run("move", STUDY, "--to", "image2", "--json")
    assert told(ordered)["study_uid"] == STUDY


def test_the_ledger_and_every_object_are_proven(run: Run, site: MovingSite) -> None:
    site.store(*files())
    site.prepare()
    counted = told(run("recount", "--deep", "--json"))
    assert {one["difference_bytes"] for one in counted["ledger"]} == {0}
    assert counted["objects"]["objects"] == 6 + 4
    lost = site.reader.instances(STUDY)[0].record.path
    site.tier("image1").delete(lost)
    code, out, _ = run("recount", "--deep")
    assert code == 5
    assert f"missing: {lost} on image1" in out


def test_assignments() -> None:
    assert values_of(["order=2", "read_only=yes", "capacity=1TB", "thresholds.red_h=2.5"]) == {
        "order": 2,
        "read_only": True,
        "capacity_bytes": 10**12,
        "thresholds": {"red_h": 2.5},
    }
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        values_of(["order"])
