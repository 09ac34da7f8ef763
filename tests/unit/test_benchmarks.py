"""The benchmark runner: list, run, JSON shape, exit codes, missing peers."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import benchmarks
from benchmarks import __main__ as cli
from benchmarks import figure, peers, runner
from benchmarks.figure import Figure, MissingPeer

FIELDS = [
    "name",
    "value",
    "unit",
    "beside",
    "beside_value",
    "ratio",
    "target",
    "holds",
    "n",
    "spread",
]

TINY = """
from benchmarks import peers
from benchmarks.figure import Figure, compare

NAME = "tiny"
DESCRIPTION = "counts to a hundred"


def run(quick, count):
    top = count or (10 if quick else 100)
    return [
        compare("tiny.sum", "1/s", [float(top)], beside="hand 1.0", beside_runs=[5.0], at_least=2),
        Figure("tiny.alone", 3.0, "MB"),
    ]
"""
SLOW = TINY.replace('"tiny"', '"slow"').replace("at_least=2", "at_least=1000")
LOST = TINY.replace('"tiny"', '"lost"').replace(
    "    top =", '    peers.require("nothing")\n    top ='
)
BROKEN = TINY.replace('"tiny"', '"broken"').replace(
    "    top =", '    raise OSError("no disk")\n    top ='
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package folder with tiny benchmarks in place of the real ones."""
    for name, text in (("tiny", TINY), ("slow", SLOW), ("lost", LOST), ("broken", BROKEN)):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)
    (tmp_path / "machinery.py").write_text("X = 1\n")
    monkeypatch.setattr(benchmarks, "__path__", [str(tmp_path)])
    nothing = peers.Peer("nothing", "a peer that is never there", lambda: "", lambda: None)
    monkeypatch.setitem(peers.PEERS, "nothing", nothing)
    yield tmp_path
    for name in ("tiny", "slow", "lost", "broken", "machinery"):
        sys.modules.pop(f"benchmarks.{name}", None)
        if hasattr(benchmarks, name):
            delattr(benchmarks, name)


def invoke(*arguments: str) -> tuple[int, str]:
    """Return exit code and standard output of `python -m benchmarks` with ``arguments``."""
    done = CliRunner().invoke(cli.app, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.mark.usefixtures("folder")
def test_list_names_benchmarks_and_leaves_machinery_out() -> None:
    code, printed = invoke("list", "--json")
    assert code == 0
    listed = json.loads(printed)
    assert [entry["name"] for entry in listed] == ["broken", "lost", "slow", "tiny"]
    assert listed[3]["description"] == "counts to a hundred"


def test_json_is_a_list_of_figures_with_every_field(folder: Path) -> None:
    out = folder / "out.json"
    code, _ = invoke("run", "tiny", "--json", str(out))
    assert code == 0
    written = json.loads(out.read_text())
    assert [list(entry) for entry in written] == [FIELDS, FIELDS]
    assert written[0] == {
        "name": "tiny.sum",
        "value": 100.0,
        "unit": "1/s",
        "beside": "hand 1.0",
        "beside_value": 5.0,
        "ratio": 20.0,
        "target": "ratio >= 2",
        "holds": True,
        "n": 1,
        "spread": 0.0,
    }
    assert written[1]["holds"] is None


@pytest.mark.parametrize(
    ("arguments", "value"), [(["--quick"], 10.0), (["--count", "40"], 40.0), ([], 100.0)]
)
def test_quick_and_count_reach_the_benchmark(
    folder: Path, arguments: list[str], value: float
) -> None:
    out = folder / "out.json"
    invoke("run", "tiny", "--json", str(out), *arguments)
    assert json.loads(out.read_text())[0]["value"] == value


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["tiny"], runner.EXIT_OK),
        (["slow", "tiny"], runner.EXIT_TARGET_MISSED),
        (["lost", "slow"], runner.EXIT_PEER_MISSING),
        (["broken", "lost", "slow"], runner.EXIT_FAILED),
        (["all"], runner.EXIT_FAILED),
        (["unheard"], runner.EXIT_USAGE),
    ],
)
@pytest.mark.usefixtures("folder")
def test_exit_code_tells_what_happened(names: list[str], code: int) -> None:
    assert invoke("run", *names)[0] == code


