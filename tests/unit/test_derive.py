"""DERIVE without a cluster: new objects, what is left out, and what an attempt leaves behind."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from inline_tasks import LEASE, InlineTasks, site
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from stored_series import Store, image, noise, part10

from raypacs import layout
from raypacs.codec import htj2k
from raypacs.config import CompressionRule
from raypacs.errors import TierFull
from raypacs.policy import deriving
from raypacs.records import InstanceRecord, StoredInstance, WorkResult
from raypacs.storage.local import LocalTier
from raypacs.work import derive
from raypacs.work.derive import DeriveRun
from raypacs.work.run import Site, TaskFailure

TEN = CompressionRule(name="ten", action="lossy", ratio=10)
GOOD = CompressionRule(name="good", action="lossy", psnr_db=50)
SETTINGS = {"compression": (TEN,)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def a_site(store: Store, stored: list[StoredInstance], *rules: CompressionRule) -> Site:
    made = site(store.settings, stored, settings={"compression": rules or (TEN,)})
    return replace(made, boot="n1+boot")


def derived(store: Store, data: Dataset, *rules: CompressionRule) -> tuple[Dataset, InstanceRecord]:
    """Derive one object of one image; return it as pydicom reads it, and its record."""
    source = store.add(part10(data))
    result = DeriveRun(LEASE, a_site(store, [source], *rules)).run(InlineTasks())
    assert (result.error, result.warning) == ("", "")
    (record,) = result.records
    file = store.image.read(record.path)
    assert len(file) == record.size_bytes
    return pydicom.dcmread(io.BytesIO(file)), record


def pixels(dataset: Dataset) -> np.ndarray:
    """Decode every frame with the project's own decoder."""
    frames = pydicom.encaps.generate_frames(
        dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames", 1))
    )
    return np.stack([htj2k.decode_frame(frame.rstrip(b"\0")) for frame in frames])


def files(store: Store) -> list[str]:
    return sorted(info.path for info in store.image.walk())


def ct(**changes: Any) -> Dataset:
    return image(
        noise(1, 64, 64),
        bits_stored=12,
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        SeriesDescription="Axial",
        InstanceCreationDate="20240101",
        RescaleSlope="1",
        RescaleIntercept="-1024",
        WindowCenter="40",
        WindowWidth="400",
        SmallestImagePixelValue=1,
        **changes,
    )


def test_the_new_object_says_what_it_is_and_from_what(store: Store) -> None:
    data = ct()
    found, record = derived(store, data)
    assert found.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.203"
    assert found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID
    assert found.SOPInstanceUID == deriving.derived_uid(data.SOPInstanceUID, TEN)
    assert found.SeriesInstanceUID == deriving.derived_uid(data.SeriesInstanceUID, TEN)
    assert found.StudyInstanceUID == data.StudyInstanceUID
    assert found.SOPClassUID == data.SOPClassUID
    assert found.SeriesDescription == "Axial [lossy 10:1]"
    assert list(found.ImageType) == ["DERIVED", "PRIMARY", "AXIAL"]
    assert found.LossyImageCompression == "01"
    assert found.LossyImageCompressionRatio >= 10
    assert found.LossyImageCompressionMethod == "ISO_15444_15"
    (code,) = found.DerivationCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("113040", "DCM")
    (reference,) = found.SourceImageSequence
    assert reference.ReferencedSOPClassUID == data.SOPClassUID
    assert reference.ReferencedSOPInstanceUID == data.SOPInstanceUID
    (purpose,) = reference.PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("121320", "DCM")
    assert purpose.CodeMeaning == "Uncompressed predecessor"
    assert "SmallestImagePixelValue" not in found
    assert "InstanceCreationDate" not in found
    for keyword in ("InstanceNumber", "RescaleSlope", "RescaleIntercept", "WindowCenter", "Rows"):
        assert found[keyword].value == data[keyword].value
    assert (found.BitsStored, found.PhotometricInterpretation) == (12, "MONOCHROME2")
    assert (record.source, record.tier) == ("raypacs", "image1")
    assert (record.bits_stored, record.frames, record.modality) == (12, 1, "CT")
    assert record.path.endswith(f".{LEASE.token}.dcm")
    assert record.attributes["PatientName"] == "Synthetic^Patient"


@pytest.mark.parametrize(
    ("rule", "frame", "kept"), [(TEN, noise(1, 64, 64), False), (TEN, None, True)]
)
def test_padding_is_told_of_only_where_it_is_true(
    store: Store, rule: CompressionRule, frame: np.ndarray | None, kept: bool
) -> None:
    data = ct(PixelPaddingValue=0, PixelPaddingRangeLimit=3)
    if frame is None:
        data.PixelData = bytes(len(data.PixelData))
    found, _ = derived(store, data, rule)
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        assert (keyword in found) is kept


