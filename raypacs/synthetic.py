"""A CT series that nobody was ever scanned for: a thorax phantom with realistic noise.

For the demo, tests and benchmarks: real enough that compression ratios mean something (HTJ2K
between 2 and 4.6, as on real CT), free of patient data, quick to make, and the same bytes for the
same seed. Every data set is a valid CT Image Storage instance (PS3.3 A.3): Explicit VR Little
Endian, unsigned, 12 bits stored in 16, rescale intercept -1024.

The phantom lives in coordinates from -1 to 1 over the image (x to the patient's left, y to the
back) and z in slices; every shape has an edge about one pixel soft, like a reconstruction kernel.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

Plane = NDArray[np.float32]

BITS_STORED = 12
INTERCEPT_HU = -1024
FIELD_OF_VIEW_MM = 360.0
SLICE_STEP_MM = 1.25
NOISE_HU = 11.0
"""Standard deviation in soft tissue: a standard dose chest scan at 1.25 mm."""

_AIR, _LUNG, _FAT, _MUSCLE, _BLOOD, _MARROW, _BONE = -1000, -860, -95, 55, 140, 220, 650
_VESSELS = 70
_VERTEBRA_SLICES = 20.0
_RECONSTRUCTED_RADIUS = 0.995


@dataclass(frozen=True)
class CtSeries:
    """What to generate: number of slices, matrix (rows x columns) and seed."""

    slices: int = 100
    rows: int = 512
    columns: int = 512
    seed: int = 1
    patient_name: str = "Phantom^Thorax"
    patient_id: str = "RAYPACS-PHANTOM"
    source: str = "raypacs synthetic CT"

    def __post_init__(self) -> None:
        if min(self.slices, self.rows, self.columns) < 1:
            raise ValueError("slices, rows and columns are at least 1")

    def uid(self, *what: object) -> str:
        """Return a UID that depends on the seed, the geometry and ``what`` (PS3.5 B.2)."""
        parts = (self.source, self.seed, self.slices, self.rows, self.columns, *what)
        name = "/".join(str(part) for part in parts)
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"


def generate_ct_series(
    directory: Path, *, slices: int = 100, rows: int = 512, columns: int = 512, seed: int = 1
) -> list[Path]:
    """Write a CT series of ``slices`` Part 10 files into ``directory`` and return their paths.

    Raises:
        OSError: ``directory`` cannot be written.
        ValueError: a count below 1.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    series = CtSeries(slices=slices, rows=rows, columns=columns, seed=seed)
    for number, dataset in enumerate(ct_instances(series), start=1):
        path = directory / f"CT{number:05d}.dcm"
        dcmwrite(path, dataset, enforce_file_format=True)
        paths.append(path)
    return paths


def ct_instances(series: CtSeries) -> Iterator[Dataset]:
    """Yield the data sets of ``series`` slice by slice, with file meta, never all in memory."""
    study_uid, series_uid, frame_uid = (
        series.uid("study"),
        series.uid("series"),
        series.uid("frame"),
    )
    for index, plane in enumerate(ct_planes(series)):
        sop_uid = series.uid("instance", index)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = UID(sop_uid)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPInstanceUID = sop_uid
        dataset.StudyInstanceUID = study_uid
        dataset.SeriesInstanceUID = series_uid
        dataset.FrameOfReferenceUID = frame_uid
        _describe_patient_and_series(dataset, series)
        _describe_image(dataset, series, index)
        dataset.PixelData = plane.astype("<u2", copy=False).tobytes()
        yield dataset


def ct_planes(series: CtSeries) -> Iterator[NDArray[np.uint16]]:
    """Yield the stored pixel values of each slice (rows x columns, 12 bits)."""
    random = np.random.default_rng(series.seed)
    phantom = _Phantom(series, random)
    for index in range(series.slices):
        hounsfield = phantom.plane(index)
        hounsfield += phantom.noise(hounsfield, random)
        stored = np.rint(hounsfield - INTERCEPT_HU)
        np.clip(stored, 0, 2**BITS_STORED - 1, out=stored)
        # Outside the reconstruction circle scanners write a constant.
        stored[phantom.outside] = 0
        yield stored.astype(np.uint16)


