"""The generated CT series: valid headers, realistic pixels, reproducible."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from raypacs.synthetic import (
    INTERCEPT_HU,
    CtSeries,
    ct_instances,
    ct_planes,
    generate_ct_series,
)


def test_compresses_like_a_real_ct() -> None:
    planes = list(ct_planes(CtSeries(slices=3)))
    raw = sum(plane.nbytes for plane in planes)
    coded = sum(len(imagecodecs.htj2k_encode(plane)) for plane in planes)
    assert 2 <= raw / coded <= 4.6


def test_pixels_have_air_lung_soft_tissue_and_bone_in_12_bits() -> None:
    plane = next(iter(ct_planes(CtSeries(slices=40, rows=256, columns=256))))
    hounsfield = plane.astype(int) + INTERCEPT_HU
    assert plane.dtype == np.uint16
    assert plane.max() < 4096
    assert plane[0, 0] == 0
    for low, high, least in [(-950, -780, 0.03), (-60, 120, 0.08), (300, 1500, 0.005)]:
        assert ((hounsfield > low) & (hounsfield < high)).mean() > least


def test_noise_is_correlated_between_neighbours_and_not_between_slices() -> None:
    first, second = list(ct_planes(CtSeries(slices=2, rows=256, columns=256)))
    patch = np.s_[150:170, 40:60]
    difference = first[patch].astype(float) - second[patch].astype(float)
    difference -= difference.mean()
    neighbour = (difference[:, 1:] * difference[:, :-1]).mean() / difference.var()
    assert difference.std() > 5
    assert 0.1 < neighbour < 0.9


def test_neighbouring_slices_look_alike_and_distant_ones_differ() -> None:
    planes = [plane.astype(float) for plane in ct_planes(CtSeries(slices=30, rows=64, columns=64))]
    near = np.abs(planes[1] - planes[0]).mean()
    far = np.abs(planes[29] - planes[0]).mean()
    assert far > near


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    for name, seed in zip(names, (7, 7, 8), strict=True):
        generate_ct_series(tmp_path / name, slices=2, rows=32, columns=40, seed=seed)
    once, again, other = ((tmp_path / name / "CT00002.dcm").read_bytes() for name in names)
    assert once == again
    assert once != other


def test_files_are_valid_ct_images_of_one_series(tmp_path: Path) -> None:
    paths = generate_ct_series(tmp_path, slices=4, rows=32, columns=48, seed=3)
    read = [pydicom.dcmread(path) for path in paths]
    assert len({dataset.SeriesInstanceUID for dataset in read}) == 1
    assert len({dataset.SOPInstanceUID for dataset in read}) == 4
    assert [dataset.InstanceNumber for dataset in read] == [1, 2, 3, 4]
    steps = np.diff([dataset.ImagePositionPatient[2] for dataset in read])
    assert np.allclose(steps, steps[0])
    for dataset in read:
        assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert dataset.SOPClassUID == CTImageStorage
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert (dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit) == (16, 12, 11)
        assert dataset.pixel_array.shape == (32, 48)


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        CtSeries(slices=0)


def test_data_sets_come_one_by_one() -> None:
    series = ct_instances(CtSeries(slices=10**6, rows=16, columns=16))
    assert next(series).InstanceNumber == 1
    assert next(series).InstanceNumber == 2
