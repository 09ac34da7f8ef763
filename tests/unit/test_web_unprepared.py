"""DICOMweb over instances that are not prepared yet: everything from the image cache."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from email.parser import BytesParser
from pathlib import Path

import httpx
import imagecodecs
import numpy as np
import pydicom
import pytest
from web_world import SAMPLES, World, image_file, served

LE = "1.2.840.10008.1.2.1"
ROOT = "/dicom-web/studies/1.2.3/series/1.2.3.1"
ONE = ROOT + "/instances/1.2.3.1.1"
RNG = np.random.default_rng(1)
PIXELS = RNG.integers(0, 4096, (2, 5, 7), np.uint16)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.intake.close()


@pytest.fixture
def client(world: World) -> Iterator[httpx.Client]:
    world.add(image_file(PIXELS, 1, bits_stored=12), image_file(PIXELS[0], 2, bits_stored=12))
    with served(world) as made:
        yield made


def parts(response: httpx.Response) -> list[tuple[str, bytes]]:
    """Parse multipart/related with the standard library's parser: another one than ours."""
    assert response.status_code in (200, 206), response.text
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + response.content)
    assert message.is_multipart()
    return [(p["Content-Type"], p.get_payload(decode=True)) for p in message.get_payload()]


def octets(response: httpx.Response) -> list[bytes]:
    """Bodies of binary parts, cut out by hand: the e-mail parser changes line ends."""
    assert response.status_code in (200, 206), response.text
    boundary = response.headers["content-type"].split("boundary=")[1].encode()
    pieces = (b"\r\n" + response.content).split(b"\r\n--" + boundary)
    assert pieces[-1].startswith(b"--")
    return [piece.split(b"\r\n\r\n", 1)[1] for piece in pieces[1:-1]]


def test_native_frames_lie_in_the_stored_file(client: httpx.Client) -> None:
    both = client.get(ONE + "/frames/1,2", headers={"Accept": "*/*"})
    assert octets(both) == [PIXELS[0].tobytes(), PIXELS[1].tobytes()]
    single = client.get(ONE + "/frames/2", headers={"Accept": "application/octet-stream"})
    assert single.content == PIXELS[1].tobytes()
    assert single.headers["content-type"] == f"application/octet-stream; transfer-syntax={LE}"
    assert single.headers["accept-ranges"] == "bytes"
    assert single.headers["access-control-allow-origin"] == "*"


