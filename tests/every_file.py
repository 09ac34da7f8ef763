"""Every real file at hand through the real way: in by the intake, prepared, out by DICOMweb.

What the evidence shares: `tests/acceptance/test_every_file.py` asserts on it,
`scripts/every_file_table.py` writes it down (docs/every-file.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import httpx
import pydicom
from conftest import SHARED_DATA
from pydicom.data import get_testdata_files
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSLossless
from web_world import World, served

from raypacs import dicom
from raypacs.errors import MalformedInstance
from raypacs.records import InstanceRecord, Outcome, PackRef, PreparedInstance
from raypacs.storage.pack import Pack, PackInstance
from raypacs.storage.tier import Tier

QUARANTINED = "quarantined"
COPIED = "copied"

_WHEEL = Path(pydicom.__file__).parent / "data"


@dataclass(frozen=True)
class Arrived:
    """One file after its way: prepared, copied or quarantined.

    ``native`` is the instance as the node gives it in Explicit VR Little Endian (prepared ones
    only), ``as_received`` whether what is kept of a file that is not prepared are its very bytes.
    ``record``, ``instance`` and ``pack`` are None for a quarantined file.
    """

    name: str
    path: Path
    reason: str
    as_received: bool = False
    native: bytes = field(default=b"", repr=False)
    record: InstanceRecord | None = None
    instance: PreparedInstance | None = None
    pack: Pack | None = field(default=None, repr=False)

    @property
    def outcome(self) -> str:
        """Form in the web cache, or 'quarantined'."""
        return self.instance.form if self.instance is not None else QUARANTINED

    @property
    def prepared(self) -> bool:
        """Whether it got a form of its own."""
        return self.outcome not in (COPIED, QUARANTINED)

    @property
    def uid(self) -> str:
        """SOP Instance UID."""
        assert self.record is not None
        return self.record.sop_instance_uid

    @property
    def pixels(self) -> PackInstance:
        """What the pack says of the decoded samples."""
        assert self.pack is not None
        return self.pack.instance(self.uid)

    def stored(self) -> bytes:
        """Return the Part 10 file with codestreams, as the pack builds it."""
        assert self.pack is not None
        return b"".join(self.pack.part10(self.uid))

    def codes(self) -> list[bytes]:
        """Return the codestreams of all frames."""
        assert self.pack is not None
        return [self.pack.read_frame(self.uid, 1 + n) for n in range(self.pixels.frames)]


def words_swapped(one: Arrived) -> bool:
    """Whether the source is 32-bit samples in big endian words (OW).

    GDCM and dcmtk swap the bytes of 16-bit words there, raypacs and pydicom those of samples.
    """
    record = one.record
    assert record is not None
    big = record.transfer_syntax_uid == dicom.EXPLICIT_VR_BE
    return big and record.bits_allocated == 32


def sign_dropped(one: Arrived) -> bool:
    """Whether the source is signed JPEG-LS of fewer bits than are allocated.

    The codestream has no sign: GDCM and dcmtk take it from the highest bit allocated, where there
    is none; raypacs and pydicom from the highest bit stored (PS3.5 section 8.2.3).
    """
    record = one.record
    assert record is not None
    signed = record.transfer_syntax_uid == JPEGLSLossless and record.pixel_representation == 1
    return signed and record.bits_stored < record.bits_allocated


def shared_files() -> list[tuple[str, Path]]:
    """Return the files of ../shared/data/dicom that MANIFEST.csv lists, by relative path."""
    base = SHARED_DATA / "dicom"
    paths = sorted(path for path in base.rglob("*") if path.is_file() and path.parent != base)
    return [(str(path.relative_to(base)), path) for path in paths]


def bundled_files() -> list[tuple[str, Path]]:
    """Return the files that come with pydicom, by relative path."""
    paths = (Path(name) for name in get_testdata_files())
    return sorted(
        (str(path.relative_to(_WHEEL)), path)
        for path in paths
        if path.is_file() and path.is_relative_to(_WHEEL)
    )


def files() -> list[tuple[str, Path]]:
    """Return ../shared/data/dicom where it is there, what comes with pydicom where it is not."""
    return shared_files() if (SHARED_DATA / "dicom").is_dir() else bundled_files()


@cache
def arrived(folder: Path) -> tuple[Arrived, ...]:
    """Send every file in, prepare it, and return what became of each, in the order of names.

    Done once for all tests of a session; what the tiers hold stays below ``folder``. A SOP
    Instance UID that comes again (one image in sixteen transfer syntaxes) would be a conflict, so
    it goes to another node: every file is looked at for itself.
    """
    found: list[Arrived] = []
    for number, wave in enumerate(_waves(files())):
        found += _wave(wave, folder / f"node{number}")
    return tuple(sorted(found, key=lambda one: one.name))


@cache
def completed(folder: Path) -> tuple[Arrived, ...]:
    """Return the same for pictures that were quarantined for want of an identity, given one.

    Samples of transfer syntaxes often are frames without a patient, a study or a file meta: no node
    takes such files in, but their frames are as good as any. The UIDs, and the preamble, are made
    here; whatever else they have stays.
    """
    lacking = [one for one in arrived(folder) if one.outcome == QUARANTINED and _anonymous(one)]
    base = folder / "completed"
    base.mkdir()
    made = [
        (one.name, base / f"{n}.dcm") for n, one in enumerate(lacking) if _complete(one, base, n)
    ]
    return tuple(_wave(made, folder / "completed-node"))


def _anonymous(one: Arrived) -> bool:
    return "Study Instance UID" in one.reason or "no DICM prefix" in one.reason


def _complete(one: Arrived, base: Path, number: int) -> bool:
    """Write a file with an identity; False for one without a picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(one.path, force=True)
        if "PixelData" not in dataset or "Rows" not in dataset:
            return False
        dataset.StudyInstanceUID = f"1.2.3.{number}"
        dataset.SeriesInstanceUID = f"1.2.3.{number}.1"
        dataset.SOPInstanceUID = f"1.2.3.{number}.1.1"
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        dataset.save_as(base / f"{number}.dcm", enforce_file_format=True)
    return True


