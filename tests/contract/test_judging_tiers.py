"""Sources and rules that say where a study lies, and how it is prepared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raypacs.config import ArrivalRule, CompressionRule, SourceSettings, TierSettings
from raypacs.work.run import settings_for
from tests.contract.test_judging import applied, image, sent, status, ticked, told
from tests.real_site import RealSite

STUDY, OTHER = "1.2.3", "1.2.4"
FAST = SourceSettings(name="fast", ae_titles=("CT*",), target_tier="image2")


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[RealSite]:
    tiers = tuple(
        TierSettings(name=name, role=role, order=order, url=(tmp_path / name).as_uri())  # type: ignore[arg-type]
        for name, role, order in (
            ("image1", "image", 1),
            ("image2", "image", 2),
            ("web1", "web", 1),
        )
    )
    site = RealSite(tmp_path, sqlite_url, tiers)
    yield site
    site.close()


def lies(site: RealSite, study: str = STUDY) -> set[str]:
    return {one.record.tier for one in site.reader.instances(study)}


def test_a_source_is_written_to_its_tier_first(site: RealSite) -> None:
    applied(site, sources=(FAST,))
    sent(site, image(), source="CT1")
    sent(site, image(study=OTHER), source="MR1")
    assert (lies(site), lies(site, OTHER)) == ({"image2"}, {"image1"})


def test_where_its_tier_takes_nothing_it_goes_elsewhere(site: RealSite, tmp_path: Path) -> None:
    applied(site, sources=(FAST,))
    (tmp_path / "image2").rename(tmp_path / "away")
    (tmp_path / "image2").mkdir()
    sent(site, image(), source="CT1")
    assert lies(site) == {"image1"}


def test_a_rule_orders_the_move_once_work_lets_it(site: RealSite) -> None:
    applied(site, rules=(ArrivalRule(name="move", when={"Modality": "OT"}, tier="image2"),))
    sent(site, image())
    ticked(site)
    assert "done" not in status(site)["decided"]["tier"]  # PREPARE waits
    for lease in site.lease():
        site.master.report(lease, site.work(lease))
    for _ in range(3):
        ticked(site, 601)
    assert status(site)["decided"]["tier"] == {
        "value": "image2",
        "by": "rule move",
        "done": True,
    }
    items = [one for one in site.reader.study(STUDY)["items"] if one["kind"] == "MIGRATE"]
    assert len(items) == 1
    ticked(site, 601)
    assert len(site.reader.study(STUDY)["items"]) == 2
    assert "on tier image2 (rule move)" in told(site, "decided")[0]


@pytest.mark.parametrize(
    ("wanted", "names"), [("copy", ["copy", "all"]), ("all", ["all", "all"]), ("", ["all"])]
)
def test_work_goes_by_what_was_decided(site: RealSite, wanted: str, names: list[str]) -> None:
    rules = (CompressionRule(name="all", action="htj2k", modalities=("CT",)),)
    decides = (ArrivalRule(name="r", compress="copy"),)
    settings = site.settings.model_copy(update={"compression": rules, "rules": decides})
    study: dict[str, Any] = {"decided": {"compress": {"value": wanted, "by": "rule r"}}}
    ports: Any = SimpleNamespace(settings=settings, moves=SimpleNamespace(study=lambda uid: study))
    assert [one.name for one in settings_for(ports, STUDY).compression] == names