def test_ranges_of_a_single_frame(client: httpx.Client) -> None:
    whole = PIXELS[0].tobytes()
    url, accept = ONE + "/frames/1", {"Accept": "application/octet-stream"}
    part = client.get(url, headers={**accept, "Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole)}"
    beyond = client.get(url, headers={**accept, "Range": "bytes=1000-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(whole)}"
    head = client.head(url, headers=accept)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(whole)))
    stale = client.get(url, headers={**accept, "Range": "bytes=0-1", "If-Range": '"old"'})
    assert stale.status_code == 200


def test_entity_tags(client: httpx.Client) -> None:
    first = client.get(ONE + "/frames/1")
    again = client.get(ONE + "/frames/1", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    single = client.get(ONE + "/frames/1", headers={"Accept": "application/octet-stream"})
    assert single.headers["etag"] != first.headers["etag"]


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        (ONE + "/frames/0", "*/*", 400),
        (ONE + "/frames/x", "*/*", 400),
        (ONE + "/frames/+1", "*/*", 400),
        (ONE + "/frames/%201", "*/*", 400),
        (ONE + "/frames/1_0", "*/*", 400),
        (ONE + "/frames/\u0661", "*/*", 400),
        (ONE + "/frames/1,", "*/*", 400),
        (ONE + "/frames/" + "9" * 5000, "*/*", 400),
        ("/dicom-web/studies", 'multipart/related; type="application/dicom+xml"', 406),
        (ONE + "/metadata", 'multipart/related; type="application/dicom+xml"', 406),
        (ONE + "/frames/3", "*/*", 404),
        (ROOT + "/instances/9.9/frames/1", "*/*", 404),
        ("/dicom-web/studies/9/series/1.2.3.1/instances/1.2.3.1.1/frames/1", "*/*", 404),
        (ONE + "/frames/1", "image/jphc", 406),
        (ONE + "/frames/1,2", "application/octet-stream", 406),
        (ONE + "/rendered", "text/html", 406),
        (ONE + "/rendered?quality=0", "*/*", 400),
        (ONE + "/rendered?window=x", "*/*", 400),
        (ROOT + "/overview", "*/*", 406),
        (ROOT + "/overview?level=99", "*/*", 400),
        ("/dicom-web/studies/9", "*/*", 404),
        ("/dicom-web/nothing", "*/*", 404),
        ("/dicom-web/studies", "text/html", 406),
        (ONE, "image/png", 406),
        (ONE + "/bulkdata/00100010/x", "*/*", 404),
        (ONE + "/bulkdata/../../../etc", "*/*", 404),
    ],
)
def test_problems(client: httpx.Client, path: str, accept: str, status: int) -> None:
    response = client.get(path, headers={"Accept": accept})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == status


def test_whole_instances(client: httpx.Client, world: World) -> None:
    sent = {n: image_file(PIXELS if n == 1 else PIXELS[0], n, bits_stored=12) for n in (1, 2)}
    series = client.get(ROOT, headers={"Accept": 'multipart/related; type="application/dicom"'})
    assert octets(series) == [sent[1], sent[2]]
    single = client.get(ONE, headers={"Accept": "application/dicom"})
    assert single.content == sent[1]
    study = client.get("/dicom-web/studies/1.2.3")
    assert octets(study) == [sent[1], sent[2]]
    head = client.head(ROOT)
    assert (head.status_code, head.content) == (200, b"")


def test_metadata_and_gzip(client: httpx.Client) -> None:
    plain = client.get(ROOT + "/metadata", headers={"Accept-Encoding": "identity"})
    assert plain.headers["content-type"] == "application/dicom+json"
    assert "content-encoding" not in plain.headers
    found = [pydicom.Dataset.from_json(one) for one in plain.json()]
    assert [one.InstanceNumber for one in found] == [1, 2]
    assert str(found[0].PatientName) == "Müller^Jörg"
    assert "PixelData" not in found[0]
    with client.stream("GET", ROOT + "/metadata", headers={"Accept-Encoding": "gzip"}) as raw:
        assert raw.headers["content-encoding"] == "gzip"
        assert json.loads(gzip.decompress(b"".join(raw.iter_raw()))) == plain.json()
        tag = raw.headers["etag"]
    again = client.get(ROOT + "/metadata", headers={"If-None-Match": tag})
    assert again.status_code == 304
    assert client.get(ONE + "/metadata").json() == plain.json()[:1]
    assert client.get("/dicom-web/studies/1.2.3/metadata").json() == plain.json()


def test_bulk_data_uris_can_be_resolved(world: World) -> None:
    data = bytes(range(256)) * 20
    inner = pydicom.Dataset()
    inner.add_new(0x00420011, "OB", data[::-1])
    outer = {"EncapsulatedDocument": data, "ReferencedImageSequence": [inner]}
    world.add(image_file(PIXELS[0], 1, **outer))
    with served(world) as client:
        found = client.get(ONE + "/metadata").json()[0]
        uri = found["00420011"]["BulkDataURI"]
        accept = {"Accept": "application/octet-stream"}
        assert client.get(uri, headers=accept).content == data
        assert octets(client.get(uri)) == [data]
        nested = found["00081140"]["Value"][0]["00420011"]["BulkDataURI"]
        assert client.get(nested, headers=accept).content == data[::-1]
        part = client.get(uri, headers={**accept, "Range": "bytes=-4"})
        assert (part.status_code, part.content) == (206, data[-4:])


def test_search(client: httpx.Client) -> None:
    found = client.get("/dicom-web/studies").json()
    assert found[0]["00100010"]["Value"] == [{"Alphabetic": "Müller^Jörg"}]
    assert found[0]["00081190"]["Value"] == [f"{client.base_url}/dicom-web/studies/1.2.3"]
    assert client.get("/dicom-web/studies?PatientID=nobody").status_code == 204
    series = client.get("/dicom-web/studies/1.2.3/series").json()
    assert series[0]["00081190"]["Value"][0].endswith("/studies/1.2.3/series/1.2.3.1")
    assert len(client.get(ROOT + "/instances").json()) == 2
    assert len(client.get("/dicom-web/studies/1.2.3/instances?limit=1&offset=1").json()) == 1
    assert len(client.get("/dicom-web/instances").json()) == 2
    assert client.get("/dicom-web/studies/7/series").status_code == 204


def test_rendered(client: httpx.Client) -> None:
    url = ONE + "/frames/2/rendered?window=2048,4096,linear-exact"
    png = client.get(url, headers={"Accept": "image/png"})
    assert png.headers["content-type"] == "image/png"
    expected = np.clip(PIXELS[1] / 4096 * 255 + 0.5, 0, 255).astype(np.uint8)
    assert np.array_equal(imagecodecs.png_decode(png.content), expected)
    jpeg = client.get(ONE + "/rendered", headers={"Accept": "image/*"})
    assert imagecodecs.jpeg8_decode(jpeg.content).shape == (5, 7)
    by_query = client.get(url + "&accept=image/png", headers={"Accept": "image/jpeg"})
    assert by_query.headers["content-type"] == "image/png"


ENCAPSULATED = [
    "JPEG2000.dcm",
    "MR_small_RLE.dcm",
    "JPGLosslessP14SV1_1s_1f_8b.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_bigendian.dcm",
    "image_dfl.dcm",
    "MR_small_implicit.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "examples_ybr_color.dcm",
    "rtdose_rle.dcm",
]


@pytest.mark.parametrize("name", ENCAPSULATED)
def test_other_syntaxes_come_as_native_frames_and_as_explicit_little_endian(
    world: World, name: str
) -> None:
    path = SAMPLES / name
    if not path.exists():
        pytest.skip("this pydicom does not carry the file")
    source = pydicom.dcmread(path)
    (stored,) = world.add(path.read_bytes())
    record = stored.record
    url = (
        f"/dicom-web/studies/{record.study_uid}/series/{record.series_uid}"
        f"/instances/{record.sop_instance_uid}"
    )
    count = int(source.get("NumberOfFrames", 1))
    raw = pydicom.pixels.pixel_array(source, raw=True, index=count - 1)
    with served(world) as client:
        frame = client.get(f"{url}/frames/{count}", headers={"Accept": "application/octet-stream"})
        assert frame.status_code == 200, frame.text
        got = np.frombuffer(frame.content, raw.dtype.newbyteorder("<")).reshape(raw.shape)
        lossy = "jpeg" in name.lower() and source.file_meta.TransferSyntaxUID.endswith(".50")
        assert np.abs(got.astype(int) - raw.astype(int)).max() <= (3 if lossy else 0)
        if source.file_meta.TransferSyntaxUID.is_encapsulated:
            star = client.get(
                f"{url}/frames/1",
                headers={
                    "Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"
                },
            )
            expected = next(
                pydicom.encaps.generate_frames(source.PixelData, number_of_frames=count)
            )
            assert octets(star) == [expected]
        whole = client.get(url, headers={"Accept": "application/dicom"})
        again = pydicom.dcmread(io.BytesIO(whole.content))
        assert again.file_meta.TransferSyntaxUID == LE
        assert again.PatientID == source.PatientID
        assert len(again.PixelData) - len(again.PixelData) % 2 >= count * frame.content.__len__()
        assert client.get(url + "/rendered").status_code == 200


def test_damaged_pixels_go_as_received_unless_asked_otherwise(world: World) -> None:
    data = (SAMPLES / "JPEG2000.dcm").read_bytes()
    at = data.index(b"\xff\x4f\xff\x51")
    damaged = data[:at] + b"\0" * 64 + data[at + 64 :]
    (stored,) = world.add(damaged)
    record = stored.record
    url = (
        f"/dicom-web/studies/{record.study_uid}/series/{record.series_uid}"
        f"/instances/{record.sop_instance_uid}"
    )
    with served(world) as client:
        single = client.get(url, headers={"Accept": "application/dicom"})
        assert single.content == damaged
        assert single.headers["content-type"].endswith(record.transfer_syntax_uid)
        assert octets(client.get(url)) == [damaged]
        wanted = {"Accept": f"application/dicom; transfer-syntax={LE}"}
        assert client.get(url, headers=wanted).status_code == 406


def test_a_deleted_study_is_gone_at_once_and_new_instances_are_seen(
    client: httpx.Client, world: World
) -> None:
    assert client.get(ONE + "/frames/1").status_code == 200
    world.calls.clear()
    assert client.get(ONE + "/frames/2").status_code == 200
    assert world.calls == []
    assert client.delete("/api/v1/studies/1.2.3").json()["deleted_objects"] == 2
    assert client.get(ONE + "/frames/1").status_code == 404
    assert world.touched


def test_frames_are_read_only_and_vary_once(client: httpx.Client) -> None:
    answer = client.post(ONE + "/frames/1", content=b"")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert answer.headers["content-type"] == "application/problem+json"
    wrong = client.get(ONE + "/frames/1", headers={"Accept": "image/jphc"})
    assert wrong.status_code == 406
    assert wrong.headers.get_list("vary").count("Accept") == 1


def test_searches_warn_of_what_they_did_not_do(client: httpx.Client) -> None:
    url = ROOT + "/instances"
    assert "warning" not in client.get(url).headers
    assert "warning" not in client.get(url + "?limit=2&fuzzymatching=false").headers
    cut = client.get(url + "?limit=1")
    assert len(cut.json()) == 1
    assert cut.headers["warning"].startswith("299 http")
    assert "additional results" in cut.headers["warning"]
    assert "warning" not in client.get(url + "?limit=1&offset=1").headers
    none = client.get("/dicom-web/studies?StudyInstanceUID=9&fuzzymatching=true")
    assert none.status_code == 204
    assert "fuzzymatching" in none.headers["warning"]
    both = client.get(url + "?limit=1&fuzzymatching=true").headers["warning"]
    assert both.count("299 http") == 2
