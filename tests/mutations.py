"""Damaged files through the real way, in processes of their own, beside independent decoders.

    PREPARE:  describe -> prepare_chunk -> publish_series -> read back from the pack
    expected: pydicom takes the file apart; zlib, pydicom's RLE, OpenJPEG of pylibjpeg and GDCM (in
              one more process) decode it

A mutation is known by its number: the file it starts from and what happens to it follow from that.
"""

from __future__ import annotations

import io
import multiprocessing
import random
import resource
import struct
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openjpeg
import pydicom
from coded_frames import ENCODERS, J, colour, encapsulated, every_form, part10, smooth
from gdcm_reader import Gdcm
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.errors import BytesLengthException
from pydicom.pixels.decoders.rle import _rle_decode_frame
from stored_series import Store, image
from stored_series import part10 as written

from raypacs import dicom
from raypacs.codec import inbound, registry
from raypacs.errors import MalformedInstance
from raypacs.records import PreparedInstance
from raypacs.storage.pack import Pack

Array = np.ndarray[Any, Any]

HANG_S = 60.0
"""No file of some kilobytes takes a worker as long as this."""
_MEMORY_BYTES = 6 << 30
_WHEEL_BYTES = 40_000
_JPEG = frozenset({J + "57", J + "70", J + "80", J + "81"})
_JPEG_2000 = frozenset(J + number for number in ("90", "91", "92", "201", "202", "203"))
_NOT_READ = (
    *(ValueError, TypeError, LookupError, AttributeError, RuntimeError, NotImplementedError),
    *(EOFError, zlib.error, struct.error, OverflowError, AssertionError, BytesLengthException),
)


def seeds() -> list[bytes]:
    """The files that are damaged: every form there is, and small ones of the pydicom wheel."""
    files = [form.data for form in every_form()]
    grey = np.stack([smooth(24, 33, depth=12, seed=n) for n in range(2)])
    for syntax in dicom.NATIVE:
        files.append(written(image(grey, bits_stored=12, transfer_syntax=syntax)))
    files.append(written(image(colour(24, 34)[None])))
    for uid in (J + "70", J + "80", J + "90", J + "201"):
        files += _in_fragments(uid, grey if uid != J + "201" else grey << 4)
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    small = (path for path in sorted(folder.rglob("*.dcm")) if path.stat().st_size < _WHEEL_BYTES)
    return files + [path.read_bytes() for path in small]


def _in_fragments(uid: str, frames: Array) -> list[bytes]:
    """Frames in fragments of half a codestream, with a Basic Offset Table and without."""
    depth = 16 if uid == J + "201" else 12
    parts: list[bytes] = []
    starts: list[int] = []
    for frame in frames:
        code = ENCODERS[uid](frame, depth)
        half = len(code) // 4 * 2
        starts.append(sum(8 + len(part) + len(part) % 2 for part in parts))
        parts += [code[:half], code[half:]]
    return [
        part10(frames, uid, encapsulated(parts, table), bits_stored=depth) for table in (starts, ())
    ]


def mutated(files: Sequence[bytes], number: int) -> bytes:
    """Return mutation ``number``: one of ``files``, damaged in one to four places.

    Most keep their length, so that the damage gets past the walk over elements and fragments.
    """
    rnd = random.Random(number)
    data = bytearray(files[number % len(files)])
    pixels = data.find(b"\xe0\x7f\x10\0")
    keeps = rnd.random() < 0.75
    for _ in range(rnd.randint(1, 4)):
        # In the header and in the pixels: both are where decoders believe what they read.
        begin, end = (132, pixels) if pixels > 132 and rnd.random() < 0.25 else (pixels, len(data))
        begin = min(max(0, begin), len(data) - 1)
        part = data[begin:end]
        first = 20 if keeps and begin == pixels else 0  # past the first item's header
        last = min(len(part), first + 200) if rnd.random() < 0.4 else len(part)
        whole = len(part) - 8
        _damage(part, rnd.randrange(min(first, last - 1), last), rnd)
        if keeps:
            # The last bytes are the delimiter.
            part = part[:whole].ljust(whole, b"\0") + data[begin:end][-8:] if whole > 0 else part
        data[begin:end] = part
        if len(data) < 200:
            break
    return bytes(data)


def _damage(data: bytearray, at: int, rnd: random.Random) -> None:
    size = rnd.randint(1, 16)
    kind = rnd.randrange(8)
    if kind <= 2:
        data[at] ^= 1 << rnd.randrange(8)
    elif kind == 3:
        data[at] = rnd.choice((0, 1, 0x7F, 0x80, 0xFF))
    elif kind == 4:
        del data[at:]
    elif kind == 5:
        data[at:at] = rnd.randbytes(size)
    elif kind == 6:
        del data[at : at + size]
    else:
        other = rnd.randrange(len(data))
        data[at : at + size] = data[other : other + size]