class _Phantom:
    """Shapes of one thorax; ``plane`` draws one slice in Hounsfield units."""

    def __init__(self, series: CtSeries, random: np.random.Generator) -> None:
        self._shape = (series.rows, series.columns)
        self._slices = series.slices
        self._x = np.linspace(-1, 1, series.columns, dtype=np.float32)
        self._y = np.linspace(-1, 1, series.rows, dtype=np.float32)[:, None]
        self._softness = 2.0 / max(min(series.rows, series.columns), 2)
        self.outside = (self._x**2 + self._y**2) > _RECONSTRUCTED_RADIUS**2
        self._spectrum = _noise_spectrum(self._shape)
        side = random.choice([-1.0, 1.0], _VESSELS)
        self._vessel_start = np.column_stack(
            [side * random.uniform(0.2, 0.52, _VESSELS), random.uniform(-0.32, 0.3, _VESSELS)]
        )
        self._vessel_drift = random.normal(0, 0.0025, (_VESSELS, 2))
        self._vessel_bend = random.uniform(0, 2 * np.pi, _VESSELS)
        self._vessel_radius = random.gamma(2.0, 0.005, _VESSELS) + 0.004

    def plane(self, index: int) -> Plane:
        """Return slice ``index`` without noise (rows x columns, Hounsfield units)."""
        z = index - self._slices / 2
        swell = 1 + 0.03 * np.sin(z / 40)
        image: Plane = np.full(self._shape, _AIR, dtype=np.float32)
        self._couch(image)
        self._ellipse(image, (0, 0), (0.82 * swell, 0.60 * swell), _FAT)
        self._ellipse(image, (0, 0.01), (0.75 * swell, 0.54 * swell), _MUSCLE)
        self._lungs(image, index, z)
        self._ribs(image, z, swell)
        self._mediastinum(image, z)
        self._spine(image, z)
        return image

    def noise(self, hounsfield: Plane, random: np.random.Generator) -> Plane:
        """Return correlated noise, stronger inside the body than in air (rows x columns, HU)."""
        white = random.standard_normal((*self._spectrum.shape, 2), dtype=np.float32)
        spectrum = (white[..., 0] + 1j * white[..., 1]) * self._spectrum
        texture: Plane = np.fft.irfft2(spectrum, s=self._shape).astype(np.float32, copy=False)
        deviation = texture.std()
        if deviation > 0:
            texture *= NOISE_HU / deviation
        texture *= np.where(hounsfield > -900, np.float32(1.0), np.float32(0.6))
        return texture

    def _couch(self, image: Plane) -> None:
        height = 0.66 + 0.05 * (1 - self._x**2)
        distance = np.abs(self._y - height)
        image += np.clip((0.012 - distance) / self._softness + 0.5, 0, 1) * 850

    def _lungs(self, image: Plane, index: int, z: float) -> None:
        grow = 0.75 + 0.25 * np.sin(np.pi * (index + 0.5) / max(self._slices, 1))
        for side in (-1.0, 1.0):
            axes = (0.27 * grow, 0.42 * grow)
            self._ellipse(image, (side * 0.37, -0.01), axes, _LUNG)
        self._ellipse(image, (-0.37, 0.22 * grow), (0.16 * grow, 0.10), _LUNG + 25)
        for number in range(_VESSELS):
            bend = 0.02 * np.sin(z / 25 + self._vessel_bend[number])
            x, y = self._vessel_start[number] + z * self._vessel_drift[number] + bend
            if abs((abs(x) - 0.37) / (0.26 * grow)) ** 2 + abs(y / (0.40 * grow)) ** 2 < 1:
                radius = self._vessel_radius[number] * (1 + 0.3 * np.sin(z / 11 + number))
                self._ellipse(image, (x, y), (radius, radius * 1.15), _BLOOD - 90)

    def _ribs(self, image: Plane, z: float, swell: float) -> None:
        for number in range(14):
            # Ribs run obliquely: in each slice every rib is met at another angle.
            angle = 2 * np.pi * (number / 14) + 0.012 * z
            x, y = 0.70 * swell * np.cos(angle), 0.50 * swell * np.sin(angle)
            self._ellipse(image, (x, y), (0.050, 0.026), _BONE)
            self._ellipse(image, (x, y), (0.036, 0.014), _MARROW)

    def _mediastinum(self, image: Plane, z: float) -> None:
        beat = 1 + 0.02 * np.sin(z / 6)
        self._ellipse(image, (0.08, -0.12), (0.24 * beat, 0.22 * beat), _MUSCLE - 10)
        self._ellipse(image, (0.14, -0.14), (0.10 * beat, 0.11 * beat), _BLOOD)
        self._ellipse(image, (0.02, -0.17), (0.07, 0.08 * beat), _BLOOD + 20)
        self._ellipse(image, (0.10 + 0.01 * np.sin(z / 30), 0.17), (0.055, 0.055), _BLOOD + 30)
        self._ellipse(image, (0.0, 0.04), (0.035, 0.028), _AIR + 20)

    def _spine(self, image: Plane, z: float) -> None:
        in_disc = abs((z / _VERTEBRA_SLICES) % 1 - 0.5) > 0.42
        outer, inner = (110, 90) if in_disc else (_BONE - 150, _MARROW)
        self._ellipse(image, (0, 0.30), (0.115, 0.09), outer)
        self._ellipse(image, (0, 0.30), (0.098, 0.074), inner)
        self._ellipse(image, (0, 0.46), (0.022, 0.07), _BONE - 100)
        for side in (-1.0, 1.0):
            self._ellipse(image, (side * 0.11, 0.42), (0.07, 0.022), _BONE - 100)
        self._ellipse(image, (0, 0.405), (0.042, 0.034), 25)

    def _ellipse(
        self, image: Plane, centre: tuple[float, float], axes: tuple[float, float], value: float
    ) -> None:
        """Blend ``value`` into an ellipse; only its bounding box is touched."""
        margin = 2 * self._softness
        columns = slice(*np.searchsorted(self._x, _span(centre[0], axes[0], margin)))
        rows = slice(*np.searchsorted(self._y[:, 0], _span(centre[1], axes[1], margin)))
        part = image[rows, columns]
        if not part.size:
            return
        x = (self._x[columns] - np.float32(centre[0])) / np.float32(axes[0])
        y = (self._y[rows] - np.float32(centre[1])) / np.float32(axes[1])
        radius = np.sqrt(x * x + y * y)
        inside = np.clip((1 - radius) * np.float32(min(axes) / self._softness) + 0.5, 0, 1)
        part += inside * (np.float32(value) - part)


