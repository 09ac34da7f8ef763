"""What a fresh machine relies on: pins, licence, generated documents, scripts."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

from raypacs import __version__


def _project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as handle:
        project: dict[str, object] = tomllib.load(handle)["project"]
    return project


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_document_is_current() -> None:
    module = _load(ROOT / "scripts/configuration_doc.py")
    assert module.DOCUMENT.read_text(encoding="utf-8") == module.document(), (
        "run python scripts/configuration_doc.py"
    )


def test_constraints_are_names_and_versions_and_cover_every_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin) for pin in pins)
    pinned = {re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins}
    assert len(pinned) == len(pins)
    project = _project()
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    wanted = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]  # type: ignore[misc]
    names = {re.match(r"[A-Za-z0-9._-]+", one).group().lower() for one in wanted}  # type: ignore[union-attr]
    assert {re.sub(r"[-_.]+", "-", name) for name in names} - {"raypacs"} <= pinned


def test_version_and_licence_agree() -> None:
    project = _project()
    assert project["version"] == __version__
    assert project["license"] == "Apache-2.0"
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["scripts/setup", "scripts/demo", "scripts/test", "scripts/pin"])
def test_scripts_are_plain_sh(name: str) -> None:
    path = ROOT / name
    assert os.access(path, os.X_OK)
    assert path.read_text(encoding="utf-8").startswith("#!/bin/sh\n")
    shell = shutil.which("dash") or "sh"
    assert subprocess.run([shell, "-n", str(path)], check=False).returncode == 0


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "sh scripts/test" in (ROOT / ".ci/run").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "sh scripts/demo" in readme
    assert "sh scripts/test" in readme


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken, "\n".join(broken)
