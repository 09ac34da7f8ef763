"""Fixtures of all tiers. Puts this folder on the import path, so that tests share the fakes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import dcmtk
import hypothesis
import pytest
from cluster_fixtures import (  # noqa: F401 - one cluster of three; its tests come last
    cluster,
    hosts,
    pytest_collection_modifyitems,
)
from nodes import demo, node  # noqa: F401 - session fixtures of every tier
from postgres import (  # noqa: F401 - an index of one's own, on both databases
    database_url,
    postgres,
    postgres_url,
    sqlite_template,
    sqlite_url,
)
from s3_server import s3  # noqa: F401 - a real object store over HTTP

# No test asserts a wall-clock time, a slow example included.
# In CI the random tests take the same walks every time; elsewhere new ones, which find faults.
hypothesis.settings.register_profile(
    "raypacs", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True
)
hypothesis.settings.load_profile("raypacs")

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
"""Real DICOM beside the project, where it is there; never copied into it."""

_INSTALL = {
    "storescu": "the Debian package dcmtk",
    "dcmj2pnm": "the Debian package dcmtk",
    "echoscu": "the Debian package dcmtk",
    "dcmdump": "the Debian package dcmtk",
    "dcm2pnm": "the Debian package dcmtk",
    "dciodvfy": "the Debian package dicom3tools",
    "ojph_expand": "the Debian package openjph-tools",
    "wrk": "the Debian package wrk",
}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real DICOM data; skips where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside the project")
    return SHARED_DATA


@pytest.fixture(scope="session")
def peer() -> Callable[[str], str]:
    """Return the path of a program that tests talk to.

    On a laptop a missing one skips the test with the reason; where CI is set it fails, so that
    nothing is left out silently.
    """

    def find(name: str) -> str:
        path = dcmtk.find(name)
        if path is None:
            reason = f"{name} is not installed ({_INSTALL.get(name, 'see docs')})"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        return path

    return find
