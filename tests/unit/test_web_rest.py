"""REST API and STOW-RS over the real intake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest
from web_world import World, image_file, served

PIXELS = np.arange(64, dtype=np.uint16).reshape(8, 8)
DICOM = {"Content-Type": "application/dicom"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.intake.close()


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    with served(world) as made:
        yield made


def related(*files: bytes) -> tuple[dict[str, str], bytes]:
    body = b"".join(b"--xx\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % f for f in files)
    kind = 'multipart/related; type="application/dicom"; boundary=xx'
    return {"Content-Type": kind}, body + b"--xx--\r\n"


def test_health_status_and_page(client: httpx.Client) -> None:
    assert client.get("/api/v1/health").json()["status"] == "ok"
    status = client.get("/api/v1/status").json()
    assert (status["epoch"], status["node"]["name"]) == (1, "n1")
    assert client.get("/").headers["content-type"].startswith("text/html")


def test_ingest_one_and_many(client: httpx.Client, world: World) -> None:
    first, second = image_file(PIXELS, 1), image_file(PIXELS, 2)
    one = client.post("/api/v1/instances", content=first, headers=DICOM).json()
    assert one["objects"][0]["outcome"] == "stored"
    assert one["study_uids"] == ["1.2.3"]
    headers, body = related(first, second, b"not dicom", image_file(PIXELS + 1, 1))
    many = client.post("/api/v1/instances", content=body, headers=headers).json()
    assert [item["outcome"] for item in many["objects"]] == [
        "known",
        "stored",
        "quarantined",
        "conflict",
    ]
    assert many["counts"]["conflict"] == 1
    assert many["objects"][2]["reason"]
    assert world.intake.flush(10)
    record = world.index.instances["1.2.3.1.2"]
    assert record.source == "REST"
    tier = world.tiers["image"]
    assert tier.read(record.path) == second


def test_ingest_names_its_source_and_checks_its_type(client: httpx.Client, world: World) -> None:
    headers = {**DICOM, "X-Raypacs-Source": "WARD 7"}
    client.post("/api/v1/instances", content=image_file(PIXELS), headers=headers)
    assert world.intake.flush(10)
    assert world.index.instances["1.2.3.1.1"].source == "WARD 7"
    wrong = client.post("/api/v1/instances", content=b"x", headers={"Content-Type": "text/plain"})
    assert wrong.status_code == 415


def test_full_tier_refuses(client: httpx.Client, world: World) -> None:
    world.index.room_bytes["image1"] = 0
    answer = client.post("/api/v1/instances", content=image_file(PIXELS), headers=DICOM)
    assert answer.json()["objects"][0]["outcome"] == "refused"
    stow = client.post("/dicom-web/studies", content=image_file(PIXELS), headers=DICOM)
    assert stow.status_code == 507
    failed = stow.json()["00081198"]["Value"][0]
    assert failed["00081197"]["Value"] == [0xA700]


def test_stow(client: httpx.Client) -> None:
    first, second = image_file(PIXELS, 1), image_file(PIXELS, 2)
    headers, body = related(first, second)
    stored = client.post("/dicom-web/studies", content=body, headers=headers)
    assert stored.status_code == 200
    assert stored.headers["content-type"] == "application/dicom+json"
    found = pydicom.Dataset.from_json(stored.json())
    assert [item.ReferencedSOPInstanceUID for item in found.ReferencedSOPSequence] == [
        "1.2.3.1.1",
        "1.2.3.1.2",
    ]
    assert found.RetrieveURL.endswith("/dicom-web/studies/1.2.3")
    headers, body = related(second, b"\0" * 200, image_file(PIXELS + 1, 1))
    mixed = client.post("/dicom-web/studies", content=body, headers=headers)
    assert mixed.status_code == 202
    reasons = [item["00081197"]["Value"][0] for item in mixed.json()["00081198"]["Value"]]
    assert reasons == [0xC000, 0x0111]
    headers, body = related(b"\0" * 200)
    assert client.post("/dicom-web/studies", content=body, headers=headers).status_code == 409


def test_stow_into_a_study_takes_only_its_instances(client: httpx.Client) -> None:
    headers, body = related(image_file(PIXELS, 1))
    other = client.post("/dicom-web/studies/9.9", content=body, headers=headers)
    assert other.status_code == 409
    assert other.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xC409]
    assert client.get("/dicom-web/studies").status_code == 204
    assert client.post("/dicom-web/studies/1.2.3", content=body, headers=headers).is_success


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "application/json"}, b"{}", 415),
        ({"Content-Type": 'multipart/related; type="application/dicom"'}, b"", 400),
        ({"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}, b"--x", 400),
        ({"Content-Type": 'multipart/related; boundary="x"'}, b"--x--", 400),
        ({"Content-Type": "application/dicom", "Accept": "text/html"}, b"x", 406),
    ],
)
def test_bad_stow(client: httpx.Client, headers: dict[str, str], body: bytes, status: int) -> None:
    assert client.post("/dicom-web/studies", content=body, headers=headers).status_code == status


def test_larger_than_allowed_is_refused_and_the_rest_stored(
    client: httpx.Client, world: World
) -> None:
    world.settings = world.settings.model_copy(update={"max_instance_bytes": 2000})
    headers, body = related(image_file(np.zeros((64, 64), np.uint16), 1), image_file(PIXELS, 2))
    told = client.post("/api/v1/instances", content=body, headers=headers).json()
    assert [item["outcome"] for item in told["objects"]] == ["refused", "stored"]


def test_studies(client: httpx.Client, world: World) -> None:
    world.add(image_file(PIXELS, 1), image_file(PIXELS, 2, series="1.2.3.2"))
    rows = client.get("/api/v1/studies?PatientID=P1").json()
    assert [row["StudyInstanceUID"] for row in rows] == ["1.2.3"]
    study = client.get("/api/v1/studies/1.2.3").json()
    assert [one["series_uid"] for one in study["series"]] == ["1.2.3.1", "1.2.3.2"]
    assert study["series"][0]["forms"] == {"": 1}
    assert study["series"][0]["objects"][0]["sop_instance_uid"] == "1.2.3.1.1"
    assert client.post("/api/v1/studies/1.2.3/complete").status_code == 202
    assert client.post("/api/v1/complete", json={"study_uids": ["7"]}).status_code == 202
    assert world.hinted == ["1.2.3", "7"]
    missing = client.get("/api/v1/studies/9")
    assert (missing.status_code, missing.json()["kind"]) == (404, "NotFound")
    assert client.delete("/api/v1/studies/9").status_code == 404
    assert client.post("/api/v1/studies/9/complete").status_code == 404
    assert client.post("/api/v1/complete", json={"uids": 1}).status_code == 400


def test_settings(client: httpx.Client) -> None:
    found = client.get("/api/v1/settings").json()
    changed = {**found["settings"], "quiet_s": 9}
    assert client.put("/api/v1/settings", json=changed).json() == {"version": 2}
    stale = client.put("/api/v1/settings", json={"version": 1, "settings": changed})
    assert stale.status_code == 409
    fresh = client.put("/api/v1/settings", json={"version": 2, "settings": changed})
    assert fresh.json() == {"version": 3}
    wrong = client.put("/api/v1/settings", json={"version": "3", "settings": changed})
    assert wrong.status_code == 422


def test_rest_is_not_open_to_other_origins(client: httpx.Client) -> None:
    origin = {"Origin": "http://elsewhere.example"}
    rest = client.get("/api/v1/status", headers=origin)
    assert "access-control-allow-origin" not in rest.headers
    wanted = {**origin, "Access-Control-Request-Method": "DELETE"}
    assert client.options("/api/v1/studies/1", headers=wanted).status_code == 405
    preflight = client.options(
        "/dicom-web/studies", headers={**origin, "Access-Control-Request-Method": "GET"}
    )
    assert preflight.headers["access-control-allow-origin"] == "*"
