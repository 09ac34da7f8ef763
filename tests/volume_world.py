"""Series of slices through a known body: what geometry and 3-D overview are tested with."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

Vector = tuple[float, float, float]

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def body(points: np.ndarray) -> np.ndarray:
    """Grey value (HU) at patient points (..., 3): bright to the left, the back and the head.

    A smooth ramp along each axis of different steepness, and a ball at (20, 10, 15) mm.
    """
    x, y, z = np.moveaxis(np.asarray(points, float), -1, 0)
    ramp = 2.0 * x + 3.0 * y + 5.0 * z
    distance = np.sqrt((x - 20) ** 2 + (y - 10) ** 2 + (z - 15) ** 2)
    return ramp + 300.0 / (1.0 + np.exp((distance - 12.0) / 2.0))


def points_of(
    rows: int, columns: int, position: Vector, orientation: tuple[float, ...], spacing: float
) -> np.ndarray:
    """Patient points of the pixels of a slice (rows, columns, 3)."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    r, c = np.mgrid[0:rows, 0:columns]
    return np.array(position) + spacing * (c[..., None] * row + r[..., None] * column)


def slice_dataset(
    number: int,
    position: Vector,
    *,
    orientation: tuple[float, ...] = AXIAL,
    spacing: float = 1.5,
    rows: int = 64,
    columns: int = 80,
    study: str = "1.2.3",
    series: str = "1.2.3.1",
    slope: float = 1.0,
    intercept: float = -1024.0,
    **elements: Any,
) -> Dataset:
    """One CT slice through :func:`body`."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{series}.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.FrameOfReferenceUID = "1.2.3.99"
    dataset.PatientName, dataset.PatientID = "Ball^Test", "P1"
    dataset.StudyDate, dataset.Modality = "20240102", "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.InstanceNumber = number
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.ImagePositionPatient = [round(value, 4) for value in position]
    dataset.ImageOrientationPatient = list(orientation)
    dataset.PixelSpacing = [spacing, spacing]
    dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
    dataset.WindowCenter, dataset.WindowWidth = 100, 800
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    values = body(points_of(rows, columns, position, orientation, spacing))
    stored = np.clip(np.rint((values - intercept) / slope), 0, 4095).astype(np.uint16)
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def series_datasets(
    count: int = 24,
    *,
    orientation: tuple[float, ...] = AXIAL,
    step: Vector = (0.0, 0.0, 2.0),
    first: Vector = (-60.0, -48.0, -20.0),
    **elements: Any,
) -> list[Dataset]:
    """A series of evenly spaced slices, ``step`` mm apart."""
    return [
        slice_dataset(
            number + 1,
            tuple(a + number * b for a, b in zip(first, step, strict=True)),
            orientation=orientation,
            **elements,
        )
        for number in range(count)
    ]


def part10(dataset: Dataset) -> bytes:
    """The data set as a Part 10 file."""
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def enhanced(datasets: list[Dataset]) -> Dataset:
    """The slices as one enhanced multi-frame object: geometry in functional groups only."""
    first = datasets[0]
    result = Dataset()
    result.update(first)
    result.file_meta = first.file_meta
    for keyword in (
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"),
        *("RescaleIntercept", "WindowCenter", "WindowWidth"),
    ):
        delattr(result, keyword)
    result.SOPInstanceUID = first.SeriesInstanceUID + ".9"
    result.NumberOfFrames = len(datasets)
    shared = Dataset()
    shared.PixelMeasuresSequence = [_only(first, "PixelSpacing")]
    shared.PlaneOrientationSequence = [_only(first, "ImageOrientationPatient")]
    shared.FrameVOILUTSequence = [_only(first, "WindowCenter", "WindowWidth")]
    result.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for dataset in datasets:
        group = Dataset()
        group.PlanePositionSequence = [_only(dataset, "ImagePositionPatient")]
        group.PixelValueTransformationSequence = [
            _only(dataset, "RescaleIntercept", "RescaleSlope")
        ]
        groups.append(group)
    result.PerFrameFunctionalGroupsSequence = groups
    result.PixelData = b"".join(dataset.PixelData for dataset in datasets)
    result["PixelData"].VR = "OW"
    return result


def _only(source: Dataset, *keywords: str) -> Dataset:
    item = Dataset()
    for keyword in keywords:
        setattr(item, keyword, source[keyword].value)
    return item
