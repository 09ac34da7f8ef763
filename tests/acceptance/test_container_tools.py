"""Containers beside the tools of others: unzip, Java's jar, dcmtk."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from raypacs.config import TierSettings
from raypacs.records import InstanceRecord
from raypacs.storage.manifest import encode
from raypacs.storage.tier import open_tier
from raypacs.work.archive_series import SeriesOrder, archive_series
from tests.unit.test_recompress import smooth, stored
from tests.web_world import image_file

SERIES = "studies/1.2.3/1.2.3.1"


@pytest.fixture(scope="module", params=["as received", "htj2k"])
def container(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("container")
    tiers = (
        TierSettings(name="image1", role="image", url=(folder / "image").as_uri()),
        TierSettings(name="lib1", role="library", url=(folder / "lib").as_uri()),
    )
    image = open_tier(tiers[0])
    frames = [smooth(64, 48), smooth(48, 64), np.stack([smooth(32, 32)] * 3)]
    rows = []
    for number, pixels in enumerate(frames, 1):
        record = stored(image, image_file(pixels, number, bits_stored=12), f"{number}.00")
        rows.append({name: getattr(record, name) for name in InstanceRecord.__slots__})
    image.put_durable(f"{SERIES}/00.manifest", encode("1.2.3", "1.2.3.1", rows, {}))
    path, manifest = f"{SERIES}/00ff.zip", ("image1", f"{SERIES}/00.manifest")
    order = SeriesOrder("1.2.3", "1.2.3.1", "00ff", "lib1", path, manifest, request.param)
    assert archive_series(order, tiers).form == request.param  # type: ignore[union-attr]
    return folder / "lib" / path


def told(*words: object) -> str:
    if shutil.which(str(words[0])) is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_unzip_and_dcmtk_read_every_instance(container: Path, tmp_path: Path) -> None:
    assert "No errors detected" in told("unzip", "-t", container)
    told("unzip", "-q", container, "-d", tmp_path)
    files = sorted(tmp_path.glob("*.dcm"))
    assert len(files) == 3
    for file in files:
        assert "yes" in told("dcmftest", file)
        assert file.stem in told("dcmdump", "+P", "SOPInstanceUID", file)


def test_java_lists_it_as_it_is(container: Path) -> None:
    names = told("jar", "tf", container).split()
    assert names == [f"1.2.3.1.{number}.dcm" for number in (1, 2, 3)] + ["manifest.json"]
