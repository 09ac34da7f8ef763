"""Instances on a real local tier, and PREPARE without a cluster: what the tests here share."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)

from raypacs import dicom, layout
from raypacs.config import CompressionRule, TierSettings
from raypacs.records import PackRef, PreparedSeries, StoredInstance
from raypacs.storage.pack import Pack
from raypacs.storage.tier import open_tier
from raypacs.work import prepare
from raypacs.work.parts import PrepareContext

CHUNK_BYTES = 1024 * 1024


class Store:
    """An image tier and a web tier in one folder."""

    def __init__(self, folder: Path, *, url: str = "") -> None:
        base = url or folder.as_uri()
        self.settings = (
            TierSettings(name="image1", role="image", url=f"{base}/image"),
            TierSettings(name="web1", role="web", url=f"{base}/web"),
        )
        self.image, self.web = (open_tier(settings) for settings in self.settings)

    def add(self, data: bytes) -> StoredInstance:
        """Store a Part 10 file as received."""
        part10 = dicom.split_part10(data)
        record = dicom.describe(
            data,
            transfer_syntax_uid=part10.transfer_syntax_uid,
            dataset_offset=part10.dataset_offset,
            tier="image1",
            path=f"studies/{hashlib.sha256(data).hexdigest()}.{layout.new_token()}.dcm",
            size_bytes=len(data),
            sha256=hashlib.sha256(data[part10.dataset_offset :]).hexdigest(),
            source="TEST",
            received_at_s=0.0,
        )
        self.image.put_durable(record.path, data)
        return StoredInstance(record)

    def context(self, study_uid: str, rules: Sequence[CompressionRule] = ()) -> PrepareContext:
        """Return the context of a new attempt."""
        return PrepareContext(
            study_uid=study_uid,
            token=layout.new_token(),
            tiers=self.settings,
            web=self.settings[1],
            compression=tuple(rules),
        )

    def prepare(
        self,
        instances: Iterable[StoredInstance],
        *,
        chunk_bytes: int = CHUNK_BYTES,
        rules: Sequence[CompressionRule] = (),
    ) -> PreparedSeries:
        """Prepare instances of one series, chunk by chunk, and publish them."""
        instances = list(instances)
        context = self.context(instances[0].record.study_uid, rules)
        chunks = prepare.plan_chunks(instances, chunk_bytes, compression=rules)
        parts = [prepare.prepare_chunk(chunk, context) for chunk in chunks]
        series = prepare.publish_series(parts[::-1], context)
        prepare.abandon(context)
        return series

    def open(self, series: PreparedSeries) -> Pack:
        """Open a published pack."""
        return Pack(
            self.web, PackRef(series.tier, series.pack_path, series.header_path, series.token)
        )


def image(frames: np.ndarray, **changes: Any) -> Dataset:
    """A data set around ``frames`` (frames x rows x columns [x 3]), one in a new series.

    ``changes`` are keywords of the data set; ``transfer_syntax`` and ``bits_stored`` are taken
    first.
    """
    syntax = UID(changes.pop("transfer_syntax", ExplicitVRLittleEndian))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = "1.2.3"
    dataset.SeriesInstanceUID = "1.2.3.4"
    dataset.Modality = "CT"
    dataset.PatientName = "Synthetic^Patient"
    dataset.InstanceNumber = 1
    bits = 8 * frames.dtype.itemsize
    stored = changes.pop("bits_stored", bits)
    colour = frames.ndim == 4
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    dataset.Rows, dataset.Columns = frames.shape[1:3]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, stored, stored - 1
    dataset.PixelRepresentation = int(frames.dtype.kind == "i")
    data = frames.astype(frames.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def part10(dataset: Dataset) -> bytes:
    """Write a data set as a Part 10 file."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == ExplicitVRBigEndian and dataset.BitsAllocated == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    if not syntax.is_compressed or syntax.is_deflated:
        out = io.BytesIO()
        pydicom.dcmwrite(out, dataset, enforce_file_format=True)
        return out.getvalue()
    out = io.BytesIO()
    dataset["PixelData"].is_undefined_length = True
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def noise(count: int, rows: int, columns: int, *, bits: int = 12, seed: int = 0) -> np.ndarray:
    """Smooth frames with noise, unsigned: frames x rows x columns."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    top = (1 << bits) - 1
    base = top / 2 * (1 + 0.5 * np.sin(4 * x) * np.cos(3 * y))
    frames = base + rng.normal(0, top / 200, (count, rows, columns))
    return frames.clip(0, top).astype("u2" if bits > 8 else "u1")