@dataclass
class Found:
    """What became of mutations. ``wrong`` says of each fault what and where."""

    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Add what another process found."""
        self.kinds.update(other.kinds)
        self.wrong += other.wrong


def run(numbers: range, folder: Path, *, processes: int) -> Found:
    """Run mutations in ``processes`` processes; one that dies or hangs is a fault of its file."""
    context = multiprocessing.get_context("spawn")
    shares = [numbers[n::processes] for n in range(processes)]
    found = Found()
    workers = [_Worker(context, share, folder) for share in shares]
    while workers:
        for worker in workers:
            worker.look(found)
        workers = [worker for worker in workers if not worker.done]
    return found


class _Worker:
    """A process for a share of the numbers, started again behind one that ended it."""

    def __init__(self, context: Any, share: range, folder: Path) -> None:
        self._context, self._share, self._folder = context, share, folder
        self.done = False
        self._start()

    def _start(self) -> None:
        self._at: Synchronized[int] = self._context.Value("q", -1)
        self._seen, self._since = -1, time.monotonic()
        self._mine, theirs = self._context.Pipe()
        arguments = (self._share, str(self._folder), self._at, theirs)
        self._process = self._context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def look(self, found: Found) -> None:
        """Take the result if there is one; see whether the process lives and moves on."""
        if self._mine.poll(0.2):
            try:
                found.add(self._mine.recv())
            except EOFError:
                self._lost(found, "ended the process")
                return
            self._process.join()
            self.done = True
            return
        if self._at.value != self._seen:
            self._seen, self._since = self._at.value, time.monotonic()
        elif time.monotonic() - self._since > HANG_S:
            self._process.kill()
            self._lost(found, f"took more than {HANG_S:g} s")

    def _lost(self, found: Found, what: str) -> None:
        self._process.join()
        number = self._at.value
        found.kinds["lost"] += 1
        found.wrong.append(f"mutation {number} {what} (exit code {self._process.exitcode})")
        if number not in self._share:
            self.done = True
            return
        done = self._share.index(number) + 1
        self._share = self._share[done:]
        if self._share:
            self._start()
        else:
            self.done = True


def _work(share: range, folder: str, at: Synchronized[int], pipe: Any) -> None:
    """The process: reports once at the end; what it had found when it died is lost with it."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    files, found = seeds(), Found()
    with tempfile.TemporaryDirectory(dir=folder) as place, Gdcm() as gdcm:
        store = Store(Path(place))
        for number in share:
            at.value = number
            data = mutated(files, number)
            try:
                kind = _outcome(store, data, gdcm, Path(place, "mutated.dcm"))
            except Exception as exc:  # noqa: BLE001 - whatever escapes is the fault looked for
                kind = "escaped"
                found.wrong.append(f"mutation {number}: {type(exc).__name__}: {exc}")
            if kind.startswith("WRONG"):
                found.wrong.append(f"mutation {number}: {kind}")
            found.kinds[kind] += 1
    pipe.send(found)


def _outcome(store: Store, data: bytes, gdcm: Gdcm, path: Path) -> str:
    """Return what became of a file: refused, copied, confirmed, unconfirmed, or WRONG."""
    try:
        stored = store.add(data)
    except MalformedInstance:
        return "refused"
    series = store.prepare([stored])
    (instance,) = series.instances
    pack = store.open(series)
    try:
        if not instance.lossless_proven:
            same = pack.read_object(instance.sop_instance_uid) == data
            return "copied" if same else "WRONG: the copied object is not what was received"
        return _compared(pack, instance, data, gdcm, path)
    finally:
        store.image.delete(stored.record.path)
        store.web.delete(series.pack_path)
        store.web.delete(series.header_path)


def _compared(pack: Pack, instance: PreparedInstance, data: bytes, gdcm: Gdcm, path: Path) -> str:
    uid = instance.sop_instance_uid
    prepared = pack.instance(uid)
    ours = [
        registry.decode(pack.read_frame(uid, 1 + number), prepared)
        for number in range(prepared.frames)
    ]
    try:
        expected = expected_frames(data, gdcm, path)
    except _NOT_READ:
        expected = None
    if expected is None:
        return "unconfirmed"
    if len(expected) != len(ours):
        return f"WRONG: {len(ours)} frames, {len(expected)} expected"
    for number, (mine, other) in enumerate(zip(ours, expected, strict=True)):
        if not np.array_equal(mine, other):
            return f"WRONG: frame {number} of {prepared.transfer_syntax_uid} differs"
    return "confirmed"


