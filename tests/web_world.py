"""A web edge over real tiers, a real intake and an index in memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
from fake_cluster import FakeCluster
from fake_index import FakeIndex, make_intake
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from raypacs import edges, layout
from raypacs.config import Settings, TierSettings
from raypacs.errors import AlreadyExists, NotFound
from raypacs.policy import arrival
from raypacs.records import Lease, Outcome, PackRef, PreparedSeries, StoredInstance
from raypacs.storage.tier import Tier, open_tier
from raypacs.web.server import HttpSpec, serve_http
from raypacs.web.services import Row, SearchParams, Services
from raypacs.work.prepare import (
    abandon,
    make_context,
    plan_chunks,
    prepare_chunk,
    publish_series,
)

SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def image_file(
    pixels: np.ndarray,
    number: int = 1,
    *,
    study: str = "1.2.3",
    series: str = "1.2.3.1",
    syntax: str = ExplicitVRLittleEndian,
    bits_stored: int = 0,
    **elements: Any,
) -> bytes:
    """A Part 10 file of one grey or RGB image, or of several grey frames (frames first)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = f"{series}.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientID = "Müller^Jörg", "P1"
    dataset.StudyDate, dataset.Modality = "20240102", "OT"
    dataset.InstanceNumber = number
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    frames = pixels.shape[0] if pixels.ndim == 3 and not colour else 1
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.Rows, dataset.Columns = pixels.shape[:2] if frames == 1 else pixels.shape[1:3]
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = bits_stored or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 1 if pixels.dtype.kind == "i" else 0
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    data = pixels.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


