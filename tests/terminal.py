"""Somebody at a terminal, for commands that ask."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest


def sits_at_it(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., str]) -> None:
    """Let standard input be a terminal, where ``answer`` answers every question."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", answer)
