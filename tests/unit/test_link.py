"""The link of an edge process: answers, errors of every kind, and the end of the other side."""

from __future__ import annotations

import os
import socket
import threading
from multiprocessing import Pipe

import pytest

from raypacs.errors import MasterUnavailable, NotFound, RaypacsError
from raypacs.link import Caller, serve


def divide(a: int, b: int) -> float:
    return a / b


def missing(uid: str) -> None:
    raise NotFound(f"no study {uid}", study_uid=uid)


@pytest.fixture
def caller():
    before = set(threading.enumerate())
    ours, theirs = Pipe()
    serve(theirs, {"divide": divide, "missing": missing, "hang": threading.Event().wait})
    lost = threading.Event()
    yield Caller(ours, on_lost=lost.set)
    # Both readers must have gone before the number of a pipe is another test's: they would take
    # what comes there.
    with socket.socket(fileno=os.dup(ours.fileno())) as both:
        both.shutdown(socket.SHUT_RDWR)
    assert lost.wait(10)
    for thread in set(threading.enumerate()) - before:
        thread.join(1)  # but for what hangs on purpose
    theirs.close()
    ours.close()


def test_answers(caller: Caller) -> None:
    assert caller.call("divide", 6, 3) == 2


def test_named_arguments_travel_as_such(caller: Caller) -> None:
    assert caller.call("divide", 6, b=3) == 2
    assert caller.call("divide", timeout_s=5.0, b=6, a=3) == 0.5


def test_errors_travel_with_their_fields(caller: Caller) -> None:
    with pytest.raises(NotFound, match=r"no study 1\.2") as caught:
        caller.call("missing", "1.2")
    assert caught.value.fields == {"study_uid": "1.2"}


def test_an_error_nobody_foresaw_is_an_answer_too(caller: Caller) -> None:
    with pytest.raises(RaypacsError, match="divide: ZeroDivisionError"):
        caller.call("divide", 1, 0, timeout_s=5)
    with pytest.raises(RaypacsError, match="no method 'nothing'"):
        caller.call("nothing", timeout_s=5)


def test_no_answer_in_time(caller: Caller) -> None:
    with pytest.raises(MasterUnavailable):
        caller.call("hang", 1, timeout_s=0.05)


def test_calls_of_many_threads_do_not_mix(caller: Caller) -> None:
    answers: dict[int, float] = {}
    threads = [
        threading.Thread(target=lambda n=n: answers.update({n: caller.call("divide", n, 1)}))
        for n in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: n for n in range(50)}


def test_the_end_of_the_other_side_is_noticed() -> None:
    ours, theirs = Pipe()
    lost = threading.Event()
    Caller(ours, on_lost=lost.set)
    theirs.close()
    assert lost.wait(5)
