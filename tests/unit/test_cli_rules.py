"""`raypacs rules test` over the real REST API: files, stored studies, rules of a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stored_series import image, noise, part10
from web_world import World, served

from raypacs.cli.app import main
from raypacs.config import CompressionRule

Run = Callable[..., tuple[int, str, str]]
RULES = (
    CompressionRule(name="ultrasound", action="copy", modalities=("US",), sources=("ECHO*",)),
    CompressionRule(name="old CT", action="lossy", ratio=10, modalities=("CT",), min_rows=64),
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.settings = made.settings.model_copy(update={"compression": RULES})
    yield made
    made.intake.close()


@pytest.fixture
def run(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Run]:
    """Run a command; exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    with served(world) as client:

        def invoke(*words: object) -> tuple[int, str, str]:
            with pytest.raises(SystemExit) as ended:
                main([*map(str, words), "--url", str(client.base_url)])
            told = capsys.readouterr()
            return int(ended.value.code or 0), told.out, told.err

        yield invoke


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, size, modality in (("big", 64, "CT"), ("small", 32, "CT"), ("echo", 64, "US")):
        data = part10(image(noise(1, size, size), bits_stored=12, Modality=modality))
        (folder / f"{name}.dcm").write_bytes(data)
    return folder


def answered(run: Run, *words: object) -> dict[str, Any]:
    code, out, err = run("rules", "test", *words, "--json")
    assert code == 0, err
    return {Path(one["name"]).stem: one for one in json.loads(out)["instances"]}


def test_files_with_the_rules_in_force(run: Run, files: Path) -> None:
    told = answered(run, files)
    assert (told["big"]["rule"], told["big"]["derives"]) == ("old CT", True)
    assert told["big"]["derived_sop_instance_uid"].startswith("2.25.")
    assert (told["small"]["rule"], told["small"]["form"]) == ("", "htj2k")
    assert told["echo"]["rule"] == "", "nobody said who sends it"
    told = answered(run, "--source", "ECHO_2", files / "echo.dcm")
    assert (told["echo"]["rule"], told["echo"]["form"]) == ("ultrasound", "copied")


def test_a_table_for_people(run: Run, files: Path) -> None:
    code, out, _ = run("rules", "test", files)
    assert code == 0
    assert "2 by no rule, 1 by old CT" in out
    assert "prepared as htj2k, and a lossy object beside it (10:1)" in out
    (files / "notes.txt").write_text("no DICOM")
    code, out, _ = run("rules", "test", files)
    assert code == 5
    assert "cannot be read: no DICM prefix" in out


def test_rules_of_a_file_before_they_are_applied(run: Run, files: Path, tmp_path: Path) -> None:
    settings = tmp_path / "new.toml"
    settings.write_text('[[compression]]\nname = "all"\naction = "copy"\nsop_classes = ["CT*"]\n')
    told = answered(run, files, "--settings", settings)
    assert {one["rule"] for one in told.values()} == {"all"}
    settings.write_text(
        '[[compression]]\nname = "all"\naction = "copy"\nsop_classes = ["CTImage"]\n'
    )
    code, _, err = run("rules", "test", files, "--settings", settings)
    assert code == 2
    assert "compression.0.sop_classes: no SOP Class 'CTImage'; did you mean 'CT" in err


def test_a_stored_study(run: Run, world: World, files: Path) -> None:
    world.add((files / "big.dcm").read_bytes())
    (told,) = answered(run, "--study", "1.2.3").values()
    assert told["rule"] == "old CT"
    assert run("rules", "test", "--study", "9.9")[0] == 4
    assert run("rules", "test")[0] == 2
    assert run("rules", "test", "--study", "1.2.3", files)[0] == 2


def test_why_there_will_be_no_lossy_object(run: Run, tmp_path: Path) -> None:
    dataset = image(noise(1, 64, 64), SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2")
    (tmp_path / "dose.dcm").write_bytes(part10(dataset))
    _, out, _ = run("rules", "test", tmp_path / "dose.dcm")
    assert "no lossy object: a dose distribution is not a picture" in out


def test_a_wrong_rule_over_rest_is_a_problem(world: World) -> None:
    with served(world) as client:
        one = {"sop_class_uid": "1.2", "transfer_syntax_uid": "1.2.840.10008.1.2"}
        rule = {"name": "x", "action": "copy", "modality": ["CT"]}
        answer = client.post("/api/v1/rules/test", json={"instances": [one], "rules": [rule]})
        assert answer.status_code == 422
        assert "did you mean 'modalities'?" in answer.json()["detail"]
        answer = client.post("/api/v1/rules/test", json={"instances": [one], "rules": []})
        assert answer.json()["instances"][0]["form"] == "copied"
