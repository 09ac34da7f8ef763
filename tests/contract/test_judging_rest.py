"""Status, sources, rules and erasures over REST and the command line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypacs.cli.app import main
from raypacs.config import ArrivalRule, SourceSettings
from tests.contract.test_judging import applied, image, sent, ticked
from tests.real_site import RealSite

STUDY, OTHER = "1.2.3", "1.2.4"
RULES = (
    ArrivalRule(name="chest", when={"StudyDescription": "chest*"}, keep_days=7),
    ArrivalRule(name="rest", when={"Modality": "OT"}, delete_after_days=300, last=True),
    ArrivalRule(name="never", priority="low"),
)
SOURCE = SourceSettings(name="scanner", ae_titles=("CT*",), addresses=("10.2.0.0/16",))


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[RealSite]:
    site = RealSite(tmp_path / "site", sqlite_url)
    applied(site, rules=RULES, sources=(SOURCE,))
    sent(site, image(), image(1, OTHER, StudyDescription="chest CT"))
    ticked(site)
    yield site
    site.close()


def run(capsys: pytest.CaptureFixture[str], web: Any, *words: object) -> tuple[int, Any, str]:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words), "--json", "--url", str(web.base_url)])
    told = capsys.readouterr()
    return int(ended.value.code or 0), json.loads(told.out) if told.out else None, told.err


def test_status(site: RealSite, capsys: pytest.CaptureFixture[str]) -> None:
    with site.served() as web:
        url = f"/api/v1/studies/{STUDY}/status"
        assert web.get(url).json()["status"] == "new"
        answer = web.post(url, json={"status": "dictated"}, headers={"X-Raypacs-Source": "ann"})
        assert answer.json()["status"] == "dictated"
        assert web.post(url, json={"status": "aproved"}).status_code == 400
        assert "did you mean 'approved'" in web.post(url, json={"status": "aproved"}).text
        assert web.post(url, json={}).status_code == 400
        assert web.get("/api/v1/studies/9.9/status").status_code == 404
        code, told, _ = run(
            capsys, web, "study", "status", STUDY, "--set", "approved", "--exported"
        )
        assert (code, told["status"], told["exported"]) == (0, "approved", True)
        assert run(capsys, web, "study", "status", "9.9")[0] == 4
        rows = run(capsys, web, "study", "list", "--status", "approved", "--exported")[1]
        assert [row["study_uid"] for row in rows] == [STUDY]
        assert len(web.get("/api/v1/statuses").json()) == 2
        study = web.get(f"/api/v1/studies/{STUDY}").json()["study"]
        assert (study["status"], study["exported"]) == ("approved", True)


def test_sources(site: RealSite, capsys: pytest.CaptureFixture[str]) -> None:
    with site.served() as web:
        _, rows, _ = run(capsys, web, "source", "list")
        assert [(row["source"], row["objects"], row["settings"]) for row in rows] == [
            ("CT1", 2, ["scanner"])
        ]


def test_rules_of_studies_and_files(
    site: RealSite, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "one.dcm").write_bytes(image(1, "1.2.9", StudyDescription="chest"))
    with site.served() as web:
        code, told, _ = run(capsys, web, "rules", "test", OTHER)
        assert code == 0
        (study,) = told["studies"]
        assert [one["matches"] for one in study["rules"]] == [True, True, False]
        assert [one["asked"] for one in study["rules"]] == [True, True, False]
        assert study["senders"][0]["settings"] == "scanner"
        assert study["decided"]["keep_until_s"]["by"] == "rule chest"
        words = ("rules", "test", tmp_path / "one.dcm", "--source", "MR1")
        code, told, _ = run(capsys, web, *words)
        (study,) = told["studies"]
        assert study["rules"][0]["decides"] == ["keep_days"]
        assert study["senders"][0]["settings"] == ""
        bad = {"rules": [{"name": "x", "when": {"Modlity": "CT"}, "priority": "low"}]}
        answer = web.post("/api/v1/rules/arrival", json=bad)
        assert answer.status_code == 422
        assert "did you mean 'Modality'" in answer.json()["detail"]


def test_erase(site: RealSite, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with site.served() as web:
        shown = web.post("/api/v1/erasures", json={"what": "study", "subject": STUDY})
        assert shown.json()["erasure_id"] == 0
        assert shown.json()["studies"][0]["instances"] == 1
        order = {"what": "study", "subject": STUDY, "confirm": "1.2"}
        assert web.post("/api/v1/erasures", json=order).status_code == 400
        assert web.post("/api/v1/erasures", json={**order, "subject": "9.9"}).status_code == 404
        assert web.get("/api/v1/erasures").json() == []
        code, told, _ = run(capsys, web, "erase", "study", STUDY, "--yes", "--no-wait")
        assert (code, told["state"]) == (0, "deleting")
        assert "subject" not in told
        stop = threading.Event()

        def tick() -> None:
            while not stop.wait(0.02):
                site.now += 11
                site.master.tick()

        ticking = threading.Thread(target=tick)
        ticking.start()
        try:
            kept = tmp_path / "proof.json"
            code, told, _ = run(capsys, web, "erase", "study", STUDY, "--yes", "--report", kept)
        finally:
            stop.set()
            ticking.join()
        assert (code, told["state"]) == (0, "done")
        assert json.loads(kept.read_text())["signature"] == told["report"]["signature"]
        assert run(capsys, web, "erase", "study", STUDY)[0] == 4
        assert web.get(f"/api/v1/studies/{STUDY}").status_code == 404
        assert len(run(capsys, web, "erase", "list")[1]) == 1
        assert run(capsys, web, "erase", "show", "9")[0] == 4
