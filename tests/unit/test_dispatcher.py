"""The dispatcher without a cluster: what it tells the master, and what it does with the answers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from inline_tasks import LEASE
from started_tasks import Inline

from raypacs import logs
from raypacs.cluster import dispatcher
from raypacs.cluster.dispatcher import Dispatcher
from raypacs.cluster.pool import TaskPool
from raypacs.cluster.rooms import FULL_FOR_S, Rooms
from raypacs.config import Bootstrap, Settings
from raypacs.errors import IndexUnavailable, MasterUnavailable, StaleLease, TierUnavailable
from raypacs.index.ledger import LedgerRow
from raypacs.policy.queue import State
from raypacs.records import Assignment, Lease, Poll, WorkResult

PATIENCE_S = 30.0
Answer = Assignment | Exception


class Master:
    """Answers polls one after the other, then with nothing; notes what it is told."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.polls: list[Poll] = []
        self.reports: list[tuple[Lease, WorkResult]] = []
        self.report_answer: Any = State.COMPLETED
        self.changed = threading.Condition()

    def call(self, event: str, *args: Any) -> Any:
        with self.changed:
            self.changed.notify_all()
            if event == "report_many":
                self.reports += args[0]
                if isinstance(self.report_answer, MasterUnavailable):
                    raise self.report_answer
                return [self.report_answer] * len(args[0])
            assert event == "poll"
            self.polls.append(args[0])
        try:
            answer = self.answers.get_nowait()
        except queue.Empty:
            answer = Assignment(poll_after_s=0.005)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def give(self, *leases: Lease) -> None:
        self.answers.put(Assignment(leases, poll_after_s=0.005))

    def stop(self, *tokens: str) -> None:
        self.answers.put(Assignment(stop=tokens, poll_after_s=0.005))

    def wait(self, condition: Callable[[], Any]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S)