def test_the_measured_error_is_true(store: Store) -> None:
    data = ct()
    found, _ = derived(store, data, GOOD)
    decoded = pixels(found)[0].astype(int)
    error = np.abs(decoded - data.pixel_array.astype(int))
    span = int(data.pixel_array.max()) - int(data.pixel_array.min())
    psnr = 10 * np.log10(span**2 / np.square(error).mean())
    assert psnr >= 50
    assert f"PSNR {psnr:.1f} dB, largest error {error.max()};" in found.DerivationDescription
    assert found.DerivationDescription.endswith("raypacs rule good")
    assert htj2k.read_main_header(pydicom.encaps.get_frame(found.PixelData, 0)).depths == (12,)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
)
@pytest.mark.parametrize("count", [1, 3])
def test_every_source_gives_the_same_frames(store: Store, syntax: str, count: int) -> None:
    frames = noise(count, 64, 48)
    data = image(frames, bits_stored=12, transfer_syntax=ExplicitVRLittleEndian)
    plain, _ = derived(store, data)
    other = image(frames, bits_stored=12, SOPInstanceUID=data.SOPInstanceUID)
    if syntax == RLELossless:
        other.compress(RLELossless, generate_instance_uid=False)
    else:
        other.file_meta.TransferSyntaxUID = syntax
    found, record = derived(store, other)
    assert record.frames == count
    assert found.PixelData == plain.PixelData
    assert np.abs(pixels(found).astype(int) - frames).max() < 400


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("bits", "stored"), [(8, 8), (16, 10), (16, 16)])
def test_depth_and_sign(store: Store, bits: int, stored: int, signed: bool) -> None:
    frames = noise(1, 64, 64, bits=stored).astype(int) - (1 << stored - 1 if signed else 0)
    data = image(frames.astype(f"{'i' if signed else 'u'}{bits // 8}"), bits_stored=stored)
    found, _ = derived(store, data, GOOD)
    header = htj2k.read_main_header(pydicom.encaps.get_frame(found.PixelData, 0))
    assert (header.depths, header.signed) == ((stored,), signed)
    assert (found.BitsStored, found.PixelRepresentation) == (stored, int(signed))
    assert np.abs(pixels(found)[0].astype(int) - frames[0]).max() < (1 << stored) / 30


def test_colour_is_ybr_ict(store: Store) -> None:
    frames = np.stack([noise(1, 64, 64, bits=8, seed=n)[0] for n in range(3)], -1)[None]
    found, record = derived(store, image(frames, Modality="US"))
    assert (found.PhotometricInterpretation, found.PlanarConfiguration) == ("YBR_ICT", 0)
    assert record.photometric == "YBR_ICT"
    header = htj2k.read_main_header(pydicom.encaps.get_frame(found.PixelData, 0))
    assert header.colour_transform
    assert np.abs(pixels(found).astype(int) - frames).max() < 60
    ybr, _ = derived(store, image(frames, PhotometricInterpretation="YBR_FULL", Modality="US"))
    assert ybr.PhotometricInterpretation == "YBR_FULL"
    header = htj2k.read_main_header(pydicom.encaps.get_frame(ybr.PixelData, 0))
    assert not header.colour_transform


def test_planar_colour_is_read_as_such(store: Store) -> None:
    frames = np.stack([noise(1, 64, 64, bits=8, seed=n)[0] for n in range(3)], -1)[None]
    data = image(frames, Modality="US")
    plain, _ = derived(store, data)
    data.PixelData = frames.transpose(0, 3, 1, 2).tobytes()
    data.PlanarConfiguration = 1
    found, _ = derived(store, data)
    assert (found.PixelData, found.PlanarConfiguration) == (plain.PixelData, 0)


def test_text_stays_in_its_character_set(store: Store) -> None:
    data = ct(SpecificCharacterSet="ISO_IR 144", PatientName="Люкceмбypг")
    data.SeriesDescription = "Грудь"
    data.DerivationDescription = "Было"
    found, _ = derived(store, data)
    assert found.PatientName == "Люкceмбypг"
    assert found.SeriesDescription == "Грудь [lossy 10:1]"
    assert found.DerivationDescription.startswith("Было; Lossy compression with HTJ2K, ")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "[lossy 10:1]"),
        ("x" * 64, "x" * 51 + " [lossy 10:1]"),
        ("Грудь " * 10, "[lossy 10:1]"),
    ],
)
def test_series_description_has_64_characters(store: Store, before: str, after: str) -> None:
    data = ct(SpecificCharacterSet="ISO_IR 192")
    data.SeriesDescription = before
    assert derived(store, data)[0].SeriesDescription == after


