"""Ending exactly the process that is meant, frozen or not, and no other."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from raypacs import process


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "60"])
    yield child
    child.kill()
    child.wait()


def _identity(child: subprocess.Popen[bytes]) -> dict[str, Any]:
    return process.identity("n1") | {
        "pid": child.pid,
        "started": process.process_start(child.pid),
    }


def test_identity_is_of_this_process() -> None:
    mine = process.identity("n1")
    assert (mine["node"], mine["pid"]) == ("n1", os.getpid())
    assert process.runs_here(mine)
    assert not process.runs_here({})


@pytest.mark.parametrize("frozen", [False, True])
def test_a_process_is_ended_even_if_it_is_stopped(
    other: subprocess.Popen[bytes], frozen: bool
) -> None:
    who = _identity(other)
    if frozen:
        other.send_signal(signal.SIGSTOP)
    assert process.runs_here(who)
    assert process.end(who, wait_s=30)
    assert other.wait() == -signal.SIGKILL
    assert not process.runs_here(who)
    assert process.end(who, wait_s=0)


@pytest.mark.parametrize("wrong", [{"started": "boot:1"}, {"host": "elsewhere"}])
def test_another_process_with_its_pid_stays(
    other: subprocess.Popen[bytes], wrong: dict[str, str]
) -> None:
    who = _identity(other) | wrong
    assert not process.runs_here(who)
    process.end(who, wait_s=0)
    assert other.poll() is None


def test_not_itself() -> None:
    assert not process.end(process.identity(), wait_s=0)
