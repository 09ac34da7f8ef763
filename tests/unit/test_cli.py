"""The command line against a node in memory: output, exit codes, and what it asks the node."""

from __future__ import annotations

import json
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from fake_node import FakeNode, serve
from pydicom.data import get_testdata_file
from terminal import sits_at_it

from raypacs.cli import app as cli
from raypacs.cli.app import hoisted, main
from raypacs.cli.submit import JobsApi
from raypacs.sender import upload as uploading
from raypacs.sender import waiting
from raypacs.synthetic import generate_ct_series


@dataclass
class Ran:
    """What one invocation of the command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def node() -> Iterator[FakeNode]:
    fake = FakeNode()
    server = serve(fake)
    yield fake
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(
    node: FakeNode,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(waiting, "POLL_S", 0.01)
    monkeypatch.setattr(uploading, "_REGISTERING_S", 0.0)
    monkeypatch.delenv("RAYPACS_URL", raising=False)

    def invoke(*words: str | Path, url: str | None = None) -> Ran:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), *(["--url", node.url] if url is None else [])])
        told = capsys.readouterr()
        return Ran(int(ended.value.code or 0), told.out, told.err)

    return invoke


@pytest.fixture
def series(tmp_path: Path) -> Path:
    generate_ct_series(tmp_path / "ct", slices=12, rows=16, columns=16)
    return tmp_path / "ct"


def test_ingest_sends_every_file_and_completes_the_study(
    run: Run, node: FakeNode, series: Path
) -> None:
    ran = run("ingest", series, "--json")
    assert ran.code == 0
    assert ran.json["counts"]["stored"] == 12
    assert node.completed == ran.json["study_uids"]
    assert sorted(node.objects.values()) == sorted(path.read_bytes() for path in series.iterdir())
    assert node.sources == {"CLI"}
    again = run("ingest", series, "--json")
    assert again.code == 0
    assert (again.json["counts"]["stored"], again.json["counts"]["known"]) == (0, 12)


def test_ingest_says_what_was_not_taken_and_why(
    run: Run, node: FakeNode, series: Path, tmp_path: Path
) -> None:
    run("ingest", series)
    other = pydicom.dcmread(series / "CT00001.dcm")
    other.PatientName = "Other"
    other.save_as(series / "CT00001.dcm")
    (series / "broken").write_bytes(bytes(128) + b"DICM" + b"\xff" * 50)
    (series / "notes.txt").write_text("hello")
    (series / "bare").write_bytes(b"\x08\x00\x05\x00CS\x04\x00ABCD")
    ran = run("ingest", series)
    assert ran.code == 5
    for said in ("conflict", "quarantined", "already known", "not DICOM", "without preamble"):
        assert said in ran.out
    counts = run("ingest", series, "--json").json["counts"]
    assert counts == {
        "stored": 0,
        "known": 11,
        "conflict": 1,
        "quarantined": 1,
        "refused": 0,
        "skipped": 1,
        "failed": 1,
    }


def test_reasons_are_grouped_whatever_uid_they_name(run: Run, series: Path) -> None:
    run("ingest", series)
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PatientName = "Other"
        dataset.save_as(path)
    (reason,) = run("ingest", series, "--json").json["reasons"]
    assert reason["count"] == 12
    assert len(reason["examples"]) == 3


def test_ingest_reads_zip_files(run: Run, node: FakeNode, series: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in series.iterdir():
            archive.write(path, f"deep/{path.name}")
    assert run("ingest", tmp_path / "all.zip", "--json").json["counts"]["stored"] == 12
    assert sorted(node.objects.values()) == sorted(path.read_bytes() for path in series.iterdir())


def test_ingest_uploads_several_at_a_time_but_not_many(
    run: Run, node: FakeNode, tmp_path: Path
) -> None:
    generate_ct_series(tmp_path / "many", slices=60, rows=64, columns=64)
    assert run("ingest", tmp_path / "many").code == 0
    assert 1 <= node.most_at_once <= 8


def test_ingest_asks_again_while_the_master_is_away(
    run: Run, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypacs.sender.upload._RETRY_S", 0.01)
    node.away = 2
    ran = run("ingest", str(get_testdata_file("CT_small.dcm")), "--json")
    assert (ran.code, ran.json["counts"]["stored"]) == (0, 1)


def test_an_object_that_breaks_the_connection_does_not_stop_the_others(
    run: Run, node: FakeNode, series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypacs.sender.upload._RETRY_S", 0.001)
    node.breaks_at = (series / "CT00003.dcm").read_bytes()
    ran = run("ingest", series, "--json")
    assert ran.code == 5
    assert (ran.json["counts"]["stored"], ran.json["counts"]["failed"]) == (11, 1)


def test_ingest_of_nothing_fails(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert run("ingest", tmp_path / "notes.txt").code == 1
    ran = run("ingest", tmp_path / "absent")
    assert ran.code == 4
    assert "absent" in ran.err


def test_studies_lists_and_filters(run: Run, series: Path) -> None:
    run("ingest", series, str(get_testdata_file("CT_small.dcm")))
    assert len(run("studies", "--json").json) == 2
    assert len(run("studies", "--limit", "1", "--json").json) == 1
    uid = run("studies", "--json").json[0]["StudyInstanceUID"]
    (row,) = run("studies", f"StudyInstanceUID={uid}", "--json").json
    assert row["StudyInstanceUID"] == uid
    listed = run("studies")
    assert "A[bold]^B" in listed.out
    assert run("studies", "CT").code == 2


def test_show_and_what_is_not_there(run: Run, series: Path) -> None:
    uid = run("ingest", series, "--json").json["study_uids"][0]
    ran = run("show", uid)
    assert ran.code == 0
    assert "12 htj2k" in ran.out
    assert run("show", uid, "--json").json["series"][0]["instances"] == 12
    missing = run("show", "1.2.3", "--json")
    assert missing.code == 4
    assert missing.json == {"error": "no study 1.2.3", "kind": "NotFound", "hint": "look"}


def test_get_writes_every_object_as_it_was_received(
    run: Run, node: FakeNode, series: Path, tmp_path: Path
) -> None:
    uid = run("ingest", series, "--json").json["study_uids"][0]
    ran = run("get", uid, tmp_path / "out", "--no-dicomdir", "--json")
    assert (ran.code, ran.json["objects"]) == (0, 12)
    written = list((tmp_path / "out").rglob("*.*"))
    files = [path for path in written if path.is_file()]
    assert {path.suffix for path in files} == {".dcm"}
    assert sorted(p.read_bytes() for p in files) == sorted(p.read_bytes() for p in series.iterdir())
    assert {path.stem for path in files} == set(node.objects)


def test_get_overwrites_nothing(run: Run, node: FakeNode, series: Path, tmp_path: Path) -> None:
    uid = run("ingest", series, "--json").json["study_uids"][0]
    out = tmp_path / "out"
    assert run("get", uid, out, "--no-dicomdir").code == 0
    first, *others = sorted(out.rglob("*.dcm"))
    first.write_text("precious")
    for path in others:
        path.unlink()
    ran = run("get", uid, out, "--no-dicomdir")
    assert ran.code != 0
    assert "exists already" in ran.err
    assert first.read_text() == "precious"
    assert not [path for path in others if path.exists()]


def test_get_refuses_bytes_that_are_not_those_received(
    run: Run, node: FakeNode, series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = run("ingest", series, "--json").json["study_uids"][0]
    monkeypatch.setattr("fake_node._sha256", lambda _: "0" * 64)
    ran = run("get", uid, tmp_path / "out")
    assert ran.code == 1
    assert "not what was received" in ran.err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_delete_asks_first(
    run: Run, node: FakeNode, series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = run("ingest", series, "--json").json["study_uids"][0]
    sits_at_it(monkeypatch, lambda *_: "n")
    assert run("delete", uid).code == 1
    assert len(node.objects) == 12
    sits_at_it(monkeypatch, lambda *_: "y")
    assert run("delete", uid).code == 0
    assert node.objects == {}
    assert run("delete", uid, "--yes").code == 4


def test_delete_with_yes_does_not_ask(run: Run, node: FakeNode, series: Path) -> None:
    uid = run("ingest", series, "--json").json["study_uids"][0]
    ran = run("delete", uid, "--yes", "--json")
    assert ran.json == {"study_uid": uid, "deleted_objects": 12}


def test_wait_ends_when_prepared_or_failed_or_too_late(
    run: Run, node: FakeNode, series: Path
) -> None:
    uid = run("ingest", series, "--json").json["study_uids"][0]
    assert run("wait", "--prepared", "--json").json["prepared"] == 12
    assert run("wait", "--prepared", uid, "--json").json["objects"] == 12
    node.prepared = False
    late = run("wait", "--prepared", "--timeout", "0.1")
    assert late.code == 1
    assert "0 of 12" in late.err
    node.failed = True
    ran = run("wait", "--prepared", "--json")
    assert (ran.code, ran.json["reasons"]) == (1, ["no room"])
    assert ran.json["failed"] == [uid]


def test_wait_names_no_study_whose_failure_was_made_good(
    run: Run, node: FakeNode, series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("ingest", series)
    node.failed = True
    monkeypatch.setattr(
        node, "_row", lambda uid: {"state": "prepared", "instance_count": 12, "prepared_count": 12}
    )
    assert run("wait", "--prepared", "--json").json["failed"] == []


def test_wait_needs_to_know_for_what(run: Run) -> None:
    assert run("wait").code == 2


def test_status_shows_caches_with_hours_left(run: Run) -> None:
    ran = run("status")
    assert ran.code == 0
    assert "9.0 GB/h" in ran.out
    assert "100.0" in ran.out
    for said in ("stalled (no live node [x])", "master on fake, pid 12", "another version"):
        assert said in ran.out
    assert run("status", "--json").json["tiers"][0]["hours_left"] == 100.0


def test_settings_travel_out_and_in(run: Run, node: FakeNode, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    assert run("config", "export", path).code == 0
    text = path.read_text()
    assert tomllib.loads(text)["version"] == 1
    assert run("config", "export").out == text
    assert run("config", "apply", path, "--json").json["applied"] is False
    path.write_text(text.replace("quiet_s = 5.0", "quiet_s = 9.0"))
    dry = run("config", "apply", path, "--dry-run", "--json").json
    assert dry == {"version": 1, "changes": {"quiet_s": [5.0, 9.0]}, "applied": False}
    assert run("config", "apply", path, "--json").json["version"] == 2
    assert node.settings["quiet_s"] == 9.0
    stale = run("config", "apply", path.write_text(path.read_text() + "") and path)
    assert stale.code == 0
    node.settings["quiet_s"] = 1.0
    stale = run("config", "apply", path)
    assert stale.code == 1
    assert "somebody else" in stale.err


def test_settings_travel_as_json_as_well(run: Run, node: FakeNode, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(run("config", "export", "--json").out)
    assert run("config", "apply", path, "--json").json["applied"] is False
    changed = json.loads(path.read_text())
    changed["settings"]["quiet_s"] = 9.0
    path.write_text(json.dumps(changed, indent=2))
    assert run("config", "apply", path, "--json").json["version"] == 2
    assert node.settings["quiet_s"] == 9.0
    changed["settings"]["quiet_s"] = 8.0
    path.write_text(json.dumps(changed))
    assert "somebody else" in run("config", "apply", path).err  # version 1 is not current
    path.write_text(json.dumps(changed["settings"]))  # settings alone, without a version
    assert run("config", "apply", path, "--json").json["version"] == 3
    path.write_text("{")
    assert "not valid JSON" in run("config", "apply", path).err


def test_wrong_settings_are_refused_before_they_are_sent(
    run: Run, node: FakeNode, tmp_path: Path
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("quiet_ss = 3\n")
    ran = run("config", "apply", path)
    assert ran.code == 2
    assert "did you mean 'quiet_s'" in ran.err
    assert node.version == 1


def test_config_check_reads_the_file_here_and_suggests_names(run: Run, tmp_path: Path) -> None:
    assert run("config", "check", "--json").json["file"] == ""
    (tmp_path / "raypacs.toml").write_text("http_port = 9000\n")
    told = run("config", "check", "--json").json
    assert (told["file"], told["bootstrap"]["http_port"]) == ("raypacs.toml", 9000)
    (tmp_path / "raypacs.toml").write_text("htp_port = 9000\n")
    ran = run("config", "check")
    assert ran.code == 2
    assert "http_port" in ran.err


def test_no_node_is_said_with_a_hint(run: Run) -> None:
    for command in (["status"], ["studies"], ["down"], ["ingest", "."]):
        ran = run(*command, url="")
        assert ran.code == 3, command
        assert "no node runs" in ran.err
        assert "hint:" in ran.err
    ran = run("status", "--url", "http://127.0.0.1:9", url="")
    assert ran.code == 3


def test_usage_errors_have_their_code(run: Run) -> None:
    assert run("shw").code == 2
    assert run("show").code == 2


def test_version_names_components(run: Run) -> None:
    assert {"raypacs", "ray", "python"} <= set(run("version", "--json").json)


def test_unexpected_errors_become_a_message_and_debug_shows_where(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr("raypacs.client.Client.status", fail)
    ran = run("status")
    assert ran.code == 1
    assert "surprise" in ran.err
    assert "Traceback" not in ran.err
    assert "Traceback" in run("status", "--debug").err


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["up", "--data-dir", "x", "-d"], ["--data-dir", "x", "up", "-d"]),
        (["get", "1.2", "d", "--url=http://x"], ["--url=http://x", "get", "1.2", "d"]),
        (["submit", "a", "--", "--config", "b"], ["submit", "a", "--", "--config", "b"]),
        (["status", "--config"], ["--config", "status"]),
    ],
)
def test_options_for_all_commands_may_stand_anywhere(given: list[str], wanted: list[str]) -> None:
    assert hoisted(given) == wanted


def test_every_command_has_json() -> None:
    groups = [cli.app, *(group.typer_instance for group in cli.app.registered_groups)]
    for group in groups:
        for command in group.registered_commands:
            assert command.callback is not None
            assert "as_json" in command.callback.__annotations__, command.name


def test_a_job_is_followed_with_the_nodes_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypacs.cli.submit._POLL_S", 0.001)
    (tmp_path / "token").write_text("secret\n")
    agents = iter([False, True])
    states = iter(["PENDING", "RUNNING", "SUCCEEDED"])
    logs = iter(["", "one\n", "one\ntwo\n"])

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        if request.method == "POST":
            if not next(agents):
                return httpx.Response(500, text="No available agent to submit job")
            assert json.loads(request.content)["runtime_env"]["env_vars"] == {"A": "b"}
            return httpx.Response(200, json={"submission_id": "job1"})
        if request.url.path.endswith("/logs"):
            return httpx.Response(200, json={"logs": next(logs)})
        return httpx.Response(200, json={"status": next(states)})

    details = {"dashboard_url": "http://ray", "ray_token_path": str(tmp_path / "token")}
    with JobsApi(details, transport=httpx.MockTransport(answer)) as jobs:
        assert jobs.submit("python x.py", {"A": "b"}) == "job1"
        assert list(jobs.follow("job1")) == ["one\n", "two\n"]
