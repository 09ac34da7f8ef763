"""Settings that an earlier version wrote: read as they stand, though nobody may apply them anew."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypacs.config import Settings, TierSettings, parse
from raypacs.errors import ConfigError
from raypacs.object_store import without_secrets
from raypacs.policy import rules
from raypacs.storage.tier import open_tier
from tests.factories import instance_record
from tests.real_site import RealSite

OLD_RULE: dict[str, Any] = {
    "name": "",
    "action": "copy",
    "sop_class_uids": ["CT Image"],
    "modalities": ["XRAY"],
    "transfer_syntax_uids": [],
    "sources": [" "],
    "min_size_bytes": 0,
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[RealSite]:
    site = RealSite(tmp_path / "site", f"sqlite:///{tmp_path}/x.sqlite")
    yield site
    site.close()


def written_by_an_earlier_version(database: Path, **changes: Any) -> None:
    with sqlite3.connect(database) as db:
        found = "SELECT version, body FROM settings ORDER BY version DESC LIMIT 1"
        version, body = db.execute(found).fetchone()
        told = json.dumps(json.loads(body) | changes)
        db.execute("UPDATE settings SET body = ? WHERE version = ?", (told, version))
    db.close()


def test_rules_that_would_be_refused_today_lock_nobody_out(
    site: RealSite, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    longest = OLD_RULE | {"name": "n" * 100, "modalities": ["us"]}
    written_by_an_earlier_version(tmp_path / "x.sqlite", compression=[OLD_RULE, longest])
    version, found = site.reader.settings()
    assert [rule.modalities for rule in found.compression] == [("XRAY",), ("us",)]
    assert found.compression[0].sop_classes == ("CT Image",)
    assert site.reader.settings()[1] == found
    assert caplog.text.count("settings would not be taken today") == 1
    record = instance_record(modality="CT")
    assert rules.choose(record, found.compression) == rules.choose(record, ())
    changed = found.model_copy(update={"quiet_s": 7.0})
    assert site.master.apply_settings(changed, "ann") > version
    with pytest.raises(ConfigError, match="no Modality 'XRAY'"):
        parse(Settings, found.model_dump(mode="json"), "settings")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://user:SECRET@host/x",
        "simplecache::ftp://user:SECRET@host/x",
        "https://user:SEC/RET@host/x",
        "https://host/x?token=SECRET",
        "s3://AKIA:SECRET@bucket/p",
    ],
)
def test_secrets_in_urls_are_refused_and_not_repeated(url: str) -> None:
    values = {"tiers": [{"name": "t", "role": "web", "url": url}]}
    with pytest.raises(ConfigError, match=r"settings: tiers\.0\.url: a URL has no") as refused:
        parse(Settings, values, "settings")
    with pytest.raises(ValueError, match="a URL has no") as direct:
        TierSettings(name="t", role="web", url=url)
    assert "RET" not in str(direct.value)
    assert "RET" not in f"{refused.value} {refused.value.fields} {without_secrets(url)}"


@pytest.mark.parametrize(
    "url",
    [
        "abfss://container@account.dfs.core.windows.net/x",
        "sftp://host:22/a@b",
        "file:///a/b:c@d",
        "/a/b:c@d",
    ],
)
def test_other_urls_are_taken(url: str) -> None:
    assert TierSettings(name="t", role="web", url=url).url == url


def test_a_tier_with_a_password_stays_readable_and_its_errors_do_not_tell_it(
    site: RealSite, tmp_path: Path
) -> None:
    tiers = [tier.model_dump(mode="json") for tier in site.settings.tiers]
    tiers.append({"name": "old", "role": "web", "url": "s3://AKIA:SECRET@bucket/p"})
    written_by_an_earlier_version(tmp_path / "x.sqlite", tiers=tiers)
    old = site.reader.settings()[1].tiers[-1]
    assert old.url == "s3://AKIA:SECRET@bucket/p"
    with pytest.raises(ConfigError) as refused:
        open_tier(old)
    assert "SECRET" not in str(refused.value)
    assert "SECRET" not in json.dumps(site.reader.status(0.0)["tiers"])
