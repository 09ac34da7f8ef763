"""Which series are volumes, and how their voxels lie in the patient."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED_DATA
from pydicom.dataset import Dataset
from volume_world import AXIAL, CORONAL, SAGITTAL, enhanced, series_datasets, slice_dataset

from raypacs import dicom
from raypacs.codec.frame_geometry import LABEL_MAP_STORAGE, FrameGeometry, frames_of
from raypacs.codec.geometry import FEWEST_FRAMES, Stack, find_stack
from raypacs.dicom_json import JsonHeaders
from raypacs.errors import UnsupportedPixels


def frames(datasets: list[Dataset]) -> list[FrameGeometry]:
    return [frame for dataset in datasets for frame in frames_of(dataset.to_json_dict())]


def stack(datasets: list[Dataset]) -> Stack:
    return find_stack(frames(datasets))


def refusal(datasets: list[Dataset]) -> str:
    with pytest.raises(UnsupportedPixels) as caught:
        stack(datasets)
    return str(caught.value)


def numbers(found: Stack) -> list[int]:
    return [int(frame.sop_instance_uid.rpartition(".")[2]) for frame in found.frames]


def test_an_even_series_is_a_volume_with_its_affine() -> None:
    found = stack(series_datasets(20))
    assert numbers(found) == list(range(1, 21))
    assert found.tilt_degrees == pytest.approx(0, abs=1e-4)
    assert (found.left_out, found.repeats) == (0, 1)
    assert np.allclose(
        found.affine, [[1.5, 0, 0, -60], [0, 1.5, 0, -48], [0, 0, 2, -20], [0, 0, 0, 1]]
    )


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, CORONAL])
@pytest.mark.parametrize("sign", [1, -1])
def test_slices_are_sorted_along_the_normal(orientation: tuple[float, ...], sign: int) -> None:
    normal = np.cross(orientation[:3], orientation[3:])
    step = tuple(float(value) for value in sign * 3.0 * normal)
    found = stack(series_datasets(18, orientation=orientation, step=step))
    assert numbers(found) == list(range(1, 19))[::sign]
    assert np.linalg.det(found.affine[:3, :3]) > 0  # right-handed
    assert np.allclose(found.affine[:3, 2], 3.0 * normal)
    assert [found.frames[index].sop_instance_uid for index in found.pack_order] == [
        f"1.2.3.1.{number}" for number in range(1, 19)
    ]


def test_a_tilted_gantry_gives_a_shear() -> None:
    tilt = math.radians(15)
    orientation = (1.0, 0.0, 0.0, 0.0, math.cos(tilt), -math.sin(tilt))
    found = stack(series_datasets(20, orientation=orientation, step=(0.0, 0.0, 2.5)))
    assert found.tilt_degrees == pytest.approx(15, abs=0.01)
    affine = found.affine
    assert np.allclose(affine[:3, 2], [0, 0, 2.5])
    assert affine[:3, 1] @ affine[:3, 2] == pytest.approx(-1.5 * 2.5 * math.sin(tilt))
    assert affine[:3, 0] @ affine[:3, 1] == pytest.approx(0)


def test_rounded_positions_are_even_and_a_missing_slice_is_not() -> None:
    rounded = series_datasets(40, step=(0.0, 0.0, 0.625))
    for dataset in rounded:
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, round(float(z), 1)]
    assert len(stack(rounded).frames) == 40
    series = series_datasets(40)
    del series[17]
    reason = refusal(series)
    assert "2 mm apart, but 4 mm between slice 17 and 18 (a slice is missing)" in reason


def test_uneven_spacing_and_shifted_slices_are_refused() -> None:
    uneven = series_datasets(30)
    for number, dataset in enumerate(uneven):
        dataset.ImagePositionPatient = [-60, -48, 2.0 * number if number < 15 else 3.0 * number]
    assert "not evenly spaced" in refusal(uneven)
    shifted = series_datasets(30)
    shifted[12].ImagePositionPatient = [-50, -48, shifted[12].ImagePositionPatient[2]]
    assert "shifted against each other" in refusal(shifted)
    flat = series_datasets(30, step=(5.0, 0.0, 1.0))
    assert "oblique" in refusal(flat)


def test_too_few_frames_and_too_many_orientations() -> None:
    assert f"a volume has {FEWEST_FRAMES} or more" in refusal(series_datasets(15))
    radial = []
    for number in range(24):
        angle = math.pi * number / 24
        row = (math.cos(angle), math.sin(angle), 0.0)
        radial.append(slice_dataset(number + 1, (0, 0, 0), orientation=(*row, 0.0, 0.0, -1.0)))
    assert "at most 1 of 24 frames share size, orientation and spacing" in refusal(radial)


def test_localizers_are_left_out_and_other_sizes_too() -> None:
    localizers = [
        slice_dataset(1, (0, -100, 100), orientation=SAGITTAL),
        slice_dataset(2, (-100, 0, 100), orientation=CORONAL),
        slice_dataset(3, (0, 0, 0), rows=32),
    ]
    series = series_datasets(20)
    for number, dataset in enumerate(series):
        dataset.SOPInstanceUID = f"1.2.3.1.{number + 10}"
    found = stack(localizers + series)
    assert numbers(found) == list(range(10, 30))
    assert found.left_out == 3


@pytest.mark.parametrize("by_slice", [False, True])
def test_of_several_times_the_first_complete_one_is_taken(by_slice: bool) -> None:
    series = []
    for time in range(3):
        for number, dataset in enumerate(series_datasets(16, TemporalPositionIdentifier=time + 1)):
            dataset.SOPInstanceUID = f"1.2.3.1.{100 * time + number}"
            series.append(dataset)
    if by_slice:
        series.sort(key=lambda dataset: (dataset.ImagePositionPatient[2], dataset.SOPInstanceUID))
    found = stack(series)
    assert numbers(found) == list(range(16))
    assert (found.left_out, found.repeats) == (32, 3)
    # The first time lacks a slice: the second is complete.
    broken = [dataset for dataset in series if not dataset.SOPInstanceUID.endswith(".1.7")]
    found = stack(broken)
    assert numbers(found) == list(range(100, 116))


def test_times_that_nothing_tells_apart() -> None:
    series = []
    for time in range(2):
        for number, dataset in enumerate(series_datasets(16)):
            dataset.SOPInstanceUID = f"1.2.3.1.{100 * time + number}"
            series.append(dataset)
    assert numbers(stack(series)) == list(range(16))
    assert "some places have 1 frames and others 2" in refusal(series[:-3])
    assert "20 frames lie at 5 places only" in refusal(
        [dataset for number in range(4) for dataset in _renumbered(series_datasets(5), number)]
    )


def test_a_slice_that_was_sent_again_is_left_out() -> None:
    series = series_datasets(40)
    again = series_datasets(40)[5]
    again.SOPInstanceUID = "1.2.3.1.100"
    found = stack([*series, again])
    assert numbers(found) == list(range(1, 41))
    assert (found.left_out, found.repeats) == (1, 1)
    assert numbers(stack([again, *series]))[5] == 100  # the first of its place


def _renumbered(series: list[Dataset], time: int) -> list[Dataset]:
    for number, dataset in enumerate(series):
        dataset.SOPInstanceUID = f"1.2.3.1.{100 * time + number}"
    return series


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "RGB is not grey"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR is not grey"),
        ({"SOPClassUID": LABEL_MAP_STORAGE}, "labels have no averages"),
        ({"ModalityLUTSequence": [Dataset()]}, "the modality transform is a table"),
        ({"ImagePositionPatient": None}, "no Image Position (Patient)"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no valid Image Orientation"),
        ({"PixelSpacing": None}, "no Pixel Spacing"),
    ],
)
def test_what_stands_against_a_volume_is_named(change: dict[str, Any], reason: str) -> None:
    assert reason in refusal(series_datasets(20, **change))


def test_enhanced_multi_frame_is_read_from_functional_groups() -> None:
    series = series_datasets(20, step=(0.0, 0.0, -2.0))
    series[3].RescaleIntercept = -1000
    found = stack([enhanced(series)])
    assert [frame.frame_number for frame in found.frames] == list(range(20, 0, -1))
    assert np.allclose(found.affine, stack(series).affine)
    frame = found.frames[0]
    assert frame.window == (100.0, 800.0)
    assert found.frames[16].scale == (1.0, -1000.0)
    assert frame.scale == (1.0, -1024.0)
    assert frame.look.units == "HU"


def test_dose_grids_have_offsets() -> None:
    dose = slice_dataset(1, (-60, -48, -20), Modality="RTDOSE", NumberOfFrames=20)
    dose.GridFrameOffsetVector = [2.5 * number for number in range(20)]
    dose.DoseGridScaling, dose.DoseUnits = 0.001, "GY"
    found = stack([dose])
    assert np.allclose(found.affine[:3, 2], [0, 0, 2.5])
    assert found.frames[0].scale == (0.001, 0.0)
    assert found.frames[0].look.units == "GY"
    # Absolute: patient z itself.
    dose.GridFrameOffsetVector = [-20 + 2.5 * number for number in range(20)]
    assert np.allclose(stack([dose]).affine[:3, 3], [-60, -48, -20])


def test_tomographic_nm_has_a_step_along_the_normal() -> None:
    image = slice_dataset(1, (0, 0, 0), Modality="NM", NumberOfFrames=20)
    detector = Dataset()
    detector.ImagePositionPatient = image.ImagePositionPatient
    detector.ImageOrientationPatient = image.ImageOrientationPatient
    del image.ImagePositionPatient, image.ImageOrientationPatient
    image.DetectorInformationSequence = [detector]
    image.SpacingBetweenSlices = -4
    found = stack([image])
    assert np.allclose(found.affine[:3, 2], [0, 0, 4])
    assert found.frames[0].frame_number == 20
    del image.SpacingBetweenSlices
    assert "no Image Position" in refusal([image])


@pytest.mark.parametrize(
    ("signed", "value", "limit", "expected"),
    [(1, 63536, None, (-2000, -2000)), (0, -2000, None, (63536, 63536)), (1, -5, 3, (-5, 3))],
)
def test_padding_is_read_in_the_sign_of_the_samples(
    signed: int, value: int, limit: int | None, expected: tuple[int, int]
) -> None:
    # As real series have it: the value encoded with the other sign than the samples.
    json_of = slice_dataset(1, (0, 0, 0), PixelRepresentation=signed).to_json_dict()
    json_of["00280120"] = {"vr": "US", "Value": [value]}
    if limit is not None:
        json_of["00280121"] = {"vr": "US", "Value": [limit]}
    assert frames_of(json_of)[0].look.padding == expected


def test_damaged_values_are_no_error() -> None:
    json_of = series_datasets(1)[0].to_json_dict()
    for tag in ("00200032", "00200037", "00280030", "00281052", "00281050", "00280120"):
        for value in (None, "x", {}, [], float("nan"), 1e400):
            broken = {**json_of, tag: {"vr": "DS", "Value": [value]}}
            assert len(frames_of(broken)) == 1
        frames_of({**json_of, tag: {"vr": "DS"}})
    assert frames_of({**json_of, "00280008": {"vr": "IS", "Value": [1 << 30]}}) == []


REAL = {
    "bench/ct_philips_std_1mm_140": (140, 0.0),
    "bench/mr_siemens_mprage_192": (192, 0.0),
    "dicom/ct_ge_lightspeed_human_lung": (30, 0.0),
    "dicom/mr_siemens_prisma_t1": (35, 0.0),
}


@pytest.mark.parametrize("folder", REAL)
def test_real_series(shared_data: Path, folder: str) -> None:
    found = find_stack(_real(shared_data / folder))
    count, tilt = REAL[folder]
    assert len(found.frames) == count
    assert found.tilt_degrees == pytest.approx(tilt, abs=0.05)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no ../shared/data beside the project")
def test_a_real_series_with_a_tilted_gantry() -> None:
    every = _real(SHARED_DATA / "dicom/ct_philips_ingenuity_phantom")
    assert find_stack(every).tilt_degrees == pytest.approx(18.5, abs=0.01)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no ../shared/data beside the project")
def test_a_real_time_series_of_fifteen_slices_is_none() -> None:
    with pytest.raises(UnsupportedPixels, match="150 frames lie at 15 places only"):
        find_stack(_real(SHARED_DATA / "bench/mr_ge_fmri_150"))


def _real(folder: Path) -> list[FrameGeometry]:
    maker = JsonHeaders()
    result = []
    for file in sorted(folder.rglob("*.dcm")):
        data = file.read_bytes()
        part = dicom.split_part10(data)
        header = dicom.scan(data, part.transfer_syntax_uid, part.dataset_offset)
        result += frames_of(json.loads(maker.text(header, "")))
    return result
