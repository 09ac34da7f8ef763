"""The HTTP client: pages, patience with a restarting master, and errors as the node named them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from raypacs.client import Client, find_url, studies
from raypacs.config import Bootstrap
from raypacs.errors import ConfigError, MasterUnavailable, NodeNotRunning, NotFound, RequestRefused


def _client(answer: Callable[[httpx.Request], httpx.Response], patience_s: float = 1.0) -> Client:
    return Client("http://node", patience_s=patience_s, transport=httpx.MockTransport(answer))


def _problem(status: int, **told: object) -> httpx.Response:
    return httpx.Response(status, json={"status": status, **told})


def test_studies_are_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "PAGE", 2)
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.params["offset"])
        assert request.url.params["ModalitiesInStudy"] == "CT"
        offset = int(request.url.params["offset"])
        rows = [{"StudyInstanceUID": str(n)} for n in range(offset, min(offset + 2, 5))]
        return httpx.Response(200, json=rows)

    rows = list(_client(answer).studies({"ModalitiesInStudy": "CT"}))
    assert [row["StudyInstanceUID"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert seen == ["0", "2", "4"]


@pytest.mark.parametrize(
    ("response", "error", "hint"),
    [
        (_problem(404, detail="no study 1.2", kind="NotFound", hint="look"), NotFound, "look"),
        (_problem(422, detail="bad", kind="ConfigError"), ConfigError, ""),
        (_problem(409, detail="changed"), RequestRefused, ""),
        (_problem(400, detail="no", kind="os"), RequestRefused, ""),
        (httpx.Response(404, text="<html>"), NotFound, ""),
        (httpx.Response(500, json=["?"]), RequestRefused, ""),
    ],
)
def test_errors_are_those_the_node_named(
    response: httpx.Response, error: type[Exception], hint: str
) -> None:
    with pytest.raises(error) as caught:
        _client(lambda _: response).study("1.2")
    assert getattr(caught.value, "hint", "") == hint


def test_a_master_that_comes_back_is_waited_for() -> None:
    answers = [
        httpx.Response(503, headers={"Retry-After": "0"}),
        httpx.Response(200, json={"version": 3, "settings": {"quiet_s": 5}}),
    ]
    assert _client(lambda _: answers.pop(0)).settings() == (3, {"quiet_s": 5})


def test_patience_ends() -> None:
    with pytest.raises(MasterUnavailable, match="away"):
        _client(lambda _: _problem(503, detail="away"), patience_s=0).status()


def test_no_answer_at_all_is_a_node_that_does_not_run() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(NodeNotRunning, match="http://node"):
        _client(refuse).status()


def test_ingest_sends_the_file_with_its_length_and_source() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Content-Length"] == "6"
        assert request.headers["X-Raypacs-Source"] == "CLI"
        assert "Transfer-Encoding" not in request.headers
        assert request.read() == b"abcdef"
        return httpx.Response(200, json={"objects": [{"outcome": "stored"}]})

    told = _client(answer).ingest(iter([b"abc", b"def"]), size_bytes=6, source="CLI")
    assert told == {"outcome": "stored"}


def test_complete_sends_each_study_once_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "PAGE", 2)
    sent: list[list[str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content)["study_uids"])
        return httpx.Response(202, json={})

    _client(answer).complete({"3", "1", "2"})
    assert sent == [["1", "2"], ["3"]]


def test_settings_are_applied_with_or_without_a_version() -> None:
    bodies: list[object] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json={"version": 8})

    assert _client(answer).apply_settings({"quiet_s": 1}) == 8
    assert _client(answer).apply_settings({"quiet_s": 1}, 7) == 8
    assert bodies == [{"quiet_s": 1}, {"version": 7, "settings": {"quiet_s": 1}}]


def test_a_download_is_streamed_and_a_missing_instance_says_so() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert "transfer-syntax=*" in request.headers["Accept"]
        if request.url.path.endswith("/instances/3"):
            return httpx.Response(200, content=b"DICM" * 10)
        return _problem(404, detail="no instance 4")

    client = _client(answer)
    assert b"".join(client.download("1", "2", "3")) == b"DICM" * 10
    with pytest.raises(NotFound, match="no instance 4"):
        list(client.download("1", "2", "4"))


def test_where_the_url_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap = Bootstrap(data_dir=tmp_path)
    monkeypatch.delenv("RAYPACS_URL", raising=False)
    with pytest.raises(NodeNotRunning, match="no node runs"):
        find_url(bootstrap)
    monkeypatch.setenv("RAYPACS_URL", "http://one:1/")
    assert find_url(bootstrap) == "http://one:1"
    assert find_url(bootstrap, "http://two:2") == "http://two:2"


def test_a_uid_is_one_part_of_the_path() -> None:
    paths: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return httpx.Response(200, json={"events": []})

    client = _client(answer)
    client.why("1.2/3?x=1")
    client.study("../status")
    client.delete_study("1.2#3")
    assert paths == [
        b"/api/v1/studies/1.2%2F3%3Fx%3D1/why",
        b"/api/v1/studies/..%2Fstatus",
        b"/api/v1/studies/1.2%233",
    ]
