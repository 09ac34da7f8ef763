"""Fixtures around one real node per test session: a demo run, then a node on the data it left.

The node is a process of its own, started as a user would (`raypacs up`), on free loopback ports.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

PROJECT = Path(__file__).parents[1]
START_S = 240
RAYPACS = (sys.executable, "-c", "from raypacs.cli import main; main()")


@dataclass
class Node:
    """A running node under test."""

    data_dir: Path
    config: Path
    details: dict[str, Any]
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return str(self.details["http_url"])

    @property
    def dicom_port(self) -> int:
        return int(self.details["dicom_port"])

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return cli(self.config, *arguments, check=check)

    def status(self) -> dict[str, Any]:
        return self.get("/api/v1/status").raise_for_status().json()


def cli(
    config: Path, *arguments: str, check: bool = True, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run `raypacs` as a user would; its output in the error when it fails."""
    done = subprocess.run(
        [*RAYPACS, "--config", str(config), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=PROJECT,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode != 0:
        pytest.fail(f"raypacs {' '.join(arguments)}: rc {done.returncode}\n{done.stderr[-4000:]}")
    return done


def write_config(folder: Path, **values: Any) -> Path:
    """Write a raypacs.toml with free ports into ``folder``."""
    settings = {
        "data_dir": str(folder / "data"),
        "node_name": "testnode",
        "dicom_port": 0,
        "http_port": 0,
        "dashboard_port": 0,
        **values,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    path = folder / "raypacs.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def start(config: Path, data_dir: Path) -> Node:
    """Start a node as a child and wait until it serves."""
    log = (config.parent / "up.out").open("wb")
    process = subprocess.Popen(
        [*RAYPACS, "--config", str(config), "up"],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=PROJECT,
    )
    log.close()
    node_file = data_dir / "run" / "node.json"
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if node_file.is_file():
            whole = json.loads(node_file.read_text(encoding="utf-8"))
            return Node(data_dir, config, whole["details"], process)
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    pytest.fail("the node did not start:\n" + (config.parent / "up.out").read_text()[-4000:])


def stop(node: Node) -> int:
    """Stop a node as `raypacs down` does; return its exit code."""
    node.process.terminate()
    return node.process.wait(90)


@dataclass
class Demo:
    """What `raypacs demo --once --json` left and said."""

    config: Path
    data_dir: Path
    result: dict[str, Any]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Run the demo once for the whole session."""
    folder = tmp_path_factory.mktemp("site")
    config = write_config(folder)
    data_dir = folder / "data"
    done = cli(config, "--data-dir", str(data_dir), "demo", "--once", "--json", timeout_s=600)
    return Demo(config, data_dir, json.loads(done.stdout))


@pytest.fixture(scope="session")
def node(demo: Demo) -> Iterator[Node]:
    """Start a node on what the demo left."""
    running = start(demo.config, demo.data_dir)
    yield running
    assert stop(running) == 0