def _span(centre: float, axis: float, margin: float) -> tuple[float, float]:
    return centre - axis - margin, centre + axis + margin


def _noise_spectrum(shape: tuple[int, int]) -> Plane:
    """Return the amplitude of CT noise over spatial frequency, as ``rfft2`` lays it out.

    Filtered back projection lifts high frequencies (ramp), the soft kernel takes the highest away.
    """
    vertical = np.fft.fftfreq(shape[0])[:, None]
    horizontal = np.fft.rfftfreq(shape[1])
    frequency = np.hypot(vertical, horizontal) / 0.5
    amplitude = np.sqrt(frequency) * np.exp(-((frequency / 0.62) ** 2))
    return amplitude.astype(np.float32)


def _describe_patient_and_series(dataset: Dataset, series: CtSeries) -> None:
    """Patient, General Study, General Series and General Equipment modules (PS3.3 C.7)."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = series.patient_name
    dataset.PatientID = f"{series.patient_id}-{series.seed}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = "20240229"
    dataset.ContentDate = "20240229"
    dataset.StudyTime = dataset.SeriesTime = "081500"
    dataset.StudyID = str(series.seed)
    dataset.AccessionNumber = f"P{series.seed:08d}"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "CT thorax phantom"
    dataset.SeriesDescription = f"Thorax {SLICE_STEP_MM} mm, generated"
    dataset.SeriesNumber = 2
    dataset.Modality = "CT"
    dataset.PatientPosition = "HFS"
    dataset.PositionReferenceIndicator = ""
    dataset.Manufacturer = "raypacs"
    dataset.ManufacturerModelName = "synthetic CT"
    dataset.SoftwareVersions = "1"
    dataset.BodyPartExamined = "CHEST"


def _describe_image(dataset: Dataset, series: CtSeries, index: int) -> None:
    """General Image, Image Plane, Image Pixel and CT Image modules (PS3.3 C.7.6, C.8.2.1)."""
    dataset.SOPClassUID = CTImageStorage
    dataset.InstanceNumber = index + 1
    dataset.AcquisitionNumber = 1
    seconds = 500 + index * 0.05
    dataset.AcquisitionTime = dataset.ContentTime = f"0816{seconds % 60:09.6f}"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.BurnedInAnnotation = "NO"
    position_z = round(-index * SLICE_STEP_MM, 3)
    half = FIELD_OF_VIEW_MM / 2
    spacing = [
        round(FIELD_OF_VIEW_MM / series.rows, 6),
        round(FIELD_OF_VIEW_MM / series.columns, 6),
    ]
    dataset.PixelSpacing = spacing
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-half + spacing[1] / 2, -half + spacing[0] / 2, position_z]
    dataset.SliceLocation = position_z
    dataset.SliceThickness = SLICE_STEP_MM
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = series.rows
    dataset.Columns = series.columns
    dataset.BitsAllocated = 16
    dataset.BitsStored = BITS_STORED
    dataset.HighBit = BITS_STORED - 1
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept = INTERCEPT_HU
    dataset.RescaleSlope = 1
    dataset.RescaleType = "HU"
    dataset.WindowCenter = [40, -600]
    dataset.WindowWidth = [400, 1500]
    dataset.KVP = 120
    dataset.XRayTubeCurrent = 180 + int(20 * np.sin(index / 15))
    dataset.ExposureTime = 500
    dataset.ConvolutionKernel = "STANDARD"