def test_earlier_derivations_stay(store: Store) -> None:
    earlier = Dataset()
    earlier.ReferencedSOPClassUID, earlier.ReferencedSOPInstanceUID = "1.2.3", "1.2.4"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113072", "DCM", "Multiplanar"
    data = ct(
        DerivationDescription="MPR", SourceImageSequence=[earlier], DerivationCodeSequence=[code]
    )
    found, _ = derived(store, data)
    assert found.DerivationDescription.startswith("MPR; Lossy compression")
    assert [one.CodeValue for one in found.DerivationCodeSequence] == ["113072", "113040"]
    uids = [one.ReferencedSOPInstanceUID for one in found.SourceImageSequence]
    assert uids == ["1.2.4", data.SOPInstanceUID]


def enhanced(frames: int, *, shared: bool) -> Dataset:
    """An enhanced multi-frame image; Frame Type and a derivation shared or by frame."""
    data = image(noise(frames, 64, 64), bits_stored=12, SOPClassUID=EnhancedMRImageStorage)
    data.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    kind = Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    common = Dataset()
    groups = [Dataset() for _ in range(frames)]
    for group in [common] if shared else groups:
        group.MRImageFrameTypeSequence = [kind]
    if shared:
        earlier = Dataset()
        earlier.DerivationDescription = "averaged"
        common.DerivationImageSequence = [earlier]
    data.SharedFunctionalGroupsSequence = [common]
    data.PerFrameFunctionalGroupsSequence = groups
    return data


def test_enhanced_frames_name_their_source_frames(store: Store) -> None:
    data = enhanced(3, shared=False)
    found, _ = derived(store, data)
    assert "SourceImageSequence" not in found
    assert found.ImageType[0] == "DERIVED"
    for number, group in enumerate(found.PerFrameFunctionalGroupsSequence, 1):
        assert group.MRImageFrameTypeSequence[0].FrameType[0] == "DERIVED"
        (derivation,) = group.DerivationImageSequence
        (source,) = derivation.SourceImageSequence
        assert source.ReferencedFrameNumber == number
        assert source.ReferencedSOPInstanceUID == data.SOPInstanceUID
        assert derivation.DerivationCodeSequence[0].CodeValue == "113040"
    (study,) = found.SourceImageEvidenceSequence
    assert study.StudyInstanceUID == data.StudyInstanceUID
    (series,) = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == data.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == data.SOPInstanceUID


def test_a_shared_derivation_stays_shared(store: Store) -> None:
    found, _ = derived(store, enhanced(2, shared=True))
    (common,) = found.SharedFunctionalGroupsSequence
    assert common.MRImageFrameTypeSequence[0].FrameType[0] == "DERIVED"
    before, ours = common.DerivationImageSequence
    assert before.DerivationDescription == "averaged"
    assert "ReferencedFrameNumber" not in ours.SourceImageSequence[0]
    assert not any(
        "DerivationImageSequence" in group for group in found.PerFrameFunctionalGroupsSequence
    )


def test_parts_of_a_set_go_to_a_set_of_their_own(store: Store) -> None:
    data = ct(ConcatenationUID="1.2.3.9", PyramidUID="1.2.3.10")
    found, _ = derived(store, data)
    assert found.ConcatenationUID == deriving.derived_uid("1.2.3.9", TEN)
    assert found.PyramidUID == deriving.derived_uid("1.2.3.10", TEN)


def test_the_same_source_gives_the_same_bytes(store: Store) -> None:
    stored = store.add(part10(ct()))
    (one,) = deriving.wanted([stored.record], [TEN])
    context = derive.DeriveContext("a" * 16, "b", "", store.settings, store.settings[:1])
    first = derive.derive_instance(one, context)
    second = derive.derive_instance(one, replace(context, token="c" * 16))
    assert isinstance(first, InstanceRecord)
    assert isinstance(second, InstanceRecord)
    assert first.sha256 == second.sha256
    assert first.path != second.path
    # The same attempt again, as its worker died after it had written.
    assert derive.derive_instance(one, context).path == first.path


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"LossyImageCompression": "01"}, "compressed with loss before"),
        ({"HighBit": 10}, "High Bit 10"),
        ({"BitsStored": 10, "HighBit": 9}, "values outside 10 bits stored"),
    ],
)
def test_what_the_pixels_do_not_allow_is_a_warning(store: Store, change: dict, why: str) -> None:
    data = ct()
    for keyword, value in change.items():
        setattr(data, keyword, value)
    good = store.add(part10(ct()))
    run = DeriveRun(LEASE, a_site(store, [store.add(part10(data)), good]))
    result = run.run(InlineTasks())
    assert result.error == ""
    assert result.warning.startswith("nothing lossy was made of 1 instances (1: ")
    assert why in result.warning
    assert len(result.records) == 1


