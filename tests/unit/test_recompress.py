"""Lossless recompression for libraries: the received bytes come out of it again, or it is left."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from raypacs import dicom
from raypacs.config import TierSettings
from raypacs.errors import ProofFailed, RaypacsError, UnsupportedPixels
from raypacs.records import InstanceRecord
from raypacs.storage.container import Container
from raypacs.storage.manifest import encode
from raypacs.storage.tier import Tier, open_tier
from raypacs.work.archive_series import SeriesOrder, archive_series
from raypacs.work.recompress import as_received, recompressed
from tests.web_world import image_file

RNG = np.random.default_rng(7)


@pytest.fixture
def tiers(tmp_path: Path) -> tuple[TierSettings, TierSettings]:
    return (
        TierSettings(name="image1", role="image", url=(tmp_path / "image").as_uri()),
        TierSettings(name="lib1", role="library", url=(tmp_path / "lib").as_uri()),
    )


def stored(tier: Tier, data: bytes, name: str = "aa.00") -> InstanceRecord:
    part10 = dicom.split_part10(data)
    path = f"studies/1.2.3/1.2.3.1/{name}.dcm"
    tier.put_durable(path, data)
    return dicom.describe(
        data,
        transfer_syntax_uid=part10.transfer_syntax_uid,
        dataset_offset=part10.dataset_offset,
        tier=tier.name,
        path=path,
        size_bytes=len(data),
        sha256=hashlib.sha256(data[part10.dataset_offset :]).hexdigest(),
        source="T",
        received_at_s=1.0,
    )


def smooth(rows: int, columns: int, dtype: str = "u2", most: int = 4000) -> Any:
    grid = np.add.outer(np.arange(rows), np.arange(columns)) * most // (rows + columns)
    return (grid + RNG.integers(0, 3, grid.shape)).astype(dtype)


KINDS = {
    "grey 12 of 16": image_file(smooth(64, 48), bits_stored=12),
    "implicit": image_file(smooth(64, 48), bits_stored=12, syntax=ImplicitVRLittleEndian),
    "signed": image_file((smooth(64, 48) - 2000).astype("i2"), bits_stored=16),
    "8 bits, odd length": image_file(smooth(33, 21, "u1", 200)),
    "frames": image_file(np.stack([smooth(32, 32) + n for n in range(5)]), bits_stored=12),
    "colour": image_file(RNG.integers(0, 255, (32, 40, 3)).astype("u1")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_received_file_comes_back(
    kind: str, tiers: tuple[TierSettings, TierSettings], tmp_path: Path
) -> None:
    data = KINDS[kind]
    image, library = map(open_tier, tiers)
    record = stored(image, data)
    row = {name: getattr(record, name) for name in InstanceRecord.__slots__}
    image.put_durable("studies/1.2.3/1.2.3.1/00.manifest", encode("1.2.3", "1.2.3.1", [row], {}))
    order = SeriesOrder(
        *("1.2.3", "1.2.3.1", "00ff", "lib1", "studies/1.2.3/1.2.3.1/00ff.zip"),
        ("image1", "studies/1.2.3/1.2.3.1/00.manifest"),
        "htj2k",
    )
    told = archive_series(order, tiers)
    assert told.form == "htj2k", told  # type: ignore[union-attr]
    container = Container(library, order.path)
    member = container.member(record.sop_instance_uid)
    assert member.transfer_syntax_uid in ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202")
    assert b"".join(as_received(container, record.sop_instance_uid)) == data
    # Any DICOM tool reads what lies there, pixels and all.
    file = tmp_path / "member.dcm"
    file.write_bytes(container.read(record.sop_instance_uid))
    one, other = pydicom.dcmread(file), pydicom.dcmread(tmp_path / "image" / record.path)
    assert one.PatientName == other.PatientName
    assert one.file_meta.TransferSyntaxUID == member.transfer_syntax_uid
    assert int(one.get("NumberOfFrames", 1)) == record.frames


def test_what_does_not_come_back_stays_as_received(
    tiers: tuple[TierSettings, TierSettings],
) -> None:
    image = open_tier(tiers[0])
    big = stored(image, image_file(smooth(16, 16), syntax=ExplicitVRBigEndian), "bb.00")
    with pytest.raises(UnsupportedPixels):
        recompressed(image, big)
    overlay = image_file(smooth(16, 16) | 0x8000, bits_stored=12)
    with pytest.raises(RaypacsError):
        recompressed(image, stored(image, overlay, "cc.00"))
    sound = stored(image, KINDS["grey 12 of 16"], "dd.00")
    with pytest.raises(ProofFailed):
        recompressed(image, replace(sound, sha256="0" * 64))