def expected_frames(data: bytes, gdcm: Gdcm, path: Path) -> list[Array] | None:
    """Return the values of all samples by decoders that PREPARE does not use; None: they cannot.

    JPEG-LS and JPEG XL have no decoder that is not used: they only show that nothing else differs.
    """
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    uid = str(dataset.file_meta.TransferSyntaxUID)
    if "PixelData" not in dataset:
        return None
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    if uid in dicom.NATIVE:
        return _native(dataset, count, big=uid == dicom.EXPLICIT_VR_BE)
    codes = list(generate_frames(dataset.PixelData, number_of_frames=count))
    if len(codes) != count:
        return None  # it believed a damaged offset table
    if uid in _JPEG:
        frames = [_by_gdcm(dataset, code, gdcm, path) for code in codes]
        found = [_values(frame, dataset) for frame in frames if frame is not None]
        return found if len(found) == count else None
    if uid in _JPEG_2000:
        return [np.asarray(openjpeg.decode(code)) for code in codes]
    if uid == inbound.JPEG_XL_LOSSLESS:
        return [_values(imagecodecs.jpegxl_decode(code), dataset) for code in codes]
    return [_values(_cells(_raw(uid, code, dataset), dataset, uid), dataset) for code in codes]


def _by_gdcm(dataset: Dataset, code: bytes, gdcm: Gdcm, path: Path) -> Array | None:
    """One frame in a file of its own: the reader believes the first codestream for all of them."""
    dataset.PixelData = encapsulate([code])
    dataset.NumberOfFrames = 1
    dataset.save_as(path)
    frames = gdcm.frames(path)
    return None if frames is None else frames[0]


def _raw(uid: str, code: bytes, dataset: Dataset) -> bytes:
    if uid == inbound.DEFLATED_IMAGE_FRAME:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(code)
    if uid == dicom.ENCAPSULATED_UNCOMPRESSED:
        return code
    assert uid == dicom.RLE_LOSSLESS
    if dataset.BitsAllocated == 1:
        size = -(-dataset.Rows * dataset.Columns // 8)
        return bytes(_rle_decode_frame(code, 1, size, 1, 8))
    return bytes(
        _rle_decode_frame(
            code, dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.BitsAllocated
        )
    )


def _cells(raw: bytes, dataset: Dataset, uid: str, *, big: bool = False) -> Array:
    """Return rows x columns [x samples] of what lies in memory."""
    rows, columns, samples = dataset.Rows, dataset.Columns, dataset.get("SamplesPerPixel", 1)
    if dataset.BitsAllocated == 1:
        packed = np.frombuffer(raw, np.uint8)
        return np.unpackbits(packed, bitorder="little")[: rows * columns].reshape(rows, columns)
    size = dataset.BitsAllocated // 8
    flat = np.frombuffer(raw, f"{'>' if big else '<'}u{size}", rows * columns * samples)
    if samples == 1:
        return flat.reshape(rows, columns)
    if uid == dicom.RLE_LOSSLESS or dataset.get("PlanarConfiguration", 0) == 1:
        return np.moveaxis(flat.reshape(samples, rows, columns), 0, 2)
    return flat.reshape(rows, columns, samples)


def _native(dataset: Dataset, count: int, *, big: bool) -> list[Array] | None:
    pixels = dataset.Rows * dataset.Columns
    samples = dataset.get("SamplesPerPixel", 1)
    bits = pixels * samples * dataset.BitsAllocated
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        return None
    data = bytes(dataset.PixelData)
    if big and dataset.BitsAllocated <= 8 and dataset["PixelData"].VR == "OW":
        data = np.frombuffer(data, "u2").byteswap().tobytes()
    if dataset.BitsAllocated == 1 and samples == 1:
        flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        frames = flat[: count * pixels].reshape(count, dataset.Rows, dataset.Columns)
        return list(frames)
    if bits % 8 or dataset.BitsAllocated not in (8, 16, 32):
        return None
    size = bits // 8
    cells = (_cells(data[n * size : (n + 1) * size], dataset, "", big=big) for n in range(count))
    return [_values(one, dataset) for one in cells]


def _values(cells: Array, dataset: Dataset) -> Array:
    """Return the values in cells: Bits Stored of them up to High Bit, signed or not."""
    if dataset.BitsAllocated == 1:
        return cells
    depth = dataset.BitsStored
    wide = cells.astype(np.int64) & ((1 << dataset.BitsAllocated) - 1)
    wide = wide >> (dataset.HighBit + 1 - depth) & ((1 << depth) - 1)
    if dataset.PixelRepresentation == 1:
        wide -= (wide >> (depth - 1)) << depth
    return wide