class Work:
    """A kind of work that waits until it is let, or fails; notes its clean-up."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.result: WorkResult | Exception = WorkResult()
        self.cleaned: list[tuple[str, bool]] = []
        self.cleaned_up = threading.Event()
        self.begun: list[str] = []
        self.fails_to_clean = False

    def __call__(self, lease: Lease, site: Any) -> Any:
        def run(tasks: Any) -> WorkResult:
            self.begun.append(lease.token)
            while not self.go.wait(0.005):
                tasks.check()
            if isinstance(self.result, Exception):
                raise self.result
            return self.result

        def clean_up(*, reported: bool) -> None:
            self.cleaned.append((lease.token, reported))
            self.cleaned_up.set()
            if self.fails_to_clean:
                raise TierUnavailable("web1")

        return SimpleNamespace(run=run, clean_up=clean_up)


@pytest.fixture
def master() -> Master:
    return Master()


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def node(
    master: Master, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Dispatcher]:
    monkeypatch.setattr(logs, "setup", lambda *_: None)
    monkeypatch.setattr(dispatcher, "AGAIN_S", 0.001)
    monkeypatch.setattr(dispatcher, "FINISH_S", 0.05)
    monkeypatch.setattr(dispatcher, "RUNS", {"PREPARE": work, "VERIFY": work})
    monkeypatch.setattr(Dispatcher, "_warm_up", lambda self: None)
    monkeypatch.setattr(Dispatcher, "_make_pool", lambda self: TaskPool(Inline(), 4))
    made = Dispatcher(Bootstrap(data_dir=tmp_path, node_name="n1", cores=2).model_dump(), "b1")
    made._master = master  # type: ignore[assignment]
    made._reader = SimpleNamespace(  # type: ignore[assignment]
        settings=lambda: (1, Settings(lease_s=5.0)),
        instances=list,
        unprepared=list,
        packs=dict,
        manifests=list,
        adopted_places=dict,
        containers=list,
        places=dict,
        gone=list,
        archiving_open=bool,
        running_items=int,
    )
    yield made
    made.stop()


@pytest.mark.parametrize(
    "error", [IndexUnavailable("disk full"), dispatcher.RayError("lost"), OSError(28, "")]
)
def test_polling_goes_on(node: Dispatcher, master: Master, error: Exception) -> None:
    master.answers.put(error)
    node.start()
    master.wait(lambda: len(master.polls) > 2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_polling_begins_anew(node: Dispatcher, master: Master) -> None:
    master.answers.put(ZeroDivisionError())
    node.start()
    first = node._thread
    assert first is not None
    first.join(PATIENCE_S)
    assert len(master.polls) == 1
    node.start()
    master.wait(lambda: len(master.polls) > 2)
    assert node._thread is not first


def test_a_poll_tells_who_runs_what_and_how_much_more(
    node: Dispatcher, master: Master, work: Work
) -> None:
    node.start()
    master.wait(lambda: master.polls)
    assert master.polls[0] == Poll("n1", "b1", ("PREPARE", "VERIFY"), (), 2 + 2 + 10)
    master.give(LEASE)
    master.wait(lambda: master.polls[-1].running)
    assert master.polls[-1].running == ((LEASE.item_id, LEASE.token),)
    assert master.polls[-1].free == 2 + 2 + 10 - 1
    work.go.set()
    master.wait(lambda: not master.polls[-1].running)
    assert master.reports == [(LEASE, WorkResult())]
    assert work.cleaned_up.wait(PATIENCE_S)
    assert work.cleaned == [(LEASE.token, True)]


def test_an_item_is_named_until_its_report_is_answered(
    node: Dispatcher, master: Master, work: Work
) -> None:
    work.go.set()
    answered = threading.Event()
    call = master.call

    def slow(event: str, *args: Any) -> Any:
        if event == "report_many":
            assert answered.wait(PATIENCE_S)
        return call(event, *args)

    master.call = slow  # type: ignore[method-assign]
    master.give(LEASE)
    master.stop(LEASE.token)  # the master ended the item between report and poll: no matter
    node.start()
    master.wait(lambda: len(master.polls) > 5 and master.polls[-1].running)
    assert work.cleaned == []
    answered.set()
    master.wait(lambda: not master.polls[-1].running)
    assert work.cleaned_up.wait(PATIENCE_S)
    assert work.cleaned == [(LEASE.token, True)]


def test_what_is_to_stop_ends_cleans_up_and_reports_nothing(
    node: Dispatcher, master: Master, work: Work
) -> None:
    other = replace(LEASE, item_id=2, token="f" * 16)
    master.give(LEASE, other)
    node.start()
    master.wait(lambda: len(master.polls[-1].running) == 2)
    master.stop(LEASE.token, "0" * 16)
    master.wait(lambda: len(master.polls[-1].running) == 1)
    assert master.polls[-1].running == ((2, other.token),)
    assert work.cleaned == [(LEASE.token, False)]
    assert master.reports == []


def test_work_that_cannot_be_renewed_ends(
    node: Dispatcher, master: Master, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    node._reader.settings = lambda: (1, Settings().model_copy(update={"lease_s": 0.3}))
    master.give(LEASE)
    node.start()  # no answer renews it
    assert work.cleaned_up.wait(PATIENCE_S)
    assert work.cleaned == [(LEASE.token, False)]
    assert master.reports == []


def test_renewed_work_goes_on(node: Dispatcher, master: Master, work: Work) -> None:
    lease_s = 2.0
    node._reader.settings = lambda: (1, Settings().model_copy(update={"lease_s": lease_s}))
    master.give(LEASE)
    call, begun_s = master.call, time.monotonic()

    def renewing(event: str, *args: Any) -> Any:
        answer = call(event, *args)
        if event == "poll":
            expires_at_s = LEASE.expires_at_s + time.monotonic() - begun_s
            renewed = tuple((token, expires_at_s, 10) for _, token in args[0].running)
            return replace(answer, renewed=renewed)
        return answer

    master.call = renewing  # type: ignore[method-assign]
    node.start()
    master.wait(lambda: time.monotonic() > begun_s + 1.5 * lease_s)
    work.go.set()
    master.wait(lambda: master.reports)
    assert master.reports == [(LEASE, WorkResult())]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TierUnavailable("image1"), WorkResult(error="waits for a tier: image1", waits=True)),
        (ZeroDivisionError("by 0"), WorkResult(error="ZeroDivisionError: by 0")),
    ],
)
def test_an_attempt_that_breaks_off_is_reported(
    node: Dispatcher, master: Master, work: Work, error: Exception, told: WorkResult
) -> None:
    work.result, work.fails_to_clean = error, True
    work.go.set()
    master.give(LEASE)
    node.start()
    master.wait(lambda: master.reports and not master.polls[-1].running)
    assert master.reports == [(LEASE, told)]
    assert work.cleaned_up.wait(PATIENCE_S)
    assert work.cleaned == [(LEASE.token, True)]


def test_a_stale_report_counts_for_nothing(node: Dispatcher, master: Master, work: Work) -> None:
    master.report_answer = StaleLease("given to another")
    work.go.set()
    master.give(LEASE)
    node.start()
    assert work.cleaned_up.wait(PATIENCE_S)
    assert work.cleaned == [(LEASE.token, False)]


def test_where_nobody_knows_if_a_report_counts_nothing_is_removed(
    node: Dispatcher, master: Master, work: Work
) -> None:
    master.report_answer = MasterUnavailable("away")
    work.go.set()
    master.give(LEASE)
    node.start()
    master.wait(lambda: master.reports and not master.polls[-1].running)
    assert work.cleaned == []


def test_going_down_takes_nothing_new_and_ends_what_does_not_finish(
    node: Dispatcher, master: Master, work: Work
) -> None:
    master.give(LEASE)
    node.start()
    master.wait(lambda: master.polls[-1].running)
    assert node.stop() == 0
    assert master.polls[-1].free == 0
    assert work.cleaned == [(LEASE.token, False)]
    assert node._thread is not None
    node._thread.join(PATIENCE_S)
    assert not node._thread.is_alive()


def test_going_down_lets_what_ends_soon_finish(
    node: Dispatcher, master: Master, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "FINISH_S", PATIENCE_S)
    master.give(LEASE)
    node.start()
    master.wait(lambda: master.polls[-1].running)
    threading.Timer(0.05, work.go.set).start()
    assert node.stop() == 0
    assert master.reports == [(LEASE, WorkResult())]


def test_a_tier_that_refused_is_passed_over_for_a_while() -> None:
    now = [0.0]
    rows = {
        "web1": LedgerRow("web1", 90, 0, 100, True, 0.0),
        "web2": LedgerRow("web2", 0, 0, 100, True, 0.0),
        "web3": LedgerRow("web3", 0, 0, 100, False, 0.0),
    }
    rooms = Rooms(lambda: rows, clock=lambda: now[0])
    assert rooms.available_bytes() == {"web1": 10, "web2": 100}
    rooms.refused("web1")
    assert rooms.available_bytes() == {"web2": 100}
    now[0] = FULL_FOR_S
    assert rooms.available_bytes() == {"web1": 10, "web2": 100}
