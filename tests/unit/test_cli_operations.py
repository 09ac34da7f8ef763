"""Commands of operators over the real REST API, with queue, nodes and master in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fake_cluster import FakeCluster, item
from terminal import sits_at_it
from web_world import World, served

from raypacs.cli import master as master_commands
from raypacs.cli import node as node_commands
from raypacs.cli import selection
from raypacs.cli.app import main
from raypacs.cli.selection import due_s, filters_of
from raypacs.errors import ConfigError
from raypacs.web.models.work import TaskFilter

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.intake.close()


@pytest.fixture
def cluster(world: World) -> FakeCluster:
    return world.cluster


@pytest.fixture
def run(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Run]:
    """Run a command; exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "220")
    for module in (master_commands, node_commands):
        monkeypatch.setattr(module, "POLL_S", 0.01)
    with served(world) as client:

        def invoke(*words: object) -> tuple[int, str, str]:
            with pytest.raises(SystemExit) as ended:
                main([*map(str, words), "--url", str(client.base_url)])
            told = capsys.readouterr()
            return int(ended.value.code or 0), told.out, told.err

        yield invoke


def answered(run: Run, *words: object) -> Any:
    """The JSON of a command that succeeds."""
    code, out, err = run(*words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_filters_are_those_of_the_api() -> None:
    assert {*selection.FILTERS, "item_id"} == set(TaskFilter.model_fields)


def test_times_are_local_or_from_now() -> None:
    assert due_s("+90m", now=100.0) == 5500.0
    assert due_s("+1.5h", now=0.0) == 5400.0
    assert due_s("1700000000") == 1.7e9
    assert due_s("2026-03-01T22:00:00+00:00") == 1772402400.0
    assert due_s("2026-03-01T22:00") == datetime(2026, 3, 1, 22).timestamp()
    for wrong in ("tomorrow", "", "nan", "inf", "-5", "1700000000000", "+999999999999d"):
        with pytest.raises(ConfigError, match="is not a time"):
            due_s(wrong)


def test_filter_words() -> None:
    words = ["study=1.2", "state=FAILED,CANCELED", "created_after=5", "error=a=b"]
    assert filters_of(words) == {
        "study_uid": "1.2",
        "state": "FAILED,CANCELED",
        "created_after": "5.0",
        "error": "a=b",
    }
    with pytest.raises(ConfigError) as caught:
        filters_of(["stat=FAILED"])
    assert "state" in caught.value.hint
    # A filter that is dropped would make an order one for every item.
    for words in (["state="], ["state= "], ["created_after="], ["state=FAILED", "state=CANCELED"]):
        with pytest.raises(ConfigError, match=r"state|created_after"):
            filters_of(words)


def test_the_list_says_how_many_match(run: Run, cluster: FakeCluster) -> None:
    cluster.items = [item(number) for number in range(1, 8)]
    cluster.items[2] |= {"state": "FAILED", "error": "no room [on] web1", "note": "n9 is gone"}
    page = answered(run, "queue", "list", "--limit", 2, "--offset", 1)
    assert [one["item_id"] for one in page["items"]] == [6, 5]
    assert page["total"] == 7
    code, out, _ = run("queue", "list", "state=failed", "error=ROOM")
    assert code == 0
    assert "1 to 1 of 1 items" in out
    assert "no room [on] web1; n9 is gone" in out
    assert "none of 0 items" in run("queue", "list", "node=n9")[1]
    code, _, err = run("queue", "list", "state=DONE")
    assert (code, "state: 'DONE' is not one of" in err) == (2, True)
    assert run("queue", "list", "state=,")[0] == 2
    assert run("queue", "list", "created_after=inf")[0] == 2
    code, _, err = run("queue", "list", "stat=FAILED")
    assert (code, "did you mean 'state'" in err) == (2, True)


def test_one_item(run: Run, cluster: FakeCluster) -> None:
    cluster.items = [item(1, "FAILED", error="no room"), item(2, "IN PROCESS")]
    assert "no room" in run("queue", "show", 1)[1]
    assert answered(run, "queue", "show", 1)["state"] == "FAILED"
    assert answered(run, "queue", "reschedule", 1, "--at", "+2h")["changed"] == 1
    assert (cluster.items[0]["state"], cluster.items[0]["wanted_node"]) == ("SCHEDULED", "n1")
    assert cluster.items[0]["due_s"] > 1.7e9
    assert answered(run, "queue", "reschedule", 1, "--to", "n2")["changed"] == 1
    assert (cluster.items[0]["due_s"], cluster.items[0]["wanted_node"]) == (0.0, "n2")
    assert answered(run, "queue", "priority", "stat", 1)["changed"] == 1
    assert cluster.items[0]["priority"] == 30
    assert run("queue", "cancel", 2)[0] == 0
    assert cluster.items[1]["state"] == "CANCELED"
    assert run("queue", "delete", 2)[0] == 0
    assert len(cluster.items) == 1
    assert all(named["who"].startswith("CLI ") for _, _, named in cluster.events)


def test_what_is_refused_has_its_exit_code(run: Run, cluster: FakeCluster) -> None:
    cluster.items = [item(1, "COMPLETED"), item(2), item(3, "IN PROCESS")]
    assert run("queue", "show", 9)[0] == 4
    assert run("queue", "cancel", 9)[0] == 4
    code, _, err = run("queue", "cancel", 1)
    assert (code, "not possible while COMPLETED" in err) == (1, True)
    code, out, err = run("queue", "cancel", 1, 2, 9, "--json")
    assert (code, json.loads(out)["changed"]) == (5, 1)
    assert "not item 9: no work item 9" in err
    code, out, _ = run("queue", "delete", "--all", "--yes", "--json")
    assert (code, json.loads(out)["refused"][0]["item_id"]) == (5, 3)
    assert run("queue", "priority", "urgent", 3)[0] == 2
    assert run("queue", "reschedule", 3, "--at", "soon")[0] == 2


def test_many_are_counted_and_asked_for_first(
    run: Run, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.items = [item(number, "FAILED") for number in range(1, 8)] + [item(8, "COMPLETED")]
    asked: list[str] = []

    def answer(text: str = "") -> str:
        asked.append(text)
        return answers.pop(0)

    answers = ["n", "y"]
    sits_at_it(monkeypatch, answer)
    code, _, err = run("queue", "reschedule", "state=FAILED")
    assert (code, cluster.events) == (1, [])
    assert "Reschedule 7 items?" in err + "".join(asked)
    assert run("queue", "reschedule", "state=FAILED", "--to", "n1", "--to", "n2")[0] == 0
    assert [one["wanted_node"] for one in cluster.items[:3]] == ["n2", "n1", "n2"]
    assert run("queue", "cancel", "state=SCHEDULED", "--yes")[1] == "cancel: 7 of 7 items\n"
    assert run("queue", "cancel", "state=SCHEDULED")[1] == "cancel: 0 of 0 items\n"
    assert run("queue", "cancel")[0] == 2
    assert run("queue", "cancel", 1, "state=FAILED")[0] == 2
    assert run("queue", "cancel", "one")[0] == 2


def test_named_items_are_spread_as_well(run: Run, cluster: FakeCluster) -> None:
    cluster.items = [item(number, "FAILED") for number in (1, 2, 3)]
    assert run("queue", "reschedule", 1, 2, 3, "--to", "n1", "--to", "n2")[0] == 0
    assert [one["wanted_node"] for one in cluster.items] == ["n1", "n2", "n1"]


def test_without_anyone_to_ask_nothing_is_done(
    run: Run, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_: str = "") -> str:
        raise EOFError

    sits_at_it(monkeypatch, nobody)
    cluster.items = [item(1)]
    code, _, err = run("queue", "cancel", "--all")
    assert (code, "--yes" in err, cluster.events) == (2, True, [])


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_without_a_terminal_nobody_is_asked(
    run: Run, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:
    def waits_for_ever(_: str = "") -> str:
        raise AssertionError("read from a pipe")

    monkeypatch.setattr("builtins.input", waits_for_ever)
    cluster.items = [item(1)]
    code, _, err = run("queue", "cancel", "--all", *form)
    assert (code, "--yes" in err, cluster.events) == (2, True, [])
    assert run("queue", "cancel", "--all", "--yes", *form)[0] == 0


def test_an_order_without_its_filter_is_refused(run: Run, cluster: FakeCluster) -> None:
    cluster.items = [item(1)]
    for wrong in ("state=,", "priority=", "state= ", "priority=,low", "error="):
        assert run("queue", "cancel", wrong, "--yes")[0] == 2, wrong
    assert cluster.events == []


def test_work_is_asked_for(run: Run, cluster: FakeCluster) -> None:
    told = answered(run, "queue", "add", "1.2.3", "--kind", "VERIFY", "--priority", "high")
    assert (told["kind"], told["priority"], told["study_uid"]) == ("VERIFY", "high", "1.2.3")
    assert "item 1: VERIFY of 1.2.3" in run("queue", "add", "1.2.3", "--kind", "verify")[1]
    told = answered(run, "queue", "add", "1.2.4", "--kind", "Verify", "--priority", "STAT")
    assert (told["kind"], told["priority"]) == ("VERIFY", "stat")
    assert run("queue", "add", "1.2.5", "--at", "1700000000000")[0] == 2


def test_halt_and_resume(run: Run, cluster: FakeCluster) -> None:
    assert answered(run, "queue", "halt", "prepare")["kinds"]["PREPARE"]["state"] == "halted"
    assert answered(run, "queue", "halt")["state"] == "halted"
    out = run("queue", "state")[1]
    assert "halted by CLI" in out
    assert "PREPARE" in out
    assert answered(run, "queue", "resume")["state"] == "running"
    assert run("queue", "resume", "PREPARE")[0] == 0
    assert cluster.halted == {}


def test_nodes(run: Run, cluster: FakeCluster) -> None:
    cluster.nodes[1] |= {"state": "refused", "problems": ["tier web1 is not reachable"]}
    out = run("node", "list")[1]
    assert "tier web1 is not reachable" in out
    assert len(answered(run, "node", "list")) == 2
    assert answered(run, "node", "show", "n2")["state"] == "refused"
    assert run("node", "show", "n9")[0] == 4
    assert answered(run, "node", "drain", "n1")["state"] == "draining"
    code, _, err = run("node", "drain", "n1", "--wait", "--timeout", 0)
    assert (code, "still draining" in err) == (1, True)
    assert answered(run, "node", "undrain", "n1")["state"] == "live"
    cluster.drain = lambda name, who: cluster.nodes[0].update(state="drained")  # type: ignore[method-assign]
    assert answered(run, "node", "drain", "n1", "--wait")["state"] == "drained"


def test_master(run: Run, cluster: FakeCluster) -> None:
    assert answered(run, "master", "status")["node"] == "n1"
    assert "pid" in run("master", "status")[1]
    told = answered(run, "master", "move")
    assert (told["node"], told["epoch"]) == ("n2", 2)
    assert "node n1 has the master" in run("master", "move", "--to", "n1")[1]
    assert run("master", "move", "--to", "n9")[0] == 4
    cluster.nodes[1]["state"] = "lost"
    assert run("master", "move", "--to", "n2")[0] == 1


def test_a_master_that_does_not_move_is_said(run: Run, cluster: FakeCluster) -> None:
    cluster.move_master = lambda to, who: {"from": "n1", "to": "n2", "epoch": 1}  # type: ignore[method-assign]
    code, _, err = run("master", "move", "--timeout", 0)
    assert (code, "it is on n1" in err) == (1, True)


def test_why(run: Run, cluster: FakeCluster) -> None:
    cluster.stories["1.2"] = [
        {"at_s": 1e9, "event": "received", "text": "received 3 objects, from [CT]", "epoch": 1},
        {"at_s": 1e9 + 5, "event": "leased", "text": "attempt 1 began", "epoch": 1, "item_id": 7},
    ]
    out = run("why", "1.2")[1]
    assert out.index("received 3 objects, from [CT]") < out.index("attempt 1 began")
    local = datetime.fromtimestamp(1e9).astimezone().isoformat(sep=" ", timespec="seconds")
    assert local in out
    told = answered(run, "why", "1.2")
    assert [event["event"] for event in told["events"]] == ["received", "leased"]
    assert run("why", "9")[0] == 4