class World:
    """One cluster in miniature."""

    def __init__(self, tmp_path: Path) -> None:
        self.index = FakeIndex()
        self.cluster = FakeCluster()
        self.tiers: dict[str, Tier] = {
            name: open_tier(
                TierSettings(name=f"{name}1", role=name, url=(tmp_path / name).as_uri())
            )
            for name in ("image", "web")
        }
        self.intake = make_intake(tmp_path, self.index, tiers=[self.tiers["image"]])
        self.packs: dict[str, list[PackRef]] = {}
        self.forms: dict[str, tuple[str, str]] = {}
        self.settings = Settings(tiers=tuple(tier.settings for tier in self.tiers.values()))
        self.version = 1
        self.hinted: list[str] = []
        self.touched: list[str] = []
        self.calls: list[str] = []

    def add(self, *files: bytes) -> list[StoredInstance]:
        """Store files and wait for their registration."""
        for data in files:
            stored = self.intake.store_part10(data, source="TEST")
            assert stored.outcome is Outcome.STORED, stored
        assert self.intake.flush(10)
        return [one for one in self._all() if one.form == ""]

    def prepare(self) -> list[PreparedSeries]:
        """Prepare everything that is not yet, as a dispatcher would."""
        published = []
        waiting = [one for one in self._all() if one.form == ""]
        # One attempt, one token: for all series of a study.
        tokens = {one.record.study_uid: layout.new_token() for one in waiting}
        for study, series in dict.fromkeys(
            (one.record.study_uid, one.record.series_uid) for one in waiting
        ):
            ours = [one for one in waiting if one.record.series_uid == series]
            lease = Lease(1, "prepare", study, 1, 1, tokens[study], 1, "n1", 1e12)
            context = make_context(self.settings, lease)
            chunks = plan_chunks(ours, self.settings.chunk_bytes)
            parts = [prepare_chunk(chunk, context) for chunk in chunks]
            done = publish_series(parts, context)
            abandon(context)
            ref = PackRef(done.tier, done.pack_path, done.header_path, done.token)
            self.packs.setdefault(series, []).append(ref)
            for one in done.instances:
                self.forms[one.sop_instance_uid] = (one.form, one.reason)
            published.append(done)
        return published

    def _all(self) -> list[StoredInstance]:
        return [
            StoredInstance(record, *self.forms.get(uid, ("", "")))
            for uid, record in self.index.instances.items()
        ]

    def services(self) -> Services:
        """The callables of the web edge."""
        return Services(
            search_studies=lambda params: self._search(params, "study_uid"),
            search_series=lambda params: self._search(params, "series_uid"),
            search_instances=lambda params: self._search(params, "sop_instance_uid"),
            study=self._study,
            instances=lambda uid: [one for one in self._all() if one.record.study_uid == uid],
            series_instances=self._series_instances,
            locate_instance=lambda uid: next(
                (one for one in self._all() if one.record.sop_instance_uid == uid), None
            ),
            locate=lambda uid: list(self.packs.get(uid, [])),
            series_state=self._series_state,
            tier=self._tier,
            intake=self.intake,
            status=self.cluster.status,
            delete_study=self._delete,
            hint_complete=self.hinted.extend,
            settings=lambda: (self.version, self.settings),
            apply_settings=self._apply,
            explain_rules=partial(edges.explain_rules, lambda: (self.version, self.settings)),
            tasks=self.cluster.tasks,
            task=self.cluster.task,
            queue_state=self.cluster.queue_state,
            nodes=lambda: self.cluster.nodes,
            why=self.cluster.why,
            master=self.cluster.master,
            ask=self._ask,
            touched=self.touched.extend,
            node={"name": "n1"},
        )

    def _ask(self, question: str, *args: Any, **named: Any) -> Any:
        """Answer the questions of routes that unit tests use."""
        if question == "explain_described":
            return arrival.explained_of(self.settings, *args)
        if question == "explain_study":
            described = {"study": {}, "series": [], "source": "TEST", "address": ""}
            described |= {"status": "new", "size_bytes": 0}
            return arrival.explained_of(self.settings, described, args[1])
        raise AttributeError(question)

    def _tier(self, name: str) -> Tier:
        for tier in self.tiers.values():
            if tier.name == name:
                return tier
        raise NotFound(f"no tier {name}")

    def _series_instances(self, study_uid: str, series_uid: str) -> list[StoredInstance]:
        self.calls.append("series_instances")
        return [
            one
            for one in self._all()
            if (one.record.study_uid, one.record.series_uid) == (study_uid, series_uid)
        ]

    def _series_state(self, study_uid: str, series_uid: str) -> tuple[str, ...]:
        ours = [
            record
            for record in self.index.instances.values()
            if (record.study_uid, record.series_uid) == (study_uid, series_uid)
        ]
        packs = (ref.pack_path for ref in self.packs.get(series_uid, []))
        return (str(len(ours)), *packs) if ours else ()

    def _search(self, params: SearchParams, level: str) -> list[Row]:
        rows: dict[str, Row] = {}
        for one in self._all():
            record = one.record
            row = {**record.attributes, "StudyInstanceUID": record.study_uid}
            if level != "study_uid":
                row |= {"SeriesInstanceUID": record.series_uid, "Modality": record.modality}
            if level == "sop_instance_uid":
                row |= {"SOPInstanceUID": record.sop_instance_uid, "Rows": record.rows}
            wanted = {
                k: v for k, v in params.items() if k not in ("limit", "offset", "fuzzymatching")
            }
            if all(str(row.get(key)) in values for key, values in wanted.items()):
                rows[getattr(record, level)] = row
        start = int(params.get("offset", ["0"])[0])
        stop = start + int(params.get("limit", ["1000"])[0])
        return list(rows.values())[start:stop]

    def _study(self, uid: str) -> Row | None:
        ours = [one for one in self._all() if one.record.study_uid == uid]
        return {"study_uid": uid, "state": "received", "aside": []} if ours else None

    def _delete(self, uid: str, who: str) -> int:
        assert who
        doomed = [one.record for one in self._all() if one.record.study_uid == uid]
        if not doomed:
            raise NotFound(f"no study {uid}")
        for record in doomed:
            del self.index.instances[record.sop_instance_uid]
            self.packs.pop(record.series_uid, None)
        return len(doomed)

    def _apply(self, values: dict[str, Any], who: str, version: int | None) -> int:
        if version not in (None, self.version):
            raise AlreadyExists(f"version {self.version} of the settings is current")
        self.settings = Settings.model_validate(values)
        self.version += 1
        return self.version

    def change(self, sop_uid: str, **changes: Any) -> None:
        """Alter what the index says of an instance."""
        self.index.instances[sop_uid] = replace(self.index.instances[sop_uid], **changes)


@contextmanager
def served(world: World) -> Iterator[httpx.Client]:
    """The real server on a free port, and a client of it."""
    server = serve_http(HttpSpec(port=0), world.services())
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
            yield client
    finally:
        server.shutdown()
