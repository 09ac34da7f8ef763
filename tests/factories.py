"""Values for tests: records as an edge would make them."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from typing import Any

from raypacs import layout
from raypacs.policy.kinds import KINDS
from raypacs.records import (
    InstanceRecord,
    Lease,
    NodeInfo,
    PreparedInstance,
    PreparedSeries,
    StoredInstance,
)

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
HTJ2K_RPCL = "1.2.840.10008.1.2.4.202"
_numbers = itertools.count(1)


def instance_record(
    *, study: str = "1.2.3", series: str = "", number: int | None = None, **changes: Any
) -> InstanceRecord:
    """One CT instance of 512 x 512 x 16 bit; ``number`` makes its UID and data its own."""
    number = next(_numbers) if number is None else number
    series = series or f"{study}.1"
    uid = f"{series}.{number}"
    record = InstanceRecord(
        study_uid=study,
        series_uid=series,
        sop_instance_uid=uid,
        sop_class_uid=CT_IMAGE_STORAGE,
        transfer_syntax_uid=EXPLICIT_LITTLE,
        tier="image1",
        path=layout.instance(study, series, uid, layout.new_token()),
        size_bytes=526_000,
        sha256=hashlib.sha256(uid.encode()).hexdigest(),
        dataset_offset_bytes=334,
        source="MODALITY",
        received_at_s=1_700_000_000.0,
        modality="CT",
        instance_number=number,
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
            "PatientName": "Doe^Jane",
            "PatientID": "P1",
            "StudyDate": "20240131",
            "StudyTime": "101500",
            "AccessionNumber": "A1",
            "StudyDescription": "Chest",
            "SeriesNumber": "1",
            "SeriesDescription": "Axial",
            "ContentDate": "20240131",
        },
    )
    record = replace(record, **changes)
    if "pixel_length_bytes" in changes:
        return record
    pixels = record.rows * record.columns * record.samples * record.frames
    return replace(record, pixel_length_bytes=pixels * record.bits_allocated // 8)


def prepared_series(
    stored: list[StoredInstance], lease: Lease, *, tier: str = "web1", pack_bytes: int = 0
) -> PreparedSeries:
    """The pack that an attempt would publish for instances of one series."""
    first = stored[0].record
    path = layout.pack(first.study_uid, first.series_uid, lease.token)
    return PreparedSeries(
        study_uid=first.study_uid,
        series_uid=first.series_uid,
        token=lease.token,
        tier=tier,
        pack_path=path,
        header_path=layout.header_sidecar(path),
        pack_bytes=pack_bytes or 100_000 * len(stored),
        header_bytes=1_000,
        instances=tuple(
            PreparedInstance(
                sop_instance_uid=one.record.sop_instance_uid,
                form="htj2k",
                reason="",
                frames=one.record.frames,
                raw_bytes=524_288,
                prepared_bytes=100_000,
                transfer_syntax_uid=HTJ2K_RPCL,
                lossless_proven=True,
            )
            for one in stored
        ),
        seconds=0.5,
    )


def node_info(name: str = "n1", *, boot: str = "b1") -> NodeInfo:
    """A node with every role."""
    return NodeInfo(
        name=name,
        host="127.0.0.1",
        boot=boot,
        roles=("master", "worker", "listener", "gateway"),
        cores=2,
        dicom_port=11112,
        http_port=8104,
        version="0.1.0",
        bootstrap_hash="abc",
        pid=1,
        kinds=tuple(KINDS),
    )