def _waves(files: Sequence[tuple[str, Path]]) -> list[list[tuple[str, Path]]]:
    """Divide files so that no wave has a SOP Instance UID twice."""
    waves: list[list[tuple[str, Path]]] = []
    seen: list[set[str]] = []
    for name, path in files:
        uid = _uid(path)
        number = next((n for n, uids in enumerate(seen) if uid not in uids), len(waves))
        if number == len(waves):
            waves.append([])
            seen.append(set())
        waves[number].append((name, path))
        if uid:
            seen[number].add(uid)
    return waves


def _uid(path: Path) -> str:
    data = path.read_bytes()
    try:
        part10 = dicom.split_part10(data)
        return _described(data, part10).sop_instance_uid
    except MalformedInstance:
        return ""


def _described(data: bytes, part10: dicom.Part10) -> InstanceRecord:
    return dicom.describe(
        data,
        transfer_syntax_uid=part10.transfer_syntax_uid,
        dataset_offset=part10.dataset_offset,
        tier="",
        path="",
        size_bytes=len(data),
        sha256="",
        source="",
        received_at_s=0.0,
    )


def _wave(files: list[tuple[str, Path]], folder: Path) -> Iterator[Arrived]:
    world = World(folder)
    answers = [world.intake.store_part10(path.read_bytes(), source="TEST") for _, path in files]
    assert world.intake.flush(60)
    aside = _contents(world.tiers["image"], "quarantine/")
    prepared: dict[str, tuple[PreparedInstance, Pack]] = {}
    for series in world.prepare():
        ref = PackRef(series.tier, series.pack_path, series.header_path, series.token)
        pack = Pack(world.tiers["web"], ref)
        prepared |= {one.sop_instance_uid: (one, pack) for one in series.instances}
    with served(world) as web:
        for (name, path), answer in zip(files, answers, strict=True):
            if answer.outcome is not Outcome.STORED:
                assert answer.outcome is Outcome.QUARANTINED, (name, answer)
                yield Arrived(name, path, answer.reason, path.read_bytes() in aside)
                continue
            record = world.index.instances[answer.sop_instance_uid]
            instance, pack = prepared[answer.sop_instance_uid]
            if instance.form == COPIED:
                kept = {
                    b"".join(pack.part10(record.sop_instance_uid)),
                    _fetch(web, record, "*"),
                }
                same, native = kept == {path.read_bytes()}, b""
            else:
                same, native = False, _fetch(web, record, dicom.EXPLICIT_VR_LE)
            yield Arrived(name, path, instance.reason, same, native, record, instance, pack)
    world.intake.close()


def _contents(tier: Tier, prefix: str) -> set[bytes]:
    return {tier.read(info.path) for info in tier.walk(prefix)}


def _fetch(web: httpx.Client, record: InstanceRecord, transfer_syntax_uid: str) -> bytes:
    """Return an instance by WADO-RS, as a single part."""
    url = (
        f"/dicom-web/studies/{record.study_uid}/series/{record.series_uid}"
        f"/instances/{record.sop_instance_uid}"
    )
    accept = f"application/dicom; transfer-syntax={transfer_syntax_uid}"
    answer = web.get(url, headers={"Accept": accept})
    assert answer.status_code == 200, (record.sop_instance_uid, answer.text)
    return answer.content
