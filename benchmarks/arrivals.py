"""What nodes and modalities would tell the master: for benchmarks of the master alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import raypacs
from raypacs.master import Master
from raypacs.records import (
    InstanceRecord,
    Lease,
    NodeInfo,
    PreparedInstance,
    PreparedSeries,
    WorkResult,
)

_ROOT = "1.2.826.0.1.3680043.9.7433.3"
_BATCH = 1000


def node(
    number: int, *, cores: int = 2, kinds: tuple[str, ...] = ("PREPARE", "VERIFY")
) -> NodeInfo:
    """Return what a node says of itself; it reaches the default tiers."""
    return NodeInfo(
        name=f"node-{number}",
        host=f"host-{number}",
        boot=f"boot-{number}",
        roles=("master", "worker", "edge"),
        cores=cores,
        dicom_port=11112,
        http_port=8042,
        version=raypacs.__version__,
        bootstrap_hash="",
        pid=1,
        tiers=("image1", "web1"),
        kinds=kinds,
    )


def study_uid(number: int) -> str:
    """Return the UID of an arriving study."""
    return f"{_ROOT}.{number}"


def study(number: int, instances: int, now: float) -> list[InstanceRecord]:
    """Return a study of one series as it arrives."""
    uid = study_uid(number)
    return [_instance(uid, number, index, now) for index in range(instances)]


def _instance(study_uid: str, number: int, index: int, now: float) -> InstanceRecord:
    series = f"{study_uid}.1"
    uid = f"{series}.{index}"
    return InstanceRecord(
        study_uid=study_uid,
        series_uid=series,
        sop_instance_uid=uid,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        tier="image1",
        path=f"studies/{study_uid}/{series}/{uid}.0123456789abcdef.dcm",
        size_bytes=526_000,
        sha256=hashlib.sha256(uid.encode()).hexdigest(),
        dataset_offset_bytes=334,
        source=f"MODALITY{number % 25}",
        received_at_s=now,
        modality="CT",
        instance_number=index,
        rows=512,
        columns=512,
        frames=1,
        samples=1,
        bits_allocated=16,
        bits_stored=12,
        high_bit=11,
        photometric="MONOCHROME2",
        pixel_offset_bytes=1700,
        pixel_length_bytes=524_288,
        attributes={
            "PatientName": f"Generated^Patient {number % 997}",
            "PatientID": f"P{number}",
            "StudyDate": "20240131",
            "StudyTime": "101500",
            "SeriesNumber": "1",
            "ContentDate": "20240131",
        },
    )


def register(master: Master, numbers: Sequence[int], now: float) -> None:
    """Register studies of one instance each, a thousand at a time."""
    for start in range(0, len(numbers), _BATCH):
        batch = [one for number in numbers[start : start + _BATCH] for one in study(number, 1, now)]
        master.register(batch)


def prepared(lease: Lease, instances: int, seconds: float) -> WorkResult:
    """Return what a dispatcher reports for a study of :func:`study`."""
    series = f"{lease.study_uid}.1"
    return WorkResult(
        packs=(
            PreparedSeries(
                study_uid=lease.study_uid,
                series_uid=series,
                token=lease.token,
                tier="web1",
                pack_path=f"packs/{lease.study_uid}/{series}.{lease.token}.pack",
                header_path=f"packs/{lease.study_uid}/{series}.{lease.token}.json",
                pack_bytes=130_000 * instances,
                header_bytes=2_000,
                instances=tuple(_prepared_instances(series, instances)),
                seconds=seconds,
            ),
        )
    )


def _prepared_instances(series: str, count: int) -> Iterator[PreparedInstance]:
    for index in range(count):
        yield PreparedInstance(
            sop_instance_uid=f"{series}.{index}",
            form="htj2k",
            reason="",
            frames=1,
            raw_bytes=524_288,
            prepared_bytes=130_000,
            transfer_syntax_uid="1.2.840.10008.1.2.4.202",
            lossless_proven=True,
        )


def master(folder: Path, **options: object) -> Master:
    """Return a master with an index on SQLite and its tiers below ``folder``."""
    return Master(f"sqlite:///{folder / 'index.sqlite'}", folder, **options)  # type: ignore[arg-type]
