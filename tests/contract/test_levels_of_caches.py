"""The master's duty about levels: judged, kept, forecast, scored; alarms told once."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from raypacs.alarms import Notice, Notifier
from raypacs.config import AlarmSettings, Settings, TierSettings
from raypacs.errors import NotFound
from raypacs.index import ledger
from raypacs.index.autopilot_schema import copy_totals, forecasts
from raypacs.index.engine import insert
from raypacs.index.schema import hourly_intake, outbox, work_items
from raypacs.master import Master
from raypacs.policy.levels import Level
from tests.real_site import T

MIB = 1 << 20
HOUR = 3600


class Caches:
    """A master alone, with a filled history; its time stands still until told."""

    def __init__(self, folder: Path, url: str, **settings: Any) -> None:
        self.folder, self.url, self.now = folder, url, float(T // HOUR * HOUR)
        self.settings = Settings(
            tiers=(
                TierSettings(
                    name="image1",
                    role="image",
                    url=(folder / "image").as_uri(),
                    capacity_bytes=1000 * MIB,
                ),
                TierSettings(
                    name="web1",
                    role="web",
                    url=(folder / "web").as_uri(),
                    capacity_bytes=1000 * MIB,
                ),
                TierSettings(name="lib", role="library", url=(folder / "lib").as_uri()),
            ),
            **settings,
        )
        self.start()
        self.master.apply_settings(self.settings, "test")

    def start(self) -> None:
        self.master = Master(self.url, self.folder, clock=lambda: self.now, chance=lambda: 1.0)
        self.reader, self.writer = self.master._reader, self.master._writer

    def fill(self, tier: str, hours: int, size: int, studies: int = 2) -> None:
        """Take in ``size`` in each of the last hours."""
        begin = int(self.now) // HOUR * HOUR - hours * HOUR
        rows = [
            {
                "tier": tier,
                "hour_s": begin + HOUR * hour,
                "studies": studies,
                "objects": 10 * studies,
                "size_bytes": size,
                "moved_bytes": size // 10,
            }
            for hour in range(hours)
        ]
        with self.writer.transaction(self.now) as txn:
            txn.conn.execute(insert(txn.conn, hourly_intake), rows)

    def use(self, tier: str, size: int) -> None:
        with self.writer.transaction(self.now) as txn:
            ledger.commit(txn, {tier: size})

    def hold(self, tier: str, hold: str, size: int) -> None:
        with self.writer.transaction(self.now) as txn:
            where = (copy_totals.c.tier == tier, copy_totals.c.hold == hold)
            txn.conn.execute(sa.delete(copy_totals).where(*where))
            values = {"tier": tier, "hold": hold, "copies": 1, "size_bytes": size}
            txn.conn.execute(insert(txn.conn, copy_totals).values(values))

    def item(self, state: str, finished_s: float = 0.0) -> None:
        """Have an ARCHIVE item of this time, in place of others."""
        values = {"item_id": "1", "kind": "ARCHIVE", "study_uid": "1.2", "state": state}
        with self.writer.transaction(self.now) as txn:
            txn.conn.execute(sa.delete(work_items))
            row = values | {"created_s": self.now, "finished_s": finished_s}
            txn.conn.execute(insert(txn.conn, work_items).values(row))

    def judge(self, seconds: float = 61) -> None:
        """Let time go by, and every cache be judged."""
        self.now += seconds
        for _ in range(4):
            self.master._forecast_due(self.now)
            self.now += 0.5


@pytest.fixture
def caches(tmp_path: Path, database_url: str) -> Iterator[Caches]:
    site = Caches(tmp_path, database_url)
    yield site
    site.master.close()


def test_each_cache_has_a_level_with_what_it_rests_on(caches: Caches) -> None:
    caches.fill("image1", 21 * 24, 10 * MIB)
    caches.use("image1", 505 * MIB)
    caches.hold("image1", "unarchived", 200 * MIB)
    caches.hold("image1", "pinned", 50 * MIB)
    caches.judge()
    rows = caches.reader.levels()
    assert set(rows) == {"image1", "web1"}
    image = rows["image1"]
    assert image.level is Level.AMBER
    # 495 MiB left at 11 MiB an hour (a tenth of it moved here).
    assert image.detail["method"] == "seasonal"
    assert image.detail["hours_p50"] == pytest.approx(45, abs=1)
    assert image.detail["amber_bytes"] == pytest.approx(48 * 11 * MIB, rel=0.01)
    assert image.detail["need_bytes"] == pytest.approx((52.8 * 11 - 495) * MIB, rel=0.03)
    assert image.detail["need_bytes_red"] == 0
    assert image.detail["evictable_hours"] == pytest.approx(750 / 11, rel=0.02)
    assert rows["web1"].level is Level.GREEN
    assert rows["web1"].detail["hours_p50"] is None
    told = {tier["name"]: tier for tier in caches.reader.status(caches.now)["tiers"]}
    assert told["image1"]["level"] == "amber"
    assert told["image1"]["hours_p50"] == pytest.approx(45, abs=1)
    assert told["lib"]["level"] == ""
    since_s = image.since_s
    caches.judge()
    assert caches.reader.levels()["image1"].since_s == since_s


def test_a_level_is_left_with_hysteresis_and_survives_the_master(caches: Caches) -> None:
    caches.fill("image1", 21 * 24, 10 * MIB)
    caches.use("image1", 505 * MIB)
    caches.judge()
    caches.use("image1", -60 * MIB)  # about 50 hours are left
    caches.master.close()
    caches.start()
    caches.judge()
    assert caches.reader.levels()["image1"].level is Level.AMBER
    caches.use("image1", -60 * MIB)
    caches.judge()
    assert caches.reader.levels()["image1"].level is Level.GREEN
    assert caches.reader.levels()["image1"].detail["need_bytes"] == 0


def test_a_forecast_an_hour_is_kept_and_compared_with_what_came(caches: Caches) -> None:
    caches.fill("image1", 21 * 24, 10 * MIB)
    caches.judge()
    caches.judge()
    with caches.master._engine.connect() as conn:
        kept = conn.execute(sa.select(forecasts).where(forecasts.c.tier == "image1")).all()
    assert len(kept) == 1
    # 50 hours with twice as much.
    begin = caches.now
    caches.now += 50 * HOUR
    caches.fill("image1", 50, 20 * MIB)
    caches.judge()
    told = caches.reader.cache("image1", caches.now)
    assert [bool(one["error"]) for one in told["forecasts"]] == [False, True]
    error = told["forecasts"][1]["error"]
    assert error["4"]["error"] == pytest.approx(-0.5, abs=0.03)
    assert error["48"]["came_bytes"] == pytest.approx(48 * 22 * MIB, rel=0.01)
    assert told["errors"]["48"]["forecasts"] == 1
    with caches.master._engine.connect() as conn:
        rows = conn.execute(sa.select(outbox).where(outbox.c.stream == "forecasts")).all()
    (published,) = [row.payload for row in rows if row.payload["tier"] == "image1"]
    assert published["bytes_12h"] == pytest.approx(12 * 11 * MIB, rel=0.02)
    assert published["error_12h"] == pytest.approx(-0.5, abs=0.03)
    assert published["at"] == pytest.approx(begin, abs=130)
    caches.judge()
    assert caches.writer.score_forecasts("image1", caches.now) == 0
    history = caches.reader.cache_history("image1", caches.now, 10)
    assert len(history["intake"]) == 10
    with pytest.raises(NotFound):
        caches.reader.cache("none", caches.now)


def test_too_little_history_is_said(caches: Caches) -> None:
    caches.fill("image1", 48, 10 * MIB)
    caches.judge()
    detail = caches.reader.levels()["image1"].detail
    assert detail["method"] == "plain"
    assert "days of history" in detail["why"]
    assert detail["hours_p50"] == pytest.approx(1000 / 11, rel=0.05)
    assert detail["hours_p10"] is None


def test_rates_over_day_and_night(caches: Caches) -> None:
    caches.fill("image1", 7 * 24, 10 * MIB)
    told = {one["name"]: one for one in caches.reader.caches(caches.now)}
    rates = told["image1"]["rates"]
    for when in ("all", "day", "night"):
        assert rates[when]["studies_per_hour"] == pytest.approx(2, rel=0.05)
        assert rates[when]["objects_per_study"] == 10
        assert rates[when]["bytes_per_hour"] == pytest.approx(11 * MIB, rel=0.05)
    assert told["web1"]["rates"]["all"] is None


def test_the_level_of_a_tier_that_is_gone_goes(caches: Caches) -> None:
    caches.judge()
    caches.settings = caches.settings.model_copy(update={"tiers": caches.settings.tiers[:1]})
    caches.master.apply_settings(caches.settings, "test")
    caches.judge()
    assert set(caches.reader.levels()) == {"image1"}


def keys(caches: Caches) -> set[str]:
    return {row.key for row in caches.reader.alarms() if not row.is_over}


def test_a_red_cache_is_one_alarm_until_it_is_red_no_more(caches: Caches) -> None:
    caches.use("image1", 999 * MIB)
    caches.judge()
    assert caches.reader.levels()["image1"].level is Level.RED
    (row,) = caches.reader.alarms()
    assert row.key == "red image1"
    assert "full" in row.text
    caches.master.close()
    caches.start()
    caches.judge()
    assert [one.since_s for one in caches.reader.alarms()] == [row.since_s]
    caches.use("image1", -900 * MIB)
    caches.judge()
    assert keys(caches) == set()


def test_an_alarm_when_soon_nothing_is_left_that_may_be_evicted(caches: Caches) -> None:
    caches.fill("image1", 21 * 24, 10 * MIB)
    caches.hold("image1", "unarchived", 700 * MIB)
    caches.judge()
    assert keys(caches) == {"evictable image1"}
    caches.hold("image1", "unarchived", 100 * MIB)
    caches.judge()
    assert keys(caches) == set()


def test_an_alarm_when_archiving_stands_still(caches: Caches) -> None:
    caches.now = caches.now // 86400 * 86400 + 18 * HOUR  # the window opens in two hours
    caches.hold("image1", "unarchived", 100 * MIB)
    caches.judge()
    caches.now += 2 * HOUR
    caches.item("SCHEDULED")
    caches.now += 2 * HOUR
    caches.judge()
    assert keys(caches) == set()
    caches.now += 2 * HOUR
    caches.judge()
    assert keys(caches) == {"archiving"}
    caches.hold("lib", "library", 10 * MIB)
    caches.judge()
    assert keys(caches) == set()


def test_a_quiet_night_is_no_alarm_though_settings_keep_studies_back(caches: Caches) -> None:
    caches.now = caches.now // 86400 * 86400 + 20 * HOUR
    caches.hold("image1", "unarchived", 100 * MIB)
    caches.judge()
    caches.now += 5 * HOUR
    caches.judge()
    assert keys(caches) == set()
    caches.item("SCHEDULED")  # one that has just become due is no trouble yet
    caches.judge()
    assert keys(caches) == set()
    caches.item("FAILED", caches.now)
    caches.judge()
    assert keys(caches) == {"archiving"}


def test_no_library_in_reach_is_reason_enough_for_that_alarm(caches: Caches) -> None:
    caches.now = caches.now // 86400 * 86400 + 20 * HOUR
    caches.hold("image1", "unarchived", 100 * MIB)
    caches.judge()
    caches.writer.tiers_seen([ledger.TierSeen("lib", 0, reachable=False)], caches.now)
    caches.now += 5 * HOUR
    caches.judge()
    assert keys(caches) == {"archiving"}


def test_a_tier_that_was_never_reached_has_no_level(caches: Caches) -> None:
    with caches.writer.transaction(caches.now) as txn:
        txn.conn.execute(sa.delete(ledger.ledger).where(ledger.ledger.c.tier == "image1"))
    lost = ledger.TierSeen("image1", 0, reachable=False)
    caches.writer.tiers_seen([lost], caches.now)
    caches.judge()
    assert set(caches.reader.levels()) == {"web1"}
    assert keys(caches) == set()
    caches.writer.tiers_seen([ledger.TierSeen("image1", 1000 * MIB, reachable=True)], caches.now)
    caches.judge()
    caches.writer.tiers_seen([lost], caches.now)
    caches.judge()
    assert caches.reader.levels()["image1"].level is Level.GREEN


def test_fresh_studies_are_no_reason_for_that_alarm(caches: Caches) -> None:
    caches.now = caches.now // 86400 * 86400 + 20 * HOUR
    caches.judge()
    caches.now += 4 * HOUR
    caches.fill("image1", 3, 10 * MIB)
    caches.hold("image1", "unarchived", 20 * MIB)
    caches.judge()
    caches.judge()
    assert keys(caches) == set()


# Told


class Receiver:
    """An HTTP server and a mail server that keep what they are told; each may refuse at first."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, Any], str]] = []
        self.mails: list[str] = []
        self.refusing = 0
        outer = self

        class Http(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.refusing:
                    outer.refusing -= 1
                    self.send_error(503)
                    return
                outer.posts.append((json.loads(body), self.headers.get("Authorization", "")))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Mail(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 here\r\n")
                while line := self.rfile.readline().decode():
                    word = line[:4].upper()
                    if word == "DATA":
                        self.wfile.write(b"354 go on\r\n")
                        text = b""
                        while (part := self.rfile.readline()) != b".\r\n":
                            text += part
                        outer.mails.append(text.decode())
                    self.wfile.write(b"250 fine\r\n" if word != "QUIT" else b"221 bye\r\n")
                    if word == "QUIT":
                        return

        self.http = HTTPServer(("127.0.0.1", 0), Http)
        self.smtp = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail)
        self.threads = [
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            for server in (self.http, self.smtp)
        ]
        for thread in self.threads:
            thread.start()

    @property
    def settings(self) -> AlarmSettings:
        return AlarmSettings(
            webhook_url=f"http://127.0.0.1:{self.http.server_port}/hook",
            mail_to=("pacs@example.org",),
            mail_from="raypacs@example.org",
            smtp_host="127.0.0.1",
            smtp_port=self.smtp.server_address[1],
        )

    def close(self) -> None:
        for server in (self.http, self.smtp):
            server.shutdown()
            server.server_close()
        for thread in self.threads:
            thread.join(5)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


def until(true: Callable[[], object]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_alarms_go_out_once_by_webhook_and_mail_and_so_does_their_end(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("abc\n")
    monkeypatch.setenv("RAYPACS_WEBHOOK_TOKEN_FILE", str(token))
    site = Caches(tmp_path, f"sqlite:///{tmp_path / 'index.sqlite'}", alarms=receiver.settings)
    try:
        site.use("image1", 999 * MIB)
        site.judge()
        site.judge()  # the round that hands it over
        until(lambda: receiver.posts and receiver.mails)
        site.master.close()
        site.start()
        site.judge()
        site.judge()
        site.use("image1", -900 * MIB)
        site.judge()
        site.judge()
        until(lambda: len(receiver.posts) >= 2 and len(receiver.mails) >= 2)
        site.judge()
    finally:
        site.master.close()
    assert [(told["event"], told["key"]) for told, _ in receiver.posts] in (
        [("alarm", "red image1"), ("over", "red image1")],
        # The first master ended before it noted that it had told.
        [("alarm", "red image1"), ("alarm", "red image1"), ("over", "red image1")],
    )
    assert receiver.posts[0][1] == "Bearer abc"
    assert "Subject: raypacs: cache image1 is red" in receiver.mails[0]


def test_what_is_refused_is_told_again_and_each_way_once(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.refusing = 2
    notifier = Notifier(lambda: receiver.settings, first_retry_s=0.01, last_retry_s=0.02)
    notice = Notice("red a", "alarm", "a", "cache a is red", 1.0, 2.0)
    notifier.tell(notice)
    notifier.tell(notice)
    told: list[Notice] = []
    until(lambda: told.extend(notifier.told()) or told)
    notifier.close()
    assert told == [notice]
    assert len(receiver.posts) == 1
    assert len(receiver.mails) == 1
    assert "could not be told by webhook: HTTP 503" in caplog.text


def test_closing_ends_retries() -> None:
    unreachable = AlarmSettings(webhook_url="http://127.0.0.1:9/")
    notifier = Notifier(lambda: unreachable, first_retry_s=60)
    notifier.tell(Notice("red a", "alarm", "a", "", 1.0, 2.0))
    notifier.close()
    assert notifier.told() == []


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"webhook_url": "ftp://host/"}, "http or https"),
        ({"webhook_url": "https://me:secret@host/"}, "RAYPACS_WEBHOOK_TOKEN"),
        ({"mail_to": ["nobody"]}, "not a mail address"),
        ({"smtp_user": "me"}, "smtp_security"),
    ],
)
def test_settings_that_would_leak_or_cannot_work_are_refused(
    wrong: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        AlarmSettings(**wrong)
    assert "secret@" not in str(caught.value)