def test_one_broken_benchmark_leaves_the_figures_of_the_others(folder: Path) -> None:
    out = folder / "out.json"
    invoke("run", "broken", "lost", "tiny", "--json", str(out))
    assert [entry["name"] for entry in json.loads(out.read_text())] == ["tiny.sum", "tiny.alone"]


def test_a_figure_is_named_after_its_benchmark(folder: Path) -> None:
    out = folder / "out.json"
    invoke("run", "slow", "--json", str(out))
    names = [entry["name"] for entry in json.loads(out.read_text())]
    assert names == ["slow: tiny.sum", "slow: tiny.alone"]


@pytest.mark.usefixtures("folder")
def test_a_missing_peer_names_the_command_that_installs_it() -> None:
    found = runner.discover()
    report = runner.run([found["lost"]], quick=True, count=None, console=Console(quiet=True))
    assert "python -m benchmarks peers install nothing" in report.missing_peers[0]


def test_less_is_better_turns_the_ratio() -> None:
    made = figure.compare(
        "x", "s", [2.0, 1.0, 3.0], beside="p", beside_runs=[4.0], at_least=2, less_is_better=True
    )
    assert (made.value, made.ratio, made.holds, made.n) == (2.0, 2.0, True, 3)
    assert made.spread == pytest.approx(1.0)


@pytest.mark.parametrize(("value", "holds"), [(2.9, True), (3.1, False)])
def test_limit_holds_or_not(value: float, holds: bool) -> None:
    made = figure.limit("x", "%", [value], at_most=3.0)
    assert made.holds is holds
    assert made.target == "<= 3 %"
    assert made.ratio == pytest.approx(3.0 / value)


def test_a_target_needs_something_beside_it() -> None:
    with pytest.raises(ValueError, match="beside"):
        figure.compare("x", "s", [1.0], at_least=2)


def test_missing_peer_is_told_by_type() -> None:
    with pytest.raises(MissingPeer, match="peers install unknown-here") as caught:
        raise MissingPeer("unknown-here")
    assert caught.value.peer == "unknown-here"


def test_every_benchmark_of_the_project_takes_quick_and_count() -> None:
    wrong = [runner.describe_signature(one) for one in runner.discover().values()]
    assert [text for text in wrong if text] == []


def test_table_shows_a_missed_target() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(runner.table([Figure("a.b", 1.0, "MB/s", target="ratio >= 2", holds=False)]))
    assert "NO" in console.export_text()


def test_the_mirror_is_that_of_apt_and_not_the_security_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAYPACS_DEBIAN_MIRROR", raising=False)
    listed = (
        "https://mirror.test/security Debian\n"
        "https://tools.test/ Vendor\n"
        "https://mirror.test/debian/ Debian\n"
    )
    monkeypatch.setattr(peers, "_call", lambda command: listed)
    assert peers._mirror() == "https://mirror.test/debian/"
    monkeypatch.setattr(peers, "_call", lambda command: "")
    with pytest.raises(peers.InstallFailed, match="RAYPACS_DEBIAN_MIRROR"):
        peers._mirror()
    monkeypatch.setenv("RAYPACS_DEBIAN_MIRROR", "https://given.test/")
    assert peers._mirror() == "https://given.test/"


def test_install_does_nothing_where_the_peer_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> None:
        raise AssertionError("installed again")

    monkeypatch.setitem(peers.PEERS, "there", peers.Peer("there", "", lambda: "1.0", never))
    assert peers.install("there") == "1.0"


@pytest.mark.parametrize(
    ("status", "version"),
    [("install ok installed", "1.12.7"), ("install ok half-configured", ""), ("gone", "")],
)
def test_orthanc_counts_as_installed_only_when_dpkg_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, version: str
) -> None:
    monkeypatch.setattr(peers, "TRIXIE", tmp_path)
    plugins = tmp_path / "usr/share/orthanc/plugins"
    plugins.mkdir(parents=True)
    (plugins / "libOrthancDicomWeb.so").symlink_to("libOrthancDicomWeb.so.1.20")
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(
        f"Package: orthanc\nStatus: {status}\nPriority: optional\nVersion: 1.12.7+dfsg-4\n\n"
    )
    assert peers.PEERS["orthanc"].version() == version


def test_scratch_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PEERS_DIR", tmp_path / ".peers")
    with peers.scratch("x") as folder:
        (folder / "a").write_bytes(b"1")
    assert not folder.exists()
