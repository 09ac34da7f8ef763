"""Which tiers a node reaches: nothing is said before the first look is over."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from raypacs.cluster import reach
from raypacs.cluster.reach import Reach
from raypacs.config import Settings, TierSettings
from raypacs.errors import IndexUnavailable

TIERS = (
    TierSettings(name="image1", role="image", url="memory://image1"),
    TierSettings(name="web1", role="web", url="memory://web1"),
)


class Index:
    """The reader's two calls that are needed; ``away`` while the database does not answer."""

    away = False

    def settings(self) -> tuple[int, Settings]:
        if self.away:
            raise IndexUnavailable("the database does not answer")
        return 1, Settings(tiers=TIERS)

    def site(self) -> SimpleNamespace:
        return SimpleNamespace(site_id="s1")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool | threading.Event]:
    """What each tier answers: whether it is this site's; an event: nothing before it is set."""
    told: dict[str, bool | threading.Event] = {"image1": True, "web1": True}

    def belongs(tier: TierSettings, site_id: str) -> bool:
        answer = told[tier.name]
        return answer.wait(10.0) if isinstance(answer, threading.Event) else answer

    monkeypatch.setattr(reach, "open_tier", lambda settings: settings)
    monkeypatch.setattr(reach, "belongs", belongs)
    return told


def test_what_answers_is_reached(answers: dict[str, bool | threading.Event]) -> None:
    answers["web1"] = False
    looking = Reach(Index())  # type: ignore[arg-type]
    looking.first()
    assert looking.tiers() == ("image1",)


def test_a_node_that_reaches_none_says_so(answers: dict[str, bool | threading.Event]) -> None:
    answers.update(image1=False, web1=False)
    looking = Reach(Index())  # type: ignore[arg-type]
    looking.first()
    assert looking.tiers() == ()


def test_nothing_is_said_before_the_first_look(
    answers: dict[str, bool | threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, hangs = Index(), threading.Event()
    index.away = True
    looking = Reach(index)  # type: ignore[arg-type]
    looking.first()
    assert looking.tiers() is None
    index.away, answers["web1"] = False, hangs
    looking._next_s = 0.0
    assert looking.tiers() is None  # web1 has some seconds
    looking._looks["image1"].join()
    looking._first_until_s = 0.0  # they are over
    assert looking.tiers() == ("image1",)
    hangs.set()
