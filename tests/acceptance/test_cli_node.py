"""The command line with a real node: what the demo left, and a node's life from up to down."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from nodes import Demo, Node, cli, write_config

from raypacs.synthetic import generate_ct_series


def _told(node: Node, *words: str, check: bool = True) -> Any:
    return json.loads(node.cli(*words, "--json", check=check).stdout)


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _alive(family: list[psutil.Process], timeout_s: float = 0) -> list[str]:
    """Return the names of those that still run; one nobody has waited for is gone, too."""
    deadline = time.monotonic() + timeout_s
    while True:
        names = []
        for each in family:
            try:
                if each.is_running() and each.status() != psutil.STATUS_ZOMBIE:
                    names.append(each.name())
            except psutil.NoSuchProcess:
                continue
        if not names or time.monotonic() > deadline:
            return names
        time.sleep(0.2)


def test_the_demo_prepared_everything_with_proof(demo: Demo) -> None:
    rows = demo.result["studies"]
    ct = max(rows, key=lambda row: row["bytes_in"])
    assert (ct["modality"], ct["objects"], ct["transcoded"]) == ("CT", 100, 100)
    assert 2 <= ct["ratio"] <= 4.6
    assert all(row["lossless_proven"] == row["transcoded"] for row in rows)
    assert sum(row["objects"] for row in rows) == demo.result["prepare"]["prepared"]
    assert demo.result["prepare"]["failed"] == []
    assert demo.result["c_store"]["0000H"] >= 10


def test_the_demo_again_finds_everything_as_it_was(demo: Demo, node: Node) -> None:
    asides = list((demo.data_dir / "image" / "conflicts").rglob("*.dcm"))
    done = cli(demo.config, "--data-dir", str(demo.data_dir), "demo", "--once", "--json")
    again = json.loads(done.stdout)
    assert again["ingest"]["counts"]["stored"] == 0
    assert again["studies"] == demo.result["studies"]
    assert len(list((demo.data_dir / "image" / "conflicts").rglob("*.dcm"))) == len(asides)
    assert node.process.poll() is None


def test_a_study_goes_out_as_it_came_in(node: Node, tmp_path: Path) -> None:
    sent = generate_ct_series(tmp_path / "in", slices=5, rows=64, columns=64, seed=77)
    told = _told(node, "ingest", str(tmp_path / "in"))
    (uid,) = told["study_uids"]
    assert _told(node, "wait", "--prepared", uid)["prepared"] == 5
    assert _told(node, "show", uid)["series"][0]["forms"]["htj2k"] == 5
    assert _told(node, "get", uid, str(tmp_path / "out"), "--no-dicomdir")["objects"] == 5
    received = list((tmp_path / "out").rglob("*.dcm"))
    digests = [
        sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
        for paths in (sent, received)
    ]
    assert digests[0] == digests[1]
    assert _told(node, "delete", uid, "--yes")["study_uid"] == uid
    assert node.cli("show", uid, check=False).returncode == 4


def test_a_job_prepares_a_path(node: Node, tmp_path: Path) -> None:
    generate_ct_series(tmp_path, slices=3, rows=64, columns=64, seed=78)
    done = node.cli("submit", "prepare", "--follow", "--", str(tmp_path))
    summary = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    assert summary["ingest"]["counts"]["stored"] == 3
    assert summary["prepare"]["prepared"] == 3
    failed = node.cli("submit", "prepare", "--follow", "--", "/nowhere", check=False)
    assert failed.returncode == 1
    assert "not on this host" in failed.stdout


def test_settings_go_out_and_in(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    node.cli("config", "export", str(path))
    text = path.read_text()
    path.write_text(text.replace("quiet_s = 5.0", "quiet_s = 4.0"))
    assert _told(node, "config", "apply", str(path))["changes"] == {"quiet_s": [5.0, 4.0]}
    stale = node.cli("config", "apply", str(path), check=False)
    assert stale.returncode == 0, "nothing to change is not an error"
    path.write_text(text.replace("quiet_s = 5.0", "quiet_s = 6.0"))
    assert node.cli("config", "apply", str(path), check=False).returncode == 1
    node.cli("config", "export", str(path))
    path.write_text(path.read_text().replace("quiet_s = 4.0", "quiet_s = 5.0"))
    node.cli("config", "apply", str(path))


def test_no_patient_is_named_in_the_logs(demo: Demo, node: Node) -> None:
    rows = _told(node, "studies")
    names = {str(row.get(key) or "") for row in rows for key in ("PatientName", "PatientID")}
    telling = {name for name in names if len(name) >= 6}
    assert len(telling) >= 5
    logs = list((demo.data_dir / "logs").iterdir())
    assert {"node.jsonl", "master.jsonl"} <= {path.name for path in logs}
    for path in logs:
        text = path.read_text(encoding="utf-8", errors="replace")
        named = [name for name in telling if name in text]
        assert not named, f"{path.name}: {named}"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return write_config(tmp_path, dashboard=False)


def test_a_node_from_up_to_down(site: Path) -> None:
    details = json.loads(cli(site, "up", "--detach", "--json").stdout)
    family = _family(details["pid"])
    assert len(family) > 3
    second = cli(site, "up", "--detach", check=False)
    assert second.returncode == 1
    assert str(details["pid"]) in second.stderr
    assert json.loads(cli(site, "status", "--json").stdout)["nodes"][0]["name"] == "testnode"
    assert cli(site, "submit", "prepare", check=False).returncode == 3
    assert cli(site, "down").returncode == 0
    assert _alive(family) == []
    assert cli(site, "down", check=False).returncode == 3


def test_a_killed_node_leaves_no_process_and_starts_again(site: Path) -> None:
    details = json.loads(cli(site, "up", "--detach", "--json").stdout)
    family = _family(details["pid"])
    # Ray's agents first look for the lost cluster for a minute, then they end too.
    agents = [each for each in family if each.name().endswith("Agent")]
    others = [each for each in family if each not in agents]
    os.kill(details["pid"], signal.SIGKILL)
    assert _alive(others, timeout_s=60) == []
    assert cli(site, "status", check=False).returncode == 3
    again = json.loads(cli(site, "up", "--detach", "--json").stdout)
    assert again["pid"] != details["pid"]
    cli(site, "down")
    assert _alive(agents, timeout_s=120) == []