def test_a_crash_on_one_instance_costs_that_one(store: Store) -> None:
    stored = [store.add(part10(ct())) for _ in range(2)]
    bad = stored[0].record.sop_instance_uid
    crashed = TaskFailure("WorkerCrashedError", True, crashed=True)
    tasks = InlineTasks(lambda key, times: crashed if key == bad else None)
    result = DeriveRun(LEASE, a_site(store, stored)).run(tasks)
    assert (len(result.records), result.error) == (1, "")
    assert "1: a decoder crashed on it" in result.warning


def test_nothing_to_do(store: Store) -> None:
    stored = store.add(part10(ct()))
    prepared = CompressionRule(name="plain", action="htj2k")
    run = DeriveRun(LEASE, a_site(store, [stored], prepared))
    assert run.run(InlineTasks()) == WorkResult()
    run.clean_up(reported=True)
    assert files(store) == [stored.record.path]


def test_without_an_image_tier_the_work_waits(store: Store) -> None:
    stored = store.add(part10(ct()))
    full = replace(a_site(store, [stored]), available_bytes=lambda: {"web1": 10**9})
    result = DeriveRun(LEASE, full).run(InlineTasks())
    assert result.waits
    assert "no image tier" in result.error


def test_a_full_tier_waits_and_is_passed_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: LocalTier, path: str, chunks: Any) -> int:
        raise TierFull("full")

    refused: list[str] = []
    stored = store.add(part10(ct()))
    monkeypatch.setattr(LocalTier, "put_durable", full)
    waits = TaskFailure("waits for room: full", True, waits=True)
    (one,) = deriving.wanted([stored.record], [TEN])

    def fate(key: Any, times: int) -> Any:
        with pytest.raises(TierFull):
            derive.derive_instance(one, run._context)
        return waits

    found = replace(a_site(store, [stored]), refused=refused.append)
    run = DeriveRun(LEASE, found)
    result = run.run(InlineTasks(fate))
    assert (result.waits, refused) == (True, ["image1"])


def test_a_tier_that_is_not_mounted_is_not_written_to(store: Store) -> None:
    stored = store.add(part10(ct()))
    run = DeriveRun(LEASE, replace(a_site(store, [stored]), site_id=lambda: "another-site"))
    (one,) = deriving.wanted([stored.record], [TEN])

    def fate(key: Any, times: int) -> Any:
        with pytest.raises(Exception, match="not mounted"):
            derive.derive_instance(one, run._context)
        return TaskFailure("waits for a tier", True, waits=True)

    assert run.run(InlineTasks(fate)).waits
    assert files(store) == [stored.record.path]


def test_a_report_leaves_the_files_and_no_marker(store: Store) -> None:
    stored = [store.add(part10(ct())) for _ in range(2)]
    found = a_site(store, stored)
    run = DeriveRun(LEASE, found)
    result = run.run(InlineTasks())
    marker = layout.intake_marker(f"n1+boot-derive-{LEASE.token}", "1.2.3")
    assert marker in files(store)
    # The index has them by now.
    stored += [StoredInstance(record) for record in result.records]
    object.__setattr__(found, "instances", lambda study_uid: stored)
    run.clean_up(reported=True)
    run.clean_up(reported=True)
    assert files(store) == sorted(one.record.path for one in stored)


@pytest.mark.parametrize("reported", [False, True])
def test_what_the_index_did_not_take_is_removed(store: Store, reported: bool) -> None:
    stored = [store.add(part10(ct())) for _ in range(2)]
    run = DeriveRun(LEASE, a_site(store, stored))
    assert len(run.run(InlineTasks()).records) == 2
    run.clean_up(reported=reported)
    assert files(store) == sorted(one.record.path for one in stored)


def test_a_file_whose_task_was_not_heard_of_is_removed(store: Store) -> None:
    stored = [store.add(part10(ct()))]
    run = DeriveRun(LEASE, a_site(store, stored))
    (one,) = deriving.wanted([stored[0].record], [TEN])

    def fate(key: Any, times: int) -> Any:
        derive.derive_instance(one, run._context)
        return TaskFailure("the node goes down", True)

    assert run.run(InlineTasks(fate)).error
    assert len(files(store)) == 3
    run.clean_up(reported=False)
    assert files(store) == [stored[0].record.path]
