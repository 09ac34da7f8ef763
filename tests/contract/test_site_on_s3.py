"""A whole site on tiers in an object store: received, prepared, served, verified, deleted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_store import PASS, Fate, FaultyStore, faulty_store
from inline_tasks import LEASE, InlineTasks
from inline_tasks import site as plain_site
from real_site import RealSite
from s3_server import S3Server
from web_world import image_file

from raypacs.config import Settings, TierSettings
from raypacs.errors import TierUnavailable
from raypacs.master import DELETE_GRACE_S
from raypacs.records import Outcome
from raypacs.storage.late import Guard
from raypacs.storage.site import Mounted, belongs, site_of
from raypacs.work.verify import VerifyRun

STUDY, SERIES = "1.2.3", "1.2.3.1"
PIXELS = np.random.default_rng(7).integers(0, 4096, (6, 96, 80), dtype=np.uint16)


def files() -> list[bytes]:
    return [
        image_file(pixels, number, study=STUDY, series=SERIES, bits_stored=12)
        for number, pixels in enumerate(PIXELS, 1)
    ]


def s3_tiers(endpoint: str, bucket: str, **access: Any) -> tuple[TierSettings, ...]:
    return tuple(
        TierSettings.model_validate(
            {
                "name": f"{role}1",
                "role": role,
                "url": f"s3://{bucket}/{role}",
                "s3": {"endpoint_url": endpoint, "timeout_s": 0.5, **access},
            }
        )
        for role in ("image", "web")
    )


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultyStore]:
    with faulty_store(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str, s3: S3Server, proxy: FaultyStore) -> Iterator[RealSite]:
    site = RealSite(tmp_path, sqlite_url, s3_tiers(proxy.endpoint, s3.bucket()))
    yield site
    proxy.decide = lambda request: PASS
    site.close()


def frames(site: RealSite) -> list[np.ndarray]:
    """Native frames of all instances, as DICOMweb answers them."""
    found = []
    with site.served() as client:
        for number in range(1, len(PIXELS) + 1):
            answer = client.get(
                f"/dicom-web/studies/{STUDY}/series/{SERIES}/instances/{SERIES}.{number}/frames/1",
                headers={"Accept": 'multipart/related; type="application/octet-stream"'},
            )
            assert answer.status_code == 200, answer.text
            boundary = answer.headers["content-type"].partition("boundary=")[2].strip('"')
            body = answer.content.split(b"\r\n\r\n", 1)[1]
            body = body[: body.rindex(f"\r\n--{boundary}".encode())]
            found.append(np.frombuffer(body, "<u2").reshape(PIXELS.shape[1:]))
    return found


def verify(site: RealSite) -> Any:
    run = VerifyRun(
        LEASE,
        plain_site(
            site.settings.tiers,
            site.reader.instances(STUDY),
            site.reader.packs(STUDY),
        ),
    )
    return run.run(InlineTasks())


def test_received_prepared_served_verified_deleted(site: RealSite) -> None:
    assert site.store(*files()) == [Outcome.STORED] * len(PIXELS)
    assert site.store(files()[0]) == [Outcome.KNOWN]
    assert np.array_equal(frames(site), PIXELS)  # as received
    site.prepare()
    stored = site.reader.instances(STUDY)
    assert {one.form for one in stored} == {"htj2k"}
    kinds = sorted(path.rpartition(".")[2] for tier, path in site.objects() if tier == "web1")
    assert kinds == ["hdr", "pack"]
    assert np.array_equal(frames(site), PIXELS)  # from the pack
    with site.served() as client:
        answer = client.get(f"/dicom-web/studies/{STUDY}/metadata")
        assert len(answer.json()) == len(PIXELS)
        assert client.get(f"/dicom-web/studies/{STUDY}/series/{SERIES}/rendered").status_code == 200
    result = verify(site)
    assert (result.error, result.warning) == ("", "")
    site.seal()
    assert np.array_equal(frames(site), PIXELS)
    assert site.balanced()
    site.master.delete_study(STUDY, "test")
    site.now += DELETE_GRACE_S + 1
    for _ in range(5):
        site.master.tick()
    assert site.objects() == {}


def test_a_damaged_object_of_the_store_is_found(site: RealSite, s3: S3Server) -> None:
    site.store(*files())
    site.prepare()
    path = next(path for tier, path in site.objects() if path.endswith(".pack"))
    bucket = site.settings.tiers[1].url.split("/")[2]
    damaged = bytearray(site.tier("web1").read(path))
    damaged[len(damaged) // 2] ^= 1
    s3.client().put_object(Bucket=bucket, Key=f"web/{path}", Body=bytes(damaged))
    result = verify(site)
    assert path in result.error + result.warning


def test_tiers_carry_the_sites_marker(site: RealSite, proxy: FaultyStore, s3: S3Server) -> None:
    site.master.tick()
    here = site.reader.site().site_id
    for settings in site.settings.tiers:
        tier = site.tier(settings.name)
        assert site_of(tier) == here != ""
        assert Mounted(here)(tier)
    # The same bucket name on another store: nothing is written where the marker is missing.
    other = s3_tiers(s3.endpoint, s3.bucket())[0]
    assert not belongs(Guard()(other), here)


def test_a_store_that_is_away_is_no_lost_object(site: RealSite, proxy: FaultyStore) -> None:
    site.store(*files()[:2])
    site.prepare()
    before = site.objects()
    proxy.decide = lambda request: Fate(status=503, code="SlowDown")
    with pytest.raises(TierUnavailable):
        site.objects()
    answers = [site.intake.store_part10(data, source="TEST") for data in files()[2:]]
    assert {one.outcome for one in answers} == {Outcome.REFUSED}
    for _ in range(3):
        site.now += 10
        site.master.tick()
    proxy.decide = lambda request: PASS
    site.now += 10
    site.master.tick()
    assert site.objects() == before
    assert site.store(*files()[2:]) == [Outcome.STORED] * (len(PIXELS) - 2)
    site.prepare()
    assert np.array_equal(frames(site), PIXELS)


def test_settings_of_a_store_survive_the_index(site: RealSite) -> None:
    _, settings = site.reader.settings()
    assert settings == site.settings
    assert Settings.model_validate(settings.model_dump(mode="json")) == settings
    told = str(settings.model_dump(mode="json"))
    assert "only-for-tests" not in told  # the key that the tests' store is asked with
