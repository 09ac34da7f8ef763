"""Finding the node of a data folder, and telling a live one from its leftovers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raypacs import node_file
from raypacs.config import Bootstrap
from raypacs.errors import AlreadyExists
from raypacs.node_file import NodeFile

_HOLD = """
import sys
from pathlib import Path
from raypacs import node_file
from raypacs.config import Bootstrap
bootstrap = Bootstrap(data_dir=Path(sys.argv[1]))
with node_file.held(bootstrap) as mine:
    if sys.argv[2] == "ready":
        node_file.announce(bootstrap, mine, {"http_url": "http://127.0.0.1:1"})
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def bootstrap(tmp_path: Path) -> Bootstrap:
    return Bootstrap(data_dir=tmp_path)


def _holder(bootstrap: Bootstrap, state: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(bootstrap.data_dir), state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.communicate()
    assert process.returncode in (0, -9)


def test_none_runs_on_a_fresh_folder(bootstrap: Bootstrap) -> None:
    assert node_file.find(bootstrap) is None


def test_a_ready_node_of_another_process_is_found(bootstrap: Bootstrap) -> None:
    process = _holder(bootstrap, "ready")
    found = node_file.find(bootstrap)
    assert found is not None
    assert (found.pid, found.ready, found.http_url) == (process.pid, True, "http://127.0.0.1:1")
    assert found.is_running()
    _end(process)
    assert node_file.find(bootstrap) is None
    assert not node_file.node_path(bootstrap).exists()


def test_a_starting_node_is_found_without_its_ports(bootstrap: Bootstrap) -> None:
    process = _holder(bootstrap, "starting")
    found = node_file.find(bootstrap)
    assert found is not None
    assert (found.pid, found.ready, found.http_url) == (process.pid, False, "")
    _end(process)


def test_only_one_node_runs_on_a_folder(bootstrap: Bootstrap) -> None:
    process = _holder(bootstrap, "ready")
    with pytest.raises(AlreadyExists, match=str(process.pid)), node_file.held(bootstrap):
        pass
    assert node_file.find(bootstrap) is not None
    _end(process)
    with node_file.held(bootstrap) as mine:
        assert mine.pid == os.getpid()


def test_files_of_a_killed_node_count_for_nothing(bootstrap: Bootstrap) -> None:
    process = _holder(bootstrap, "ready")
    process.kill()
    _end(process)
    assert node_file.node_path(bootstrap).exists()
    assert node_file.find(bootstrap) is None
    with node_file.held(bootstrap):
        assert not node_file.node_path(bootstrap).exists()


def test_a_node_file_of_a_reused_pid_is_not_the_node(bootstrap: Bootstrap) -> None:
    process = _holder(bootstrap, "starting")
    node_file.node_path(bootstrap).parent.mkdir(exist_ok=True)
    stale = {"pid": process.pid, "started": "another boot:1", "details": {"http_url": "x"}}
    node_file.node_path(bootstrap).write_text(json.dumps(stale))
    found = node_file.find(bootstrap)
    assert found is not None
    assert not found.ready
    _end(process)


def test_start_mark_tells_processes_apart() -> None:
    mine = node_file.process_start(os.getpid())
    assert mine
    assert mine == node_file.process_start(os.getpid())
    assert node_file.process_start(2**22 + 1) == ""
    assert not NodeFile(os.getpid(), "other").is_running()
