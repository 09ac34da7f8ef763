"""Who sent it: the address of a sender on both reactors, and archiving off by title and address."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dcmtk
import pytest
from dicom_bytes import CT, SYNTAX, data_set
from fake_index import FakeIndex, make_intake
from raw_sender import RawSender

from raypacs.config import SourceSettings
from raypacs.dimse.server import DicomSpec, serve_dicom
from tests.contract.test_judging import applied, image, status
from tests.real_site import RealSite

TRAUMA = SourceSettings(
    name="trauma", ae_titles=("TRAUMA", "RAW"), addresses=("127.0.0.1",), archiving=False
)
STUDY = "1.2.3"


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[RealSite]:
    site = RealSite(tmp_path / "site", sqlite_url)
    applied(site, sources=(TRAUMA,))
    yield site
    site.close()


@pytest.mark.parametrize("reactor", ["fast", "library"])
def test_the_address_is_kept(tmp_path: Path, reactor: str) -> None:
    index = FakeIndex()
    intake = make_intake(tmp_path, index)
    spec = DicomSpec("127.0.0.1", 0, "RAYPACS", reactor=reactor)  # type: ignore[arg-type]
    server = serve_dicom(spec, intake, association_ended=lambda uids: None)
    try:
        raw = RawSender(server.port, (CT, SYNTAX), address="127.0.0.7")
        assert raw.store(1, CT, "1.2.3.1", data_set()) == 0
        raw.socket.close()
    finally:
        server.shutdown(0)
        intake.close()
    assert index.instances["1.2.3.1"].peer == "127.0.0.7"


def test_archiving_is_off_for_title_and_address_only(site: RealSite, tmp_path: Path) -> None:
    storescu = dcmtk.find("storescu")
    if storescu is None:
        if os.environ.get("CI"):
            pytest.fail("the Debian package dcmtk is missing, and CI is set")
        pytest.skip("the Debian package dcmtk is missing")
    server = serve_dicom(
        DicomSpec("127.0.0.1", 0, "RAYPACS"), site.intake, association_ended=lambda uids: None
    )
    try:
        for number, title in ((1, "TRAUMA"), (2, "OTHER")):
            for study in (STUDY, f"1.2.{number + 4}"):
                file = tmp_path / f"{title}-{study}.dcm"
                file.write_bytes(image(number, study))
        sent = [("TRAUMA", STUDY), ("TRAUMA", "1.2.5"), ("OTHER", "1.2.6")]
        for title, study in sent:
            subprocess.run(
                [storescu, "-aet", title, "127.0.0.1", str(server.port), f"{title}-{study}.dcm"],
                check=True,
                cwd=tmp_path,
                timeout=60,
            )
        assert site.intake.flush(10)
        assert status(site)["origins"] == [["TRAUMA", "127.0.0.1"]]
        archived = [status(site, study)["archiving"] for _, study in sent]
        assert archived == [False, False, True]
        # The same title from another address: the study is to be archived from now on.
        raw = RawSender(server.port, (CT, SYNTAX), address="127.0.0.9")
        assert raw.store(1, CT, "1.2.3.77", data_set("1.2.3.77", study=STUDY)) == 0
        raw.socket.close()
        assert site.intake.flush(10)
        assert status(site)["archiving"] is True
        assert ["RAW", "127.0.0.9"] in status(site)["origins"]
    finally:
        server.shutdown(0)
