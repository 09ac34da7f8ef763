"""Alarms to people: by webhook (JSON, POST) and by mail (SMTP), from a thread of their own.

What cannot be told now is tried again, later and later, and stands in the log; nothing waits for
it. Secrets come from the environment, or from files that it names, never from settings.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import smtplib
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from pathlib import Path

from raypacs.config import AlarmSettings

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
FIRST_RETRY_S = 5.0
LAST_RETRY_S = 900.0
WEBHOOK_TOKEN = "RAYPACS_WEBHOOK_TOKEN"
SMTP_PASSWORD = "RAYPACS_SMTP_PASSWORD"


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell. ``event``: 'alarm', or 'over'; ``tier`` '' the whole cluster."""

    key: str
    event: str
    tier: str
    text: str
    since_s: float
    at_s: float
    node: str = ""


class Notifier:
    """Tells notices in order, each by all ways there are, until each way took it.

    Where nobody is to be told, a notice is told at once: it stands in the log. Thread-safe.
    """

    def __init__(
        self,
        settings: Callable[[], AlarmSettings],
        *,
        first_retry_s: float = FIRST_RETRY_S,
        last_retry_s: float = LAST_RETRY_S,
    ) -> None:
        self._settings = settings
        self._retry_s = (first_retry_s, last_retry_s)
        self._waiting: queue.SimpleQueue[Notice | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Notice] = queue.SimpleQueue()
        self._known: set[tuple[str, str, float]] = set()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def tell(self, notice: Notice) -> None:
        """Tell soon; one that waits already is not told twice."""
        if _mark(notice) in self._known or self._closing.is_set():
            return
        self._known.add(_mark(notice))
        self._waiting.put(notice)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="alarms", daemon=True)
            self._thread.start()

    def told(self) -> list[Notice]:
        """Return what was told since the last call."""
        found: list[Notice] = []
        while True:
            try:
                notice = self._done.get_nowait()
            except queue.Empty:
                return found
            self._known.discard(_mark(notice))
            found.append(notice)

    def close(self) -> None:
        """Stop; what was not told is told by the next master."""
        self._closing.set()
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join(TIMEOUT_S)

    def _run(self) -> None:
        while (notice := self._waiting.get()) is not None and not self._closing.is_set():
            if self._deliver(notice):
                self._done.put(notice)

    def _deliver(self, notice: Notice) -> bool:
        """Tell by every way, each until it took it; False where this ended first."""
        done: set[str] = set()
        delay_s = self._retry_s[0]
        while not self._closing.is_set():
            # Read each time: a wrong address may be corrected meanwhile.
            settings = self._settings()
            ways = {"webhook": settings.webhook_url != "", "mail": bool(settings.mail_to)}
            left = [way for way, wanted in ways.items() if wanted and way not in done]
            done |= {way for way in left if _told_by(way, notice, settings)}
            if done.issuperset(left):
                return True
            self._closing.wait(delay_s)
            delay_s = min(2 * delay_s, self._retry_s[1])
        return False


def _mark(notice: Notice) -> tuple[str, str, float]:
    return notice.key, notice.event, notice.since_s


def _told_by(way: str, notice: Notice, settings: AlarmSettings) -> bool:
    try:
        if way == "webhook":
            _post(notice, settings)
        else:
            _mail(notice, settings)
    except (OSError, smtplib.SMTPException, ValueError) as exc:
        # The URL may hold a key in its path: the kind of the error must do.
        why = f"HTTP {exc.code}" if isinstance(exc, urllib.error.HTTPError) else type(exc).__name__
        log.error("an alarm could not be told by %s: %s", way, why, extra={"alarm": notice.key})
        return False
    return True


def _post(notice: Notice, settings: AlarmSettings) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": "raypacs"}
    if token := secret(WEBHOOK_TOKEN):
        headers["Authorization"] = f"Bearer {token}"
    body = json.dumps(asdict(notice)).encode()
    request = urllib.request.Request(settings.webhook_url, body, headers, method="POST")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        answer.read(1024)


def _mail(notice: Notice, settings: AlarmSettings) -> None:
    message = EmailMessage()
    over = "over: " if notice.event == "over" else ""
    message["Subject"] = f"raypacs: {over}{notice.text}"[:200].replace("\n", " ")
    message["From"] = settings.mail_from
    message["To"] = ", ".join(settings.mail_to)
    lines = [f"{name}: {value}" for name, value in asdict(notice).items()]
    message.set_content("\n".join([f"{over}{notice.text}", "", *lines]) + "\n")
    place = (settings.smtp_host, settings.smtp_port)
    context = ssl.create_default_context()
    with (
        smtplib.SMTP_SSL(*place, timeout=TIMEOUT_S, context=context)
        if settings.smtp_security == "tls"
        else smtplib.SMTP(*place, timeout=TIMEOUT_S)
    ) as server:
        if settings.smtp_security == "starttls":
            server.starttls(context=context)
        if settings.smtp_user:
            server.login(settings.smtp_user, secret(SMTP_PASSWORD))
        server.send_message(message)


def secret(name: str) -> str:
    """Return a secret from the environment, or from the file that ``NAME_FILE`` names; '' none."""
    if value := os.environ.get(name, ""):
        return value
    path = os.environ.get(f"{name}_FILE", "")
    return Path(path).read_text(encoding="utf-8").strip() if path else ""
